//! Cgroups: made, set, joined, seen from inside, killed, removed.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use launch::plan::{
    CgroupDir, CgroupFile, CgroupPlan, CgroupSetting, ExecPlan, Hierarchy, LaunchPlan, MountSource,
    Namespace, ResctrlPlan,
};
use launch::{FailureKind, Running};
use model::{CgroupHierarchy, CgroupLayout};
use rustix::event::{PollFd, PollFlags, Timespec};
use sys::cgroup::{OomWatch, Version};
use sys::pidfd::Ended;

use crate::Case;
use crate::process::fresh;
use crate::world::{NODEV, NOEXEC, NOSUID, RO, World, bind, process};

pub(crate) const CASES: &[Case] = &[
    ("cgroups::limits_are_set_and_processes_join", limits_are_set_and_processes_join),
    ("cgroups::exec_joins_too", exec_joins_too),
    ("cgroups::the_view_is_the_containers_own", the_view_is_the_containers_own),
    ("cgroups::the_unified_view_is_a_cgroup2_of_its_own", the_unified_view),
    ("cgroups::a_refused_setting_is_a_warning_unless_required", settings),
    ("cgroups::the_fallback_is_written_where_the_file_is_missing", fallbacks),
    ("cgroups::a_resctrl_group_is_joined_by_the_first_process_and_execs", a_resctrl_group),
    ("cgroups::a_resctrl_group_of_its_own_goes_with_the_container", own_resctrl_group),
    ("cgroups::a_missing_resctrl_group_is_named", a_missing_resctrl_group),
    ("cgroups::a_failed_launch_removes_them", a_failed_launch_removes_them),
    ("cgroups::a_dropped_process_removes_them", a_dropped_process_removes_them),
    ("cgroups::all_processes_are_killed", all_processes_are_killed),
    ("cgroups::one_that_goes_meanwhile_has_nobody_to_kill", one_that_goes_meanwhile),
    ("cgroups::removal_takes_what_the_container_made", removal_takes_children),
    ("cgroups::a_device_program_denies", a_device_program_denies),
    ("cgroups::oom_kills_are_counted", oom_kills_are_counted),
    ("cgroups::the_oom_killers_visit_is_told", the_oom_killers_visit_is_told),
];

/// A plan in every hierarchy of this host, below a parent of the test's own.
fn cgroups(world: &World, name: &str) -> CgroupPlan {
    let layout = world.host(|| sys::cgroup::detect().unwrap());
    let id = std::process::id();
    let dir = |hierarchy: &CgroupHierarchy, kind: Hierarchy| CgroupDir {
        hierarchy: kind,
        mountpoint: hierarchy.mountpoint.clone(),
        path: format!("{}/knarr-launch-test-{id}/{name}", hierarchy.mountpoint),
        settings: Vec::new(),
        join_late: hierarchy.controllers.iter().any(|c| c == "cpu" || c == "cpuset"),
    };
    let groups = match &layout {
        CgroupLayout::V2(unified) => vec![dir(unified, Hierarchy::V2)],
        CgroupLayout::V1 { hierarchies, unified } => {
            let v1 = |h: &CgroupHierarchy| dir(h, Hierarchy::V1(h.controllers.clone()));
            let unified = unified.iter().map(|h| dir(h, Hierarchy::V2));
            hierarchies.iter().map(v1).chain(unified).collect()
        }
    };
    CgroupPlan { groups, ..CgroupPlan::default() }
}

fn setting(file: &str, value: &str, required: bool) -> CgroupSetting {
    CgroupSetting { file: file.to_owned(), value: value.to_owned(), required, fallback: None }
}

fn v1<'a>(plan: &'a mut CgroupPlan, controller: &str) -> Option<&'a mut CgroupDir> {
    plan.groups.iter_mut().find(|group| match &group.hierarchy {
        Hierarchy::V1(controllers) => controllers.iter().any(|c| c == controller),
        Hierarchy::V2 => false,
    })
}

fn parents(plan: &CgroupPlan) -> CgroupPlan {
    let mut plan = plan.clone();
    for group in &mut plan.groups {
        group.path = Path::new(&group.path).parent().unwrap().to_str().unwrap().to_owned();
    }
    plan
}

pub(crate) fn with_cgroups(world: &mut World, command: &str) -> LaunchPlan {
    let mut plan = world.plan(command);
    plan.cgroup = cgroups(world, "c1");
    world.owns(&parents(&plan.cgroup));
    plan
}

fn exist(world: &World, plan: &CgroupPlan) -> usize {
    world.host(|| plan.groups.iter().filter(|g| fs::exists(&g.path).unwrap()).count())
}

fn end(running: &Running) {
    sys::pidfd::kill(running.pidfd.as_fd()).unwrap();
    sys::pidfd::wait(running.pidfd.as_fd()).unwrap();
}

fn limits_are_set_and_processes_join(world: &mut World) {
    let mut plan = with_cgroups(world, "sleep 60");
    if let Some(memory) = v1(&mut plan.cgroup, "memory") {
        memory.settings = vec![setting("memory.limit_in_bytes", "33554432", true)];
    }
    if let Some(pids) = v1(&mut plan.cgroup, "pids") {
        pids.settings = vec![setting("pids.max", "50", true)];
    }
    let running = world.launch(&plan);
    let pid = running.pid;
    for group in &plan.cgroup.groups {
        let read = |file: &str| {
            world.host(|| fs::read_to_string(format!("{}/{file}", group.path)).unwrap())
        };
        assert_eq!(read("cgroup.procs"), format!("{}\n", pid.as_raw_nonzero()), "{}", group.path);
        for setting in &group.settings {
            assert_eq!(read(&setting.file).trim(), setting.value);
        }
    }
    assert_eq!(world.launcher.pids(&plan.cgroup).unwrap(), [pid]);
    end(&running);
    world.launcher.remove_cgroups(&plan.cgroup).unwrap();
    world.launcher.remove_cgroups(&plan.cgroup).unwrap();
    assert_eq!(exist(world, &plan.cgroup), 0);
}

fn exec_joins_too(world: &mut World) {
    let plan = with_cgroups(world, "sleep 60");
    let running = world.launch(&plan);
    let exec = ExecPlan {
        process: process("cat /proc/1/cgroup > /tmp/1; cat /proc/self/cgroup | diff - /tmp/1"),
        cgroup: plan.cgroup.clone(),
    };
    assert_eq!(world.try_exec(&exec, &running).unwrap().text(), "");
    end(&running);
}

fn the_view_is_the_containers_own(world: &mut World) {
    let mut plan = with_cgroups(
        world,
        "cat /proc/self/cgroup | cut -d: -f3 | sort -u; cd /sys/fs/cgroup; \
         find . -name cgroup.procs | wc -l; cat */cgroup.procs cgroup.procs 2>/dev/null | sort -u; \
         touch x; mkdir memory/x",
    );
    let mut view = bind("", "/sys/fs/cgroup", RO | NOSUID | NODEV | NOEXEC);
    view.source = MountSource::Cgroup;
    plan.mounts.push(view);
    let output = world.run(&plan);
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines[0], "/", "{output:?}");
    assert_eq!(lines[1], plan.cgroup.groups.len().to_string(), "{output:?}");
    assert!(lines.contains(&"1"), "{output:?}");
    assert!(output.stderr.contains("x: Read-only file system"), "{output:?}");
}

fn the_unified_view(world: &mut World) {
    for namespace in [Namespace::New, Namespace::Inherit] {
        let mut plan = with_cgroups(
            world,
            "cd /sys/fs/cgroup; grep ' /sys/fs/cgroup ' /proc/self/mountinfo | cut -d' ' -f4,6,8; \
             grep ^0:: /proc/self/cgroup | cut -d: -f3; mkdir x",
        );
        plan.cgroup.groups.retain(|group| group.hierarchy == Hierarchy::V2);
        let Some(group) = plan.cgroup.groups.first() else {
            println!("skipped: this host has no unified hierarchy");
            return;
        };
        let path = group.path.strip_prefix(&group.mountpoint).unwrap().to_owned();
        plan.namespaces.cgroup = namespace.clone();
        let mut view = bind("", "/sys/fs/cgroup", RO | NOSUID | NODEV | NOEXEC);
        view.source = MountSource::Cgroup;
        plan.mounts.push(view);
        let output = world.run(&plan);
        let expected = match namespace {
            Namespace::New => "/ ro,nosuid,nodev,noexec,relatime cgroup2\n/\n".to_owned(),
            _ => format!("/ ro,nosuid,nodev,noexec,relatime cgroup2\n{path}\n"),
        };
        assert_eq!(output.stdout, expected, "{output:?}");
        assert!(output.stderr.contains("Read-only"), "{output:?}");
        world.launcher.remove_cgroups(&plan.cgroup).unwrap();
        fresh(world);
    }
}

fn settings(world: &mut World) {
    let mut plan = with_cgroups(world, "true");
    plan.cgroup.groups[0].settings = vec![setting("nosuch.file", "1", false)];
    let running = world.launch(&plan);
    assert_eq!(running.warnings.len(), 1);
    assert_eq!(running.warnings[0].what, "nosuch.file 1");
    sys::pidfd::wait(running.pidfd.as_fd()).unwrap();
    world.launcher.remove_cgroups(&plan.cgroup).unwrap();
    fresh(world);
    plan.cgroup.groups[0].settings[0].required = true;
    let error = world.refused(&plan);
    assert_eq!(error.kind(), FailureKind::Cgroup);
    assert!(error.sentence().contains("/nosuch.file to 1"), "{}", error.sentence());
    assert_eq!(exist(world, &plan.cgroup), 0);
}

fn a_failed_launch_removes_them(world: &mut World) {
    for break_it in [
        (|plan: &mut LaunchPlan| plan.mounts.push(bind("/no/such", "/data", 0))) as fn(&mut _),
        |plan| plan.process.args = vec!["nosuch".to_owned()],
    ] {
        let mut plan = with_cgroups(world, "true");
        break_it(&mut plan);
        world.refused(&plan);
        assert_eq!(exist(world, &plan.cgroup), 0);
        assert_eq!(exist(world, &parents(&plan.cgroup)), 0);
        fresh(world);
    }
}

fn a_dropped_process_removes_them(world: &mut World) {
    let plan = with_cgroups(world, "true");
    let null = world.null();
    let null = null.as_fd();
    let io = launch::Io::Files { stdin: null, stdout: null, stderr: null };
    let prepared = world.launcher.prepare(&plan, io).unwrap();
    assert_eq!(exist(world, &plan.cgroup), plan.cgroup.groups.len());
    drop(prepared);
    assert_eq!(exist(world, &plan.cgroup), 0);
}

fn all_processes_are_killed(world: &mut World) {
    let mut plan = with_cgroups(world, "sleep 60 & sleep 60 & sleep 60 & wait");
    plan.namespaces.pid = launch::plan::PidNamespace::Inherit;
    let running = world.launch(&plan);
    // Orphans come to this process, which has to reap what it counts.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    while world.launcher.pids(&plan.cgroup).unwrap().len() < 4 {
        std::thread::yield_now();
    }
    world.launcher.kill_all(&plan.cgroup).unwrap();
    while rustix::process::wait(rustix::process::WaitOptions::empty()).is_ok() {}
    assert!(world.launcher.pids(&plan.cgroup).unwrap().is_empty());
    drop(running);
    world.launcher.remove_cgroups(&plan.cgroup).unwrap();
    world.launcher.kill_all(&plan.cgroup).unwrap();
}

/// systemd removes a scope as soon as it hears that nobody is in it.
fn one_that_goes_meanwhile(world: &mut World) {
    let plan = cgroups(world, "going");
    world.host(|| {
        for group in &plan.groups {
            let version = match group.hierarchy {
                Hierarchy::V1(_) => Version::V1 { cpuset: false },
                Hierarchy::V2 => Version::V2,
            };
            let (path, parent) = (&group.path, Path::new(&group.path).parent().unwrap());
            let comes_and_goes = || {
                let once = || fs::create_dir_all(path).and_then(|()| fs::remove_dir(path));
                i32::from(!(0..1000).all(|_| once().is_ok()))
            };
            // SAFETY: this process never makes a second thread.
            let other = unsafe {
                sys::process::clone_child(
                    sys::process::NewNamespaces::default(),
                    None,
                    comes_and_goes,
                )
            };
            let other = other.unwrap();
            let mut ended = [PollFd::new(&other.pidfd, PollFlags::IN)];
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            while rustix::event::poll(&mut ended, Some(&at_once)).unwrap() == 0 {
                sys::cgroup::kill_all(version, path, false).unwrap();
                assert!(!sys::cgroup::any_alive(path).unwrap());
            }
            assert_eq!(sys::pidfd::wait(other.pidfd.as_fd()).unwrap(), Ended::Exited(0));
            fs::remove_dir(parent).unwrap();
        }
    });
}

fn removal_takes_children(world: &mut World) {
    let plan = with_cgroups(world, "true");
    let running = world.launch(&plan);
    sys::pidfd::wait(running.pidfd.as_fd()).unwrap();
    world.host(|| {
        for group in &plan.cgroup.groups {
            fs::create_dir_all(format!("{}/a/b", group.path)).unwrap();
        }
    });
    world.launcher.remove_cgroups(&plan.cgroup).unwrap();
    assert_eq!(exist(world, &plan.cgroup), 0);
}

/// Denies every device: `mov r0, 0; exit`.
const DENY_ALL: [u8; 16] = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

fn a_device_program_denies(world: &mut World) {
    let mut plan = with_cgroups(world, "cat /dev/zero");
    plan.cgroup.groups.retain(|group| group.hierarchy == Hierarchy::V2);
    if plan.cgroup.groups.is_empty() {
        println!("skipped: this host has no unified hierarchy");
        return;
    }
    plan.cgroup.device_program = Some(DENY_ALL.to_vec());
    // mknod is denied too, so the nodes are the host's, bound.
    let output = world.run(&plan);
    assert!(output.stderr.contains("'/dev/zero': Operation not permitted"), "{output:?}");
    world.launcher.remove_cgroups(&plan.cgroup).unwrap();
    fresh(world);
    plan.cgroup.device_program = Some(vec![0; 16]);
    let error = world.refused(&plan);
    assert_eq!(error.kind(), FailureKind::Cgroup);
    assert!(error.sentence().starts_with("install the device filter on "), "{error}");
}

/// A plan with little memory; none on a host that does not limit it.
fn with_little_memory(world: &mut World, command: &str) -> Option<LaunchPlan> {
    let mut plan = with_cgroups(world, command);
    let unified = plan.cgroup.groups.iter().all(|group| group.hierarchy == Hierarchy::V2);
    let (memory, file) = if unified {
        (plan.cgroup.groups.first_mut(), "memory.max")
    } else {
        (v1(&mut plan.cgroup, "memory"), "memory.limit_in_bytes")
    };
    let Some(memory) = memory else {
        println!("skipped: this host has no memory controller");
        return None;
    };
    memory.settings = vec![setting(file, "16777216", true)];
    Some(plan)
}

fn oom_kills_are_counted(world: &mut World) {
    let Some(plan) = with_little_memory(world, "tail /dev/zero; echo $?") else { return };
    assert_eq!(world.run(&plan).text(), "137\n");
    assert_eq!(world.launcher.oom_kills(&plan.cgroup), Some(1));
}

fn the_oom_killers_visit_is_told(world: &mut World) {
    let Some(plan) = with_little_memory(world, "sleep 60") else { return };
    let running = world.launch(&plan);
    let watch = world.launcher.watch_oom(&plan.cgroup).unwrap();
    assert!(!is_told(&watch, 0), "nobody has come");
    let greedy =
        ExecPlan { process: process("tail /dev/zero; echo $?"), cgroup: plan.cgroup.clone() };
    assert_eq!(world.try_exec(&greedy, &running).unwrap().text(), "137\n");
    assert!(is_told(&watch, 10), "it has come and nobody says so");
    end(&running);
}

fn is_told(watch: &OomWatch, within_s: i64) -> bool {
    let flags = if watch.is_priority() { PollFlags::PRI } else { PollFlags::IN };
    let mut fds = [PollFd::new(watch, flags)];
    let limit = Timespec { tv_sec: within_s, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&limit)).unwrap();
    fds[0].revents().intersects(flags)
}

/// The files of both names exist in some hierarchies of any host.
fn fallbacks(world: &mut World) {
    let mut plan = with_cgroups(world, "sleep 60");
    let Some(group) = plan.cgroup.groups.first_mut() else { return };
    let dir = group.path.clone();
    let fallback = |value: &str| {
        Some(CgroupFile { file: "notify_on_release".to_owned(), value: value.to_owned() })
    };
    if matches!(group.hierarchy, Hierarchy::V2) {
        let max = CgroupFile { file: "cgroup.max.depth".to_owned(), value: "7".to_owned() };
        let missing = CgroupSetting { fallback: Some(max), ..setting("no.such", "1", true) };
        let unused = CgroupFile { file: "no.such".to_owned(), value: "9".to_owned() };
        let there = CgroupSetting {
            fallback: Some(unused),
            ..setting("cgroup.max.descendants", "5", true)
        };
        group.settings = vec![missing, there];
    } else {
        let missing = CgroupSetting { fallback: fallback("1"), ..setting("no.such", "1", true) };
        group.settings = vec![missing];
    }
    let running = world.launch(&plan);
    let read = |file: &str| world.host(|| fs::read_to_string(format!("{dir}/{file}")));
    match read("cgroup.max.depth") {
        Ok(depth) => {
            assert_eq!((depth.trim(), read("cgroup.max.descendants").unwrap().trim()), ("7", "5"))
        }
        Err(_) => assert_eq!(read("notify_on_release").unwrap().trim(), "1"),
    }
    end(&running);
}

/// A directory with the files of a group: the hardware for real ones is rare.
fn pretend_group(world: &World, name: &str, schemata: &str) -> String {
    let path = world.path(name);
    world.host(|| {
        fs::create_dir(&path).unwrap();
        fs::write(format!("{path}/tasks"), "").unwrap();
        fs::write(format!("{path}/schemata"), schemata).unwrap();
    });
    path
}

fn a_resctrl_group(world: &mut World) {
    let path = pretend_group(world, "gold", "L3:0=ff;1=f\n");
    let tasks = |world: &World| world.host(|| fs::read_to_string(format!("{path}/tasks")).unwrap());
    let mut plan = world.plan("sleep 60");
    let group = ResctrlPlan { path: path.clone(), schemata: Vec::new(), own: false };
    plan.cgroup.resctrl = Some(group.clone());
    let running = world.launch(&plan);
    // The kernel takes 0 for the writer itself.
    assert_eq!(tasks(world), "0");
    world.host(|| fs::write(format!("{path}/tasks"), "").unwrap());
    let exec = ExecPlan { process: process("true"), cgroup: plan.cgroup.clone() };
    world.try_exec(&exec, &running).unwrap().text();
    assert_eq!(tasks(world), "0");
    end(&running);
    world.launcher.remove_cgroups(&plan.cgroup).unwrap();
    assert!(world.host(|| fs::exists(&path).unwrap()), "a class outlives its containers");
    fresh(world);
    // One that says the same already is joined, another is not touched.
    plan.cgroup.resctrl =
        Some(ResctrlPlan { schemata: vec!["L3:0=00ff".to_owned()], ..group.clone() });
    world.run(&plan_of(world, &plan, "true")).text();
    fresh(world);
    plan.cgroup.resctrl = Some(ResctrlPlan { schemata: vec!["L3:0=1".to_owned()], ..group });
    let error = world.refused(&plan_of(world, &plan, "true"));
    assert_eq!(error.step, launch::Step::ResctrlSet);
    assert!(error.sentence().contains("L3:0=1"), "{}", error.sentence());
}

fn plan_of(world: &World, like: &LaunchPlan, command: &str) -> LaunchPlan {
    LaunchPlan { cgroup: like.cgroup.clone(), ..world.plan(command) }
}

fn own_resctrl_group(world: &mut World) {
    let path = world.path("own");
    let group = ResctrlPlan { path: path.clone(), schemata: vec!["L3:0=f".to_owned()], own: true };
    let mut plan = world.plan("true");
    plan.cgroup.resctrl = Some(group);
    // Outside resctrl a new directory has no files, so writing fails; it is gone again.
    let error = world.refused(&plan);
    assert_eq!((error.step, error.kind()), (launch::Step::ResctrlSet, FailureKind::Cgroup));
    assert!(!world.host(|| fs::exists(&path).unwrap()));
    world.host(|| fs::create_dir(&path).unwrap());
    world.launcher.remove_cgroups(&plan.cgroup).unwrap();
    assert!(!world.host(|| fs::exists(&path).unwrap()));
    world.launcher.remove_cgroups(&plan.cgroup).unwrap();
}

fn a_missing_resctrl_group(world: &mut World) {
    let mut plan = world.plan("true");
    let path = "/sys/fs/resctrl/no-such-class".to_owned();
    plan.cgroup.resctrl =
        Some(ResctrlPlan { path: path.clone(), schemata: Vec::new(), own: false });
    let error = world.refused(&plan);
    assert_eq!((error.step, error.subject), (launch::Step::ResctrlJoin, path));
}
