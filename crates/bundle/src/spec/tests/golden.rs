//! One row per field of a request about mounts, devices and limits: what stands in the spec.

use model::HugepageLimit;
use serde_json::{Value, json};

use super::*;

/// What a request says, where in the spec to look, what must stand there.
type Row = (&'static str, fn(&mut Case), &'static str, fn() -> Value);

fn check(rows: &[Row]) {
    for (name, change, pointer, want) in rows {
        let mut case = Case::new();
        change(&mut case);
        let spec = serde_json::to_value(case.spec()).unwrap();
        let found = spec.pointer(pointer).cloned().unwrap_or(Value::Null);
        assert_eq!(found, want(), "{name}: {pointer}");
    }
}

/// The requested mount is the only one five names deep.
const MOUNT: &str = "/mounts/10";

fn requested(case: &mut Case) -> &mut MountRequest {
    case.mount("/a/b/c/d/e")
}

#[test]
fn mounts() {
    fn bound(options: &[&str]) -> Value {
        json!({
            "destination": "/a/b/c/d/e", "type": "bind", "source": "/src", "options": options
        })
    }
    check(&[
        (
            "plain",
            |case| requested(case).readonly = false,
            MOUNT,
            || bound(&["rbind", "rprivate", "rw"]),
        ),
        (
            "readonly",
            |case| requested(case).readonly = true,
            MOUNT,
            || bound(&["rbind", "rprivate", "ro"]),
        ),
        (
            "recursive_read_only",
            |case| {
                let mount = requested(case);
                (mount.readonly, mount.recursive_read_only) = (true, true);
            },
            MOUNT,
            || bound(&["rbind", "rprivate", "rro"]),
        ),
        (
            "propagation HOST_TO_CONTAINER",
            |case| requested(case).propagation = MountPropagation::HostToContainer,
            MOUNT,
            || bound(&["rbind", "rslave", "rw"]),
        ),
        (
            "propagation BIDIRECTIONAL",
            |case| requested(case).propagation = MountPropagation::Bidirectional,
            MOUNT,
            || bound(&["rbind", "rshared", "rw"]),
        ),
        (
            "mount_options",
            |case| requested(case).options = vec!["noexec".into(), "nodev".into()],
            MOUNT,
            || bound(&["rbind", "rprivate", "rw", "noexec", "nodev"]),
        ),
        (
            "image",
            |case| {
                let image = ImageSpec::default();
                requested(case).source = MountSource::Image { image, sub_path: "d".into() };
            },
            MOUNT,
            || bound(&["rbind", "rprivate", "ro", "nosuid", "nodev"]),
        ),
    ]);
}

#[test]
fn propagation_of_the_root() {
    const ROOT: &str = "/linux/rootfsPropagation";
    check(&[
        ("private", |case| requested(case).readonly = false, ROOT, || Value::Null),
        (
            "slave",
            |case| requested(case).propagation = MountPropagation::HostToContainer,
            ROOT,
            || json!("rslave"),
        ),
        (
            "the stronger of two",
            |case| {
                requested(case).propagation = MountPropagation::HostToContainer;
                case.mount("/b").propagation = MountPropagation::Bidirectional;
            },
            ROOT,
            || json!("rshared"),
        ),
    ]);
}

#[test]
fn default_mounts() {
    fn named(place: &str, kind: &str, options: &[&str]) -> Value {
        json!({"destination": place, "type": kind, "source": kind, "options": options})
    }
    check(&[
        ("proc", |_| (), "/mounts/0", || named("/proc", "proc", &["nosuid", "noexec", "nodev"])),
        (
            "dev",
            |_| (),
            "/mounts/1",
            || named("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ),
        (
            "sys",
            |_| (),
            "/mounts/2",
            || named("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ),
        (
            "pts",
            |_| (),
            "/mounts/3/options",
            || json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        ),
        (
            "cgroup",
            |_| (),
            "/mounts/9",
            || {
                let options = ["nosuid", "noexec", "nodev", "relatime", "ro"];
                named("/sys/fs/cgroup", "cgroup", &options)
            },
        ),
        (
            "readonly_rootfs",
            |case| case.config.security.readonly_rootfs = true,
            "/root/readonly",
            || json!(true),
        ),
    ]);
}

#[test]
fn devices() {
    fn give(case: &mut Case, permissions: &str) {
        let node = HostDevice {
            path: "/dev/x".into(),
            kind: DeviceKind::Char,
            major: 10,
            minor: 7,
            mode: 0o640,
            uid: 1,
            gid: 2,
        };
        case.devices = vec![ResolvedDevice { node, permissions: permissions.into() }];
    }
    const RULES: &str = "/linux/resources/devices";
    check(&[
        ("none", |_| (), RULES, || json!([{"allow": false, "access": "rwm"}])),
        (
            "node",
            |case| give(case, "rw"),
            "/linux/devices",
            || {
                json!([{
                    "path": "/dev/x", "type": "c", "major": 10, "minor": 7, "fileMode": 0o640,
                    "uid": 1, "gid": 2
                }])
            },
        ),
        (
            "permissions",
            |case| give(case, "rw"),
            "/linux/resources/devices/1",
            || json!({"allow": true, "type": "c", "major": 10, "minor": 7, "access": "rw"}),
        ),
        (
            "no permissions",
            |case| give(case, ""),
            "/linux/resources/devices/1/access",
            || json!("rwm"),
        ),
        (
            "privileged",
            |case| {
                case.pod.security.privileged = true;
                case.config.security.privileged = true;
            },
            RULES,
            || json!([{"allow": true, "type": "a", "access": "rwm"}]),
        ),
    ]);
}

#[test]
fn limits() {
    const CPU: &str = "/linux/resources/cpu";
    const MEMORY: &str = "/linux/resources/memory";
    check(&[
        ("no cpu", |_| (), CPU, || Value::Null),
        (
            "cpu",
            |case| {
                let limits = &mut case.config.resources;
                (limits.cpu_period_us, limits.cpu_quota_us) = (100_000, 50_000);
                limits.cpu_shares = 512;
            },
            CPU,
            || json!({"period": 100_000, "quota": 50_000, "shares": 512}),
        ),
        (
            "cpu_quota -1",
            |case| case.config.resources.cpu_quota_us = -1,
            CPU,
            || json!({"quota": -1}),
        ),
        (
            "cpuset",
            |case| {
                let limits = &mut case.config.resources;
                (limits.cpuset_cpus, limits.cpuset_mems) = ("0-3".into(), "0".into());
            },
            CPU,
            || json!({"cpus": "0-3", "mems": "0"}),
        ),
        ("no memory", |_| (), MEMORY, || Value::Null),
        (
            "memory without a word about swap has none",
            |case| case.config.resources.memory_limit_bytes = 64,
            MEMORY,
            || json!({"limit": 64, "swap": 64}),
        ),
        (
            "memory and swap",
            |case| {
                let limits = &mut case.config.resources;
                (limits.memory_limit_bytes, limits.memory_swap_limit_bytes) = (64, 96);
            },
            MEMORY,
            || json!({"limit": 64, "swap": 96}),
        ),
        (
            "unlimited swap",
            |case| {
                let limits = &mut case.config.resources;
                (limits.memory_limit_bytes, limits.memory_swap_limit_bytes) = (64, -1);
            },
            MEMORY,
            || json!({"limit": 64, "swap": -1}),
        ),
        (
            "a host that cannot limit swap",
            |case| {
                case.host.swap_limit = false;
                case.config.resources.memory_limit_bytes = 64;
            },
            MEMORY,
            || json!({"limit": 64}),
        ),
        (
            "hugepage_limits",
            |case| {
                let page =
                    |size: &str, limit_bytes| HugepageLimit { page_size: size.into(), limit_bytes };
                case.config.resources.hugepage_limits = vec![page("1GB", 0), page("2MB", 4096)];
            },
            "/linux/resources/hugepageLimits",
            || json!([{"pageSize": "1GB", "limit": 0}, {"pageSize": "2MB", "limit": 4096}]),
        ),
        (
            "unified",
            |case| {
                let file = ("memory.high".to_owned(), "1".to_owned());
                case.config.resources.unified = StringMap::from([file]);
            },
            "/linux/resources/unified",
            || json!({"memory.high": "1"}),
        ),
        ("oom_score_adj", |_| (), "/process/oomScoreAdj", || json!(0)),
        (
            "oom_score_adj below 0",
            |case| case.config.resources.oom_score_adj = -997,
            "/process/oomScoreAdj",
            || json!(-997),
        ),
        ("pids are kubelet's", |_| (), "/linux/resources/pids", || Value::Null),
    ]);
}
