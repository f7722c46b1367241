use launch::plan::RootSource;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory};

use super::*;

fn hierarchy(mountpoint: &str, controllers: &[&str]) -> CgroupHierarchy {
    CgroupHierarchy {
        mountpoint: mountpoint.into(),
        controllers: controllers.iter().map(|name| (*name).into()).collect(),
    }
}

fn v2(controllers: &[&str]) -> CgroupLayout {
    CgroupLayout::V2(hierarchy("/sys/fs/cgroup", controllers))
}

fn v1() -> CgroupLayout {
    CgroupLayout::V1 {
        hierarchies: vec![
            hierarchy("/sys/fs/cgroup/cpu,cpuacct", &["cpu", "cpuacct"]),
            hierarchy("/sys/fs/cgroup/memory", &["memory"]),
            hierarchy("/sys/fs/cgroup/devices", &["devices"]),
        ],
        unified: Some(hierarchy("/sys/fs/cgroup/unified", &[])),
    }
}

fn context(layout: &CgroupLayout) -> PlanContext<'_> {
    PlanContext {
        root: RootSource::Empty,
        id: "id",
        bundle: None,
        cgroup: layout,
        default_cgroup: "/knarr/id",
        launcher_paths: &[],
        image_trees: &[],
        in_pod: true,
        pod_pid: None,
        pod_user: None,
    }
}

fn limits() -> LinuxResources {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(1024)).set_quota(Some(50_000)).set_period(Some(100_000));
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(1 << 20)).set_swap(Some(3 << 20));
    let mut resources = LinuxResources::default();
    resources.set_cpu(Some(cpu)).set_memory(Some(memory));
    resources
}

fn linux(resources: LinuxResources, path: &str) -> Linux {
    let mut linux = Linux::default();
    linux.set_resources(Some(resources)).set_cgroups_path(Some(path.into()));
    linux
}

fn lines(settings: &[CgroupSetting]) -> Vec<String> {
    settings.iter().map(|setting| format!("{}={}", setting.file, setting.value)).collect()
}

#[test]
fn v2_gets_one_directory_with_every_limit() {
    let layout = v2(&["cpu", "memory", "pids"]);
    let (plan, notes) = create_plan(&linux(limits(), "/pod/id"), &context(&layout)).unwrap();
    let [group] = plan.groups.as_slice() else { panic!("{:?}", plan.groups) };
    assert_eq!(group.path, "/sys/fs/cgroup/pod/id");
    assert!(!group.join_late);
    assert_eq!(
        lines(&group.settings),
        ["cpu.weight=100", "cpu.max=50000 100000", "memory.swap.max=2097152", "memory.max=1048576"]
    );
    assert!(plan.device_program.is_some());
    assert_eq!(notes, []);
}

#[test]
fn v1_gets_a_directory_per_hierarchy_and_cpu_is_joined_late() {
    let layout = v1();
    let (plan, _) = create_plan(&linux(limits(), "/pod/id"), &context(&layout)).unwrap();
    let paths: Vec<&str> = plan.groups.iter().map(|group| group.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/sys/fs/cgroup/cpu,cpuacct/pod/id",
            "/sys/fs/cgroup/memory/pod/id",
            "/sys/fs/cgroup/devices/pod/id",
            "/sys/fs/cgroup/unified/pod/id"
        ]
    );
    assert_eq!(
        plan.groups.iter().map(|g| g.join_late).collect::<Vec<_>>(),
        [true, false, false, false]
    );
    assert_eq!(
        lines(&plan.groups[0].settings),
        ["cpu.shares=1024", "cpu.cfs_period_us=100000", "cpu.cfs_quota_us=50000"]
    );
    assert_eq!(
        lines(&plan.groups[1].settings),
        ["memory.limit_in_bytes=1048576", "memory.memsw.limit_in_bytes=3145728"]
    );
    assert!(plan.groups[2].settings[0].required);
    assert_eq!(plan.groups[3].hierarchy, Hierarchy::V2);
    assert_eq!(plan.device_program, None);
}

#[test]
fn a_missing_controller_is_noted_and_its_settings_left_out() {
    let layout = v2(&["cpu"]);
    let (plan, notes) = create_plan(&linux(limits(), "/pod/id"), &context(&layout)).unwrap();
    assert_eq!(lines(&plan.groups[0].settings), ["cpu.weight=100", "cpu.max=50000 100000"]);
    let missing = Note::ControllerMissing { controller: "memory", field: "linux.resources.memory" };
    assert_eq!(notes, [missing]);
}

#[test]
fn without_any_device_control_a_restricted_container_is_refused() {
    let layout = CgroupLayout::V1 {
        hierarchies: vec![hierarchy("/sys/fs/cgroup/memory", &["memory"])],
        unified: None,
    };
    let refused = create_plan(&linux(LinuxResources::default(), "/a"), &context(&layout));
    assert!(matches!(refused, Err(PlanError::Unsupported { .. })));
}

#[test]
fn zero_huge_page_limits_never_refuse_a_container() {
    let mut limit = LinuxHugepageLimit::default();
    limit.set_page_size("2MB".into());
    limit.set_limit(0);
    let mut resources = LinuxResources::default();
    resources.set_hugepage_limits(Some(vec![limit]));
    for layout in [v2(&[]), v2(&["hugetlb"])] {
        let (plan, notes) =
            create_plan(&linux(resources.clone(), "/a"), &context(&layout)).unwrap();
        assert!(plan.groups[0].settings.iter().all(|setting| !setting.required));
        assert_eq!(notes, []);
    }
}

#[test]
fn paths_that_leave_or_are_the_root_are_refused() {
    let layout = v1();
    for path in ["/", "/a/../..", "..", "/./", "a--b.slice:knarr:id"] {
        let linux = linux(LinuxResources::default(), path);
        assert!(create_plan(&linux, &context(&layout)).is_err(), "{path}");
    }
    let relative = create_plan(&linux(LinuxResources::default(), "a//b/"), &context(&layout));
    assert_eq!(relative.unwrap().0.groups[1].path, "/sys/fs/cgroup/memory/a/b");
    let mut none = linux(LinuxResources::default(), "/a");
    none.set_cgroups_path(None);
    let default = create_plan(&none, &context(&layout)).unwrap();
    assert_eq!(default.0.groups[1].path, "/sys/fs/cgroup/memory/knarr/id");
}

#[test]
fn raw_files_are_for_v2_and_stay_in_the_directory() {
    let with = |file: &str| {
        let mut resources = LinuxResources::default();
        resources.set_unified(Some([(file.to_owned(), "1".to_owned())].into()));
        linux(resources, "/a")
    };
    let (v1, v2) = (v1(), v2(&[]));
    assert!(create_plan(&with("memory.high"), &context(&v1)).is_err());
    let plan = create_plan(&with("memory.high"), &context(&v2)).unwrap().0;
    assert_eq!(lines(&plan.groups[0].settings), ["memory.high=1"]);
    for file in ["../memory.max", "cgroup.procs", "", "/etc/passwd"] {
        assert!(create_plan(&with(file), &context(&v2)).is_err(), "{file}");
    }
}

#[test]
fn a_growing_memory_limit_makes_room_before_it_grows() {
    let layout = v1();
    let grown = |limit: i64, swap: i64| {
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(limit)).set_swap(Some(swap));
        let mut resources = LinuxResources::default();
        resources.set_memory(Some(memory));
        resources
    };
    let files = |current: &LinuxResources, new: &LinuxResources| {
        let (plan, _) = update_plan(new, Some(current), "/a", &layout).unwrap();
        plan.groups[1].settings.iter().map(|s| s.file.clone()).collect::<Vec<_>>()
    };
    let (small, large) = (grown(1, 1), grown(2, 2));
    assert_eq!(files(&small, &large), ["memory.memsw.limit_in_bytes", "memory.limit_in_bytes"]);
    assert_eq!(files(&large, &small), ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]);
}

#[test]
fn a_swap_limit_below_the_memory_limit_is_refused() {
    let mut resources = limits();
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(2)).set_swap(Some(1));
    resources.set_memory(Some(memory));
    let layout = v2(&["memory"]);
    assert!(create_plan(&linux(resources, "/a"), &context(&layout)).is_err());
}

#[test]
fn block_io_goes_to_the_controller_there_is_or_is_noted() {
    let mut block_io = LinuxBlockIo::default();
    block_io.set_weight(Some(100));
    let mut resources = LinuxResources::default();
    resources.set_block_io(Some(block_io));
    let files = |layout: &CgroupLayout| {
        let (plan, notes) = create_plan(&linux(resources.clone(), "/a"), &context(layout)).unwrap();
        let settings = plan.groups.iter().flat_map(|group| &group.settings);
        let files: Vec<String> = settings
            .filter(|setting| setting.file.contains("weight"))
            .map(|setting| setting.file.clone())
            .collect();
        (files, notes)
    };
    assert_eq!(files(&v2(&["io"])), (vec!["io.bfq.weight".to_owned()], vec![]));
    let v1_with = |names: &[&str]| CgroupLayout::V1 {
        hierarchies: vec![
            hierarchy("/sys/fs/cgroup/blkio", names),
            hierarchy("/sys/fs/cgroup/devices", &["devices"]),
        ],
        unified: None,
    };
    assert_eq!(files(&v1_with(&["blkio"])), (vec!["blkio.bfq.weight".to_owned()], vec![]));
    let field = "linux.resources.blockIO";
    for (layout, controller) in [(v2(&["cpu"]), "io"), (v1_with(&["freezer"]), "blkio")] {
        assert_eq!(files(&layout), (vec![], vec![Note::ControllerMissing { controller, field }]));
    }
}

#[test]
fn negative_memory_is_no_limit_or_refused_on_both_versions() {
    for layout in [v2(&["memory"]), v1()] {
        for (value, fits) in [(-1, true), (-2, false), (i64::MIN, false)] {
            for field in 0..3 {
                let of = |number| (field == number).then_some(value);
                let mut memory = LinuxMemory::default();
                memory.set_limit(of(0)).set_swap(of(1)).set_reservation(of(2));
                let mut resources = LinuxResources::default();
                resources.set_memory(Some(memory));
                let planned = create_plan(&linux(resources, "/a"), &context(&layout));
                assert_eq!(planned.is_ok(), fits, "{value}: {planned:?}");
            }
        }
    }
}

#[test]
fn a_swap_limit_needs_a_memory_limit_on_both_versions() {
    for layout in [v2(&["memory"]), v1()] {
        for (limit, swap, fits) in [
            (None, Some(1), false),
            (Some(2), Some(1), false),
            (Some(-1), Some(1), false),
            (Some(2), Some(2), true),
            (Some(2), Some(-1), true),
            (None, Some(-1), true),
        ] {
            let mut memory = LinuxMemory::default();
            memory.set_limit(limit).set_swap(swap);
            let mut resources = LinuxResources::default();
            resources.set_memory(Some(memory));
            let planned = create_plan(&linux(resources, "/a"), &context(&layout));
            assert_eq!(planned.is_ok(), fits, "{limit:?} {swap:?}");
        }
    }
}
