use launch::plan::{FsOption, MountPlan, MountSource, Namespace, PidNamespace};
use model::CgroupHierarchy;
use serde_json::{Value, json};

use super::*;

fn layout() -> CgroupLayout {
    CgroupLayout::V2(CgroupHierarchy { mountpoint: "/sys/fs/cgroup".into(), controllers: vec![] })
}

fn sample() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": true},
        "process": {
            "user": {"uid": 1000, "gid": 1000, "additionalGids": [1000, 5]},
            "args": ["/bin/true"],
            "env": ["A=1", "B=2"],
            "cwd": "/work",
            "capabilities": {"bounding": ["CAP_CHOWN", "CAP_BPF"]},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}],
            "oomScoreAdj": -5
        },
        "mounts": [],
        "linux": {
            "cgroupsPath": "/pod/id",
            "namespaces": [
                {"type": "mount"},
                {"type": "pid"},
                {"type": "network", "path": "/run/netns/a"},
                {"type": "ipc", "path": "/proc/7/ns/ipc"},
                {"type": "uts", "path": "/proc/7/ns/uts"},
                {"type": "cgroup"}
            ]
        }
    })
}

/// The sample with the value at `pointer` replaced (objects on the way must exist).
fn changed(pointer: &str, value: Value) -> Value {
    let mut spec = sample();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    spec.pointer_mut(parent).unwrap()[key] = value;
    spec
}

fn planned(spec: &Value, in_pod: bool) -> Result<LaunchPlan, PlanError> {
    let spec: Spec = serde_json::from_value(spec.clone()).unwrap();
    let layout = layout();
    let paths = ["/run/pod/shm".to_owned()];
    let context = PlanContext {
        root: RootSource::Directory("/bundle/rootfs".into()),
        bundle: Some("/bundle"),
        cgroup: &layout,
        default_cgroup: "/knarr/id",
        launcher_paths: &paths,
        in_pod,
        pod_pid: Some("/proc/7/ns/pid"),
    };
    plan(&spec, &context).map(|planned| planned.plan)
}

fn mounted(mount: &Value) -> Result<MountPlan, PlanError> {
    planned(&changed("/mounts", json!([mount])), true).map(|mut plan| plan.mounts.remove(0))
}

#[test]
fn a_plain_spec_becomes_a_plan() {
    let plan = planned(&sample(), true).unwrap();
    assert_eq!(plan.process.args, ["/bin/true"]);
    assert_eq!((plan.process.uid, plan.process.groups.as_slice()), (1000, &[1000, 5][..]));
    assert_eq!(plan.process.capabilities.bounding, 1 | 1 << 39);
    assert_eq!((plan.process.rlimits[0].resource, plan.process.rlimits[0].hard), (7, 128));
    assert_eq!(plan.process.oom_score_adj, Some(-5));
    assert!(plan.root.readonly);
    assert_eq!(plan.process.seccomp, None);
}

#[test]
fn in_a_pod_the_pods_namespaces_are_the_launchers_own() {
    let pod = planned(&sample(), true).unwrap().namespaces;
    assert_eq!(
        (&pod.net, &pod.ipc, &pod.uts),
        (&Namespace::Inherit, &Namespace::Inherit, &Namespace::Inherit)
    );
    assert_eq!((pod.pid, pod.cgroup), (PidNamespace::New, Namespace::New));
    let alone = planned(&sample(), false).unwrap().namespaces;
    assert_eq!(alone.net, Namespace::Join("/run/netns/a".into()));
}

#[test]
fn pid_namespaces_come_from_the_pod_another_container_or_the_host() {
    let pid = |namespaces: Value| {
        let spec = changed("/linux/namespaces", namespaces);
        planned(&spec, true).unwrap().namespaces.pid
    };
    let path = |path: &str| json!([{"type": "mount"}, {"type": "pid", "path": path}]);
    assert_eq!(pid(path("/proc/7/ns/pid")), PidNamespace::Pod);
    assert_eq!(pid(path("/proc/9/ns/pid")), PidNamespace::Join("/proc/9/ns/pid".into()));
    assert_eq!(pid(json!([{"type": "mount"}])), PidNamespace::Inherit);
}

#[test]
fn what_is_not_executed_is_refused_by_name() {
    let hook = json!({"poststop": [{"path": "/bin/true"}]});
    let namespaces = |kind: &str| json!([{"type": "mount"}, {"type": kind}]);
    for (pointer, value, field) in [
        ("/hooks", hook, "hooks"),
        ("/linux/intelRdt", json!({}), "linux.intelRdt"),
        ("/linux/personality", json!({"domain": "LINUX32"}), "linux.personality"),
        ("/linux/memoryPolicy", json!({"mode": "MPOL_DEFAULT"}), "linux.memoryPolicy"),
        ("/linux/namespaces", namespaces("user"), "linux.namespaces[user]"),
        ("/linux/namespaces", namespaces("time"), "linux.namespaces[time]"),
        (
            "/linux/uidMappings",
            json!([{"hostID": 1, "containerID": 0, "size": 1}]),
            "linux.uidMappings",
        ),
        ("/linux/mountLabel", json!("system_u:object_r:x_t:s0"), "linux.mountLabel"),
        ("/process/scheduler", json!({"policy": "SCHED_OTHER"}), "process.scheduler"),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE"}), "process.ioPriority"),
        ("/linux/sysctl", json!({"kernel.panic": "1"}), "linux.sysctl[kernel.panic]"),
        ("/linux/resources", json!({"blockIO": {"weight": 10}}), "linux.resources.blockIO"),
    ] {
        let refused = planned(&changed(pointer, value), true);
        assert_eq!(refused, Err(PlanError::unsupported(field)), "{pointer}");
    }
}

#[test]
fn wrong_values_are_refused() {
    for (pointer, value) in [
        ("/process/args", json!([])),
        ("/process/args", json!(["/bin/a\0b"])),
        ("/process/cwd", json!("relative")),
        ("/process/oomScoreAdj", json!(1001)),
        ("/process/rlimits", json!([{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}])),
        ("/linux/rootfsPropagation", json!("sideways")),
        ("/linux/maskedPaths", json!(["proc/kcore"])),
        ("/linux/namespaces", json!([{"type": "mount"}, {"type": "pid"}, {"type": "pid"}])),
        ("/linux/namespaces", json!([{"type": "mount", "path": "/proc/1/ns/mnt"}])),
        ("/linux/cgroupsPath", json!("/a/../..")),
        ("/hostname", json!("elsewhere")),
        ("/linux/sysctl", json!({"net..": "1"})),
    ] {
        assert!(planned(&changed(pointer, value), true).is_err(), "{pointer}");
    }
}

#[test]
fn sysctls_are_set_only_in_namespaces_not_shared_with_the_host() {
    let mut spec = changed("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    assert_eq!(planned(&spec, true).unwrap().sysctls[0].name, "net.ipv4.ip_forward");
    spec["linux"]["namespaces"] = json!([{"type": "mount"}]);
    assert!(planned(&spec, true).is_err());
}

#[test]
fn options_are_sorted_into_attributes_and_file_system_options() {
    let mount = mounted(&json!({
        "destination": "/dev//x/", "type": "tmpfs", "source": "shm",
        "options": ["nosuid", "strictatime", "rslave", "mode=755", "tmpcopyup", "lazytime"]
    }))
    .unwrap();
    assert_eq!(mount.target, "/dev/x");
    assert_eq!((mount.attr_set, mount.attr_clear, mount.attr_recursive), (0x22, 0x70, false));
    assert_eq!(mount.propagation, Propagation::Slave);
    let option =
        |key: &str, value: Option<&str>| FsOption { key: key.into(), value: value.map(Into::into) };
    let options = vec![option("mode", Some("755")), option("lazytime", None)];
    assert_eq!(
        mount.source,
        MountSource::New { fstype: "tmpfs".into(), source: "shm".into(), options, copy_up: true }
    );
}

#[test]
fn of_contrary_options_the_last_counts() {
    let attrs = |options: Value| {
        let mount = json!({"destination": "/x", "type": "tmpfs", "options": options});
        let mount = mounted(&mount).unwrap();
        (mount.attr_set, mount.attr_clear)
    };
    assert_eq!(attrs(json!(["ro", "rw"])), (0, 1));
    assert_eq!(attrs(json!(["rw", "ro"])), (1, 0));
    assert_eq!(attrs(json!(["noatime", "relatime"])), (0, 0x70));
}

#[test]
fn binds_name_a_host_path_the_bundles_or_the_launchers() {
    let source = |source: &str, options: Value| {
        mounted(&json!({"destination": "/x", "source": source, "options": options})).unwrap().source
    };
    let bind = |path: &str, recursive| MountSource::Bind { path: path.into(), recursive };
    assert_eq!(source("/data", json!(["rbind", "rw"])), bind("/data", true));
    assert_eq!(source("data", json!(["bind"])), bind("/bundle/data", false));
    let shm = MountSource::Launcher { path: "/run/pod/shm".into() };
    assert_eq!(source("/run/pod/shm", json!(["rbind"])), shm);
}

#[test]
fn recursive_read_only_reaches_submounts() {
    let bind =
        |options: Value| mounted(&json!({"destination": "/x", "source": "/a", "options": options}));
    let mount = bind(json!(["rbind", "rprivate", "rro", "nosuid"])).unwrap();
    assert_eq!((mount.attr_set, mount.attr_clear, mount.attr_recursive), (3, 0, true));
    assert!(matches!(bind(json!(["rbind", "rro", "exec"])), Err(PlanError::Unsupported { .. })));
}

#[test]
fn mounts_that_make_no_sense_are_refused() {
    for mount in [
        json!({"destination": "/", "type": "tmpfs"}),
        json!({"destination": "/a/../b", "type": "tmpfs"}),
        json!({"destination": "/x"}),
        json!({"destination": "/x", "options": ["bind"]}),
        json!({"destination": "/x", "source": "/a", "options": ["bind", "size=1"]}),
        json!({"destination": "/x", "source": "/a", "options": ["bind", "remount"]}),
        json!({"destination": "/x", "type": "proc", "options": ["tmpcopyup"]}),
        json!({"destination": "/x", "source": "/a", "options": ["bind", "idmap"]}),
    ] {
        assert!(mounted(&mount).is_err(), "{mount}");
    }
}

#[test]
fn an_exec_has_the_containers_identity_and_joins_its_cgroup() {
    let spec: Spec = serde_json::from_value(sample()).unwrap();
    let layout = layout();
    let context = PlanContext {
        root: RootSource::Empty,
        bundle: None,
        cgroup: &layout,
        default_cgroup: "/knarr/id",
        launcher_paths: &[],
        in_pod: true,
        pod_pid: None,
    };
    let request = ExecRequest {
        args: vec!["ps".into()],
        env: vec!["B=3".into(), "C=4".into()],
        cwd: None,
        terminal: true,
    };
    let exec = exec_plan(&spec, &request, &context).unwrap();
    let env: Vec<String> =
        exec.process.env.into_iter().map(|e| String::from_utf8(e.0).unwrap()).collect();
    assert_eq!(env, ["A=1", "B=3", "C=4", "TERM=xterm"]);
    assert_eq!((exec.process.uid, exec.process.cwd.as_str()), (1000, "/work"));
    assert!(exec.process.terminal);
    assert_eq!(exec.cgroup.groups[0].path, "/sys/fs/cgroup/pod/id");
    assert!(exec.cgroup.groups[0].settings.is_empty());
    assert_eq!(exec.cgroup.device_program, None);
}

#[test]
fn standard_devices_are_left_to_the_launcher() {
    let devices = json!([
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3},
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o600}
    ]);
    let plan = planned(&changed("/linux/devices", devices), true).unwrap();
    let [fuse] = plan.devices.as_slice() else { panic!("{:?}", plan.devices) };
    assert_eq!((fuse.path.as_str(), fuse.mode), ("/dev/fuse", 0o600));
}
