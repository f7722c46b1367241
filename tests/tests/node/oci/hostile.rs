//! Specifications that ask for the absurd, and containers that watch the runtime at its work.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use test_support::files::wait_for;
use test_support::node::PATIENCE;
use test_support::oci::with_runtime;

/// Changes a specification.
type Change = fn(&mut Value);

fn with_users(spec: &mut Value) {
    if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
        list.push(json!({"type": "user"}));
    }
    for kind in ["uidMappings", "gidMappings"] {
        spec["linux"][kind] = json!([{"containerID": 0, "hostID": 100_000, "size": 10}]);
    }
}

fn add(list: &mut Value, entry: Value) {
    if let Some(list) = list.as_array_mut() {
        list.push(entry);
    }
}

/// What is wrong, and the word by which it is called.
const ABSURD: &[(&str, Change)] = &[
    ("process.user.uid", |spec| {
        with_users(spec);
        spec["process"]["user"]["uid"] = json!(5000);
    }),
    ("additionalGids", |spec| {
        with_users(spec);
        spec["process"]["user"]["additionalGids"] = json!([5000]);
    }),
    ("linux.uidMappings", |spec| {
        with_users(spec);
        spec["linux"]["uidMappings"][0]["size"] = json!(4_294_967_295_u32);
    }),
    ("oomScoreAdj", |spec| spec["process"]["oomScoreAdj"] = json!(5000)),
    ("process.cwd", |spec| spec["process"]["cwd"] = json!("relative")),
    ("process.env", |spec| spec["process"]["env"] = json!(["A=b\u{0}c"])),
    ("process.args", |spec| spec["process"]["args"] = json!([])),
    ("host name", |spec| spec["hostname"] = json!("x".repeat(100))),
    ("cgroupsPath", |spec| spec["linux"]["cgroupsPath"] = json!("/../../up")),
    ("memory", |spec| spec["linux"]["resources"]["memory"] = json!({"limit": -5})),
    ("RLIMIT_NONE", |spec| {
        spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NONE", "soft": 1, "hard": 1}]);
    }),
    ("namespaces", |spec| add(&mut spec["linux"]["namespaces"], json!({"type": "pid"}))),
    ("/etc/hostname", |spec| {
        spec["hostname"] = json!("");
        spec["linux"]["namespaces"] = json!([
            {"type": "mount"}, {"type": "network", "path": "/etc/hostname"},
        ]);
    }),
    ("devices", |spec| {
        spec["linux"]["devices"] =
            json!([{"path": "../../dev/up", "type": "c", "major": 1, "minor": 3}]);
    }),
    ("devices", |spec| {
        spec["linux"]["devices"] =
            json!([{"path": "/dev/x", "type": "c", "major": -1, "minor": 1_000_000_000}]);
    }),
    ("maskedPaths", |spec| spec["linux"]["maskedPaths"] = json!(["../../etc"])),
    ("readonlyPaths", |spec| spec["linux"]["readonlyPaths"] = json!(["../../etc"])),
    ("kernel.core_pattern", |spec| {
        spec["linux"]["sysctl"] = json!({"kernel.core_pattern": "|/bin/sh"});
    }),
    ("net/../kernel", |spec| {
        spec["linux"]["sysctl"] = json!({"net/../kernel/core_pattern": "|/bin/sh"});
    }),
    ("net....kernel", |spec| {
        spec["linux"]["sysctl"] = json!({"net....kernel.core_pattern": "|/bin/sh"});
    }),
    ("SCMP_ACT_NONE", |spec| {
        spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_NONE"});
    }),
    ("closID", |spec| spec["linux"]["intelRdt"] = json!({"closID": "../../up"})),
    ("destination", |spec| {
        add(
            &mut spec["mounts"],
            json!({"destination": "/tmp/../../up", "type": "tmpfs", "source": "tmpfs"}),
        );
    }),
    ("config.json is not an OCI spec", |spec| {
        let deep = (0..300).fold(json!(1), |inner, _| json!({"a": inner}));
        spec["linux"]["resources"]["unified"] = deep;
    }),
];

#[test]
fn the_absurd_is_refused_by_name_and_leaves_nothing() -> Result<()> {
    with_runtime(|runtime| {
        let bundle = runtime.bundle("b", "true", |_| {})?;
        let config = runtime.dir().join("b/config.json");
        let whole: Value = serde_json::from_slice(&fs::read(&config)?)?;
        let id = runtime.id("a");
        let mut wrong = Vec::new();
        for (word, change) in ABSURD {
            let mut spec = whole.clone();
            change(&mut spec);
            fs::write(&config, spec.to_string())?;
            let said = runtime.call(&["run", "-b", &bundle, &id])?;
            if said.code != 1 || !said.err.contains(word) {
                wrong.push((word, said));
            }
            ensure!(!runtime.root().join(&id).exists(), "{word}: state is left");
            ensure!(runtime.cgroups().is_empty(), "{word}: {:?}", runtime.cgroups());
        }
        ensure!(wrong.is_empty(), "{wrong:#?}");
        Ok(())
    })
}

/// CVE-2016-9962, CVE-2019-5736: who is exec'd is in the container for a moment before it is the
/// container's program, and its files and its program are looked for in that moment.
#[test]
fn a_container_sees_nothing_of_the_hosts_in_what_is_executed_in_it() -> Result<()> {
    with_runtime(|runtime| {
        let watch = "echo up; while :; do for f in /proc/[0-9]*/exe /proc/[0-9]*/cwd \
                     /proc/[0-9]*/root /proc/[0-9]*/fd/*; do readlink $f; done >> /tmp/seen; done";
        let bundle = runtime.bundle("b", watch, |spec| spec["root"]["readonly"] = json!(false))?;
        let id = runtime.id("a");
        runtime.leave(&["run", "-d", "-b", &bundle, &id])?;
        let streams = runtime.dir().join("streams");
        wait_for(&streams, PATIENCE, |text| text.contains("up").then_some(()))?;
        for _ in 0..40 {
            runtime.call(&["exec", &id, "true"])?.ok()?;
        }
        let seen = fs::read_to_string(runtime.dir().join("b/rootfs/tmp/seen"))?;
        ensure!(!seen.is_empty(), "nobody has looked");
        for link in seen.lines().filter(|link| *link != streams.to_string_lossy()) {
            let inner = ["/bin/", "/tmp/seen", "/proc", "pipe:", "/dev/null"];
            ensure!(link == "/" || inner.iter().any(|known| link.starts_with(known)), "{link}");
        }
        Ok(())
    })
}
