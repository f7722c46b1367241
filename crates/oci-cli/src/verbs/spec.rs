//! `spec`: a specification to begin with.

use std::fs::File;
use std::io::Write as _;

use serde_json::{Value, json};

use super::state::to_text;
use crate::args::SpecArgs;
use crate::error::{At as _, OciError};

pub(crate) fn run(args: &SpecArgs) -> Result<(), OciError> {
    let own_ids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let own_ids = Some(own_ids);
    let path = args.bundle.join("config.json");
    let mut file = File::create_new(&path).at("make", &path)?;
    // Where the host has one tree a container sees its own part of it as the root.
    let v2 = sys::cgroup::detect().is_ok_and(|layout| layout.is_v2());
    let spec = specification(own_ids.filter(|_| args.rootless), v2);
    let text = format!("{}\n", to_text(&spec));
    file.write_all(text.as_bytes()).at("write", &path)
}

/// A shell in `rootfs`, with little that it may do, for a host with cgroup v1 or `v2`. With `ids`, a user and
/// a group, it is for a user who is root in a namespace of his own.
pub fn specification(ids: Option<(u32, u32)>, v2: bool) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mut spec = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm",
            ],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "knarr",
        "mounts": mounts(),
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"},
                {"type": "network"},
                {"type": "ipc"},
                {"type": "uts"},
                {"type": "mount"},
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
                "/sys/firmware", "/sys/devices/virtual/powercap",
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
            ],
        },
    });
    if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut().filter(|_| v2) {
        namespaces.push(json!({"type": "cgroup"}));
    }
    if let Some(ids) = ids {
        for_a_user(&mut spec, ids);
    }
    spec
}

fn mounts() -> Value {
    let mount = |to: &str, kind: &str, options: &[&str]| json!({"destination": to, "type": kind, "source": kind, "options": options});
    let quiet = ["nosuid", "noexec", "nodev"];
    json!([
        mount("/proc", "proc", &quiet),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/shm", "tmpfs", &[&quiet[..], &["mode=1777", "size=65536k"]].concat()),
        mount("/dev/mqueue", "mqueue", &quiet),
        mount("/sys", "sysfs", &[&quiet[..], &["ro"]].concat()),
        mount("/sys/fs/cgroup", "cgroup", &[&quiet[..], &["relatime", "ro"]].concat()),
    ])
}

/// What root alone may have is left out; the user is root in a namespace of its own.
fn for_a_user(spec: &mut Value, (uid, gid): (u32, u32)) {
    let one = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
    let linux = &mut spec["linux"];
    linux["uidMappings"] = one(uid);
    linux["gidMappings"] = one(gid);
    linux["resources"] = Value::Null;
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({"type": "user"}));
    }
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
        for mount in mounts {
            if let Some(options) = mount["options"].as_array_mut() {
                // Group 5 is nobody in there.
                options.retain(|option| option != "gid=5");
            }
            if mount["destination"] == "/sys" {
                // A user's namespaces have no network of their own to show. The cgroups below are mounts of their
                // own, and some may be the user's to write to.
                mount["type"] = json!("none");
                mount["source"] = json!("/sys");
                mount["options"] = json!(["rbind", "nosuid", "noexec", "nodev", "rro"]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Spec;

    #[test]
    fn both_forms_are_specifications() {
        let ids = Some((1000, 1000));
        for (ids, v2) in [(None, false), (None, true), (ids, false), (ids, true)] {
            let spec: Spec = serde_json::from_value(specification(ids, v2)).unwrap();
            let namespaces = spec.linux().as_ref().unwrap().namespaces().as_ref().unwrap();
            let cgroup = oci_spec::runtime::LinuxNamespaceType::Cgroup;
            assert_eq!(namespaces.iter().any(|one| one.typ() == cgroup), v2);
            assert_eq!(spec.root().as_ref().unwrap().path().to_str(), Some("rootfs"));
            let users = spec.linux().as_ref().unwrap().uid_mappings().is_some();
            assert_eq!(users, ids.is_some());
        }
    }

    #[test]
    fn what_is_there_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let args = SpecArgs { bundle: dir.path().to_owned(), rootless: false };
        run(&args).unwrap();
        let error = run(&args).unwrap_err();
        assert!(model::chain(&error).contains("exists"), "{error}");
    }
}
