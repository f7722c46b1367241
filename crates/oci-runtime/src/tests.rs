use launch::plan::{
    FsOption, MountIds, MountPlan, MountSource, Namespace, PidNamespace, UserNamespace,
};
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
    let images =
        [ImageTree { path: "/run/pod/images/a".into(), lower: vec!["/l/2".into(), "/l/1".into()] }];
    let context = PlanContext {
        root: RootSource::Directory("/bundle/rootfs".into()),
        id: "id",
        bundle: Some("/bundle"),
        cgroup: &layout,
        default_cgroup: "/knarr/id",
        launcher_paths: &paths,
        image_trees: &images,
        in_pod,
        pod_pid: Some("/proc/7/ns/pid"),
        pod_user: Some("/run/pod/userns"),
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
    for (pointer, value, field) in [
        ("/linux/intelRdt", json!({"enableMonitoring": true}), "linux.intelRdt.enableMonitoring"),
        ("/vm", json!({"kernel": {"path": "/vmlinuz"}}), "vm"),
        ("/linux/sysctl", json!({"kernel.panic": "1"}), "linux.sysctl[kernel.panic]"),
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
        ("/linux/timeOffsets", json!({"monotonic": {"secs": 1}})),
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
fn a_bind_at_or_below_an_images_path_is_an_image_volume() {
    let source = |source: &str| {
        mounted(&json!({"destination": "/x", "source": source, "options": ["rbind", "ro"]}))
            .unwrap()
            .source
    };
    let image = |sub_path: &str| MountSource::Image {
        lower: vec!["/l/2".into(), "/l/1".into()],
        sub_path: sub_path.into(),
    };
    assert_eq!(source("/run/pod/images/a"), image(""));
    assert_eq!(source("/run/pod/images/a/models/x"), image("models/x"));
    let other = MountSource::Bind { path: "/run/pod/images/ab".into(), recursive: true };
    assert_eq!(source("/run/pod/images/ab"), other);
}

#[test]
fn hooks_are_planned_with_the_state_they_are_told() {
    let hook = |path: &str| json!({"path": path, "args": ["h", "x"], "env": ["A=1"], "timeout": 3});
    let spec = changed(
        "/hooks",
        json!({
            "prestart": [hook("/a")], "createRuntime": [hook("/b")],
            "createContainer": [{"path": "/c"}], "poststart": [hook("/d")], "poststop": [hook("/e")]
        }),
    );
    let hooks = planned(&spec, true).unwrap().hooks.unwrap();
    let paths = |list: &[launch::plan::HookPlan]| -> Vec<String> {
        list.iter().map(|hook| hook.path.clone()).collect()
    };
    assert_eq!(paths(&hooks.create_runtime), ["/a", "/b"]);
    assert_eq!(paths(&hooks.create_container), ["/c"]);
    assert_eq!(
        (paths(&hooks.poststart), paths(&hooks.poststop)),
        (vec!["/d".into()], vec!["/e".into()])
    );
    assert_eq!(
        (hooks.create_runtime[0].timeout_s, hooks.create_container[0].timeout_s),
        (Some(3), None)
    );
    assert_eq!(hooks.root, "/bundle/rootfs");
    let state: Value = serde_json::from_str(&format!("{}}}", hooks.state)).unwrap();
    let want = json!({"ociVersion": "1.0.2", "id": "id", "bundle": "/bundle", "annotations": {}});
    assert_eq!(state, want);
    assert_eq!(planned(&changed("/hooks", json!({"poststop": []})), true).unwrap().hooks, None);
    for wrong in [json!({"path": "relative"}), json!({"path": "/a", "timeout": 0})] {
        assert!(planned(&changed("/hooks", json!({"poststart": [wrong]})), true).is_err());
    }
}

#[test]
fn a_class_of_service_is_joined_and_an_exec_makes_none() {
    let rdt = json!({"closID": "gold", "l3CacheSchema": "L3:0=f"});
    let plan = planned(&changed("/linux/intelRdt", rdt.clone()), true).unwrap();
    let group = plan.cgroup.resctrl.unwrap();
    assert_eq!((group.path.as_str(), group.own), ("/sys/fs/resctrl/gold", false));
    assert_eq!(group.schemata, ["L3:0=f"]);
    let spec: Spec = serde_json::from_value(changed("/linux/intelRdt", rdt)).unwrap();
    let layout = layout();
    let context = PlanContext {
        root: RootSource::Empty,
        id: "id",
        bundle: None,
        cgroup: &layout,
        default_cgroup: "/knarr/id",
        launcher_paths: &[],
        image_trees: &[],
        in_pod: true,
        pod_pid: None,
        pod_user: None,
    };
    let request = ExecRequest { args: vec!["ps".into()], ..ExecRequest::default() };
    let joined = exec_plan(&spec, &request, &context).unwrap().cgroup.resctrl.unwrap();
    assert_eq!((joined.path.as_str(), joined.schemata.len()), ("/sys/fs/resctrl/gold", 0));
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

/// The sample in a user namespace of 2000 ids.
fn sample_with_users(namespace: &Value) -> Value {
    let mut spec = sample();
    spec["linux"]["namespaces"].as_array_mut().unwrap().push(namespace.clone());
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 2000}]);
    spec["linux"]["uidMappings"] = map.clone();
    spec["linux"]["gidMappings"] = map;
    spec
}

#[test]
fn user_namespaces_are_new_the_pods_or_anothers() {
    for (namespace, want) in [
        (json!({"type": "user"}), UserNamespace::New),
        (json!({"type": "user", "path": "/run/pod/userns"}), UserNamespace::Pod),
        (
            json!({"type": "user", "path": "/proc/9/ns/user"}),
            UserNamespace::Join("/proc/9/ns/user".into()),
        ),
    ] {
        let plan = planned(&sample_with_users(&namespace), true).unwrap();
        assert_eq!(plan.namespaces.user, want);
        assert_eq!(plan.process.host_uid(), 101_000);
    }
    let plan = planned(&sample(), true).unwrap();
    assert_eq!((plan.namespaces.user, plan.process.user_ids), (UserNamespace::Inherit, None));
}

#[test]
fn ids_that_are_not_mapped_are_refused_by_field() {
    let refused = |edit: &dyn Fn(&mut Value), field: &str| {
        let mut spec = sample_with_users(&json!({"type": "user"}));
        edit(&mut spec);
        let error = planned(&spec, true).unwrap_err().to_string();
        assert!(error.contains(field), "{field}: {error}");
    };
    refused(&|spec| spec["process"]["user"]["uid"] = json!(2000), "process.user.uid");
    refused(&|spec| spec["process"]["user"]["gid"] = json!(2000), "process.user.gid");
    refused(
        &|spec| spec["process"]["user"]["additionalGids"] = json!([5, 2000]),
        "process.user.additionalGids",
    );
    refused(
        &|spec| spec["linux"]["uidMappings"][0]["containerID"] = json!(1),
        "linux.uidMappings of container id 0",
    );
    refused(&|spec| spec["linux"]["gidMappings"] = json!([]), "linux.gidMappings");
    refused(&|spec| spec["linux"]["uidMappings"][0]["size"] = json!(0), "linux.uidMappings");
    // Its root lies where nobody in the namespace may look.
    let hook = json!({"createContainer": [{"path": "/bin/true"}]});
    refused(&|spec| spec["hooks"] = hook.clone(), "hooks.createContainer");
    refused(
        &|spec| {
            let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.pop();
        },
        "none without a user namespace",
    );
}

#[test]
fn mounts_are_mapped_as_their_options_and_mappings_say() {
    let map = json!([{"containerID": 0, "hostID": 70_000, "size": 10}]);
    let ids = |edit: Value, own_users: bool| {
        let mut mount = json!({"destination": "/x", "source": "/a", "options": ["rbind"]});
        mount.as_object_mut().unwrap().extend(edit.as_object().unwrap().clone());
        let mut spec =
            if own_users { sample_with_users(&json!({"type": "user"})) } else { sample() };
        spec["mounts"] = json!([mount]);
        planned(&spec, true).map(|mut plan| plan.mounts.remove(0).ids)
    };
    let mapped = json!({"uidMappings": map, "gidMappings": map});
    let own = ids(mapped.clone(), false).unwrap().unwrap();
    assert_eq!((own.maps.unwrap().host_uid(9), own.recursive), (Some(70_009), false));
    assert_eq!(ids(json!({}), true).unwrap(), None);
    let containers = ids(json!({"options": ["bind", "idmap"]}), true).unwrap();
    assert_eq!(containers, Some(MountIds { maps: None, recursive: false }));
    let recursive = ids(json!({"options": ["rbind", "idmap", "ridmap"]}), true).unwrap();
    assert_eq!(recursive, Some(MountIds { maps: None, recursive: true }));
    for (edit, own_users) in [
        (json!({"options": ["bind", "idmap"]}), false),
        (json!({"uidMappings": map}), true),
        (json!({"type": "tmpfs", "options": [], "uidMappings": map, "gidMappings": map}), true),
    ] {
        assert!(ids(edit.clone(), own_users).is_err(), "{edit}");
    }
}

#[test]
fn an_exec_has_the_containers_identity_and_joins_its_cgroup() {
    let spec: Spec = serde_json::from_value(sample()).unwrap();
    let layout = layout();
    let context = PlanContext {
        root: RootSource::Empty,
        id: "id",
        bundle: None,
        cgroup: &layout,
        default_cgroup: "/knarr/id",
        launcher_paths: &[],
        image_trees: &[],
        in_pod: true,
        pod_pid: None,
        pod_user: None,
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
