//! Devices of the host that become a container's.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use test_support::oci::{Runtime, Said, with_runtime};

/// Makes a call in a network namespace of its own, after `before`, and shows what is there afterwards.
fn in_a_network(runtime: &Runtime, before: &str, words: &[&str]) -> Result<Said> {
    let script = format!("{before} && \"$0\" \"$@\"; code=$?; ip -o link >&2; exit $code");
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &script]).arg(runtime.program());
    let output = command.arg("--root").arg(runtime.root()).args(words).output();
    let output = output.context("run unshare")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap_or(256);
    Ok(Said { code, out: text(&output.stdout), err: text(&output.stderr) })
}

const DEVICE: &str = "ip link add kdev0 mtu 1300 address 02:00:00:00:00:07 type veth peer name kdev1 \
    && ip addr add 10.11.12.13/24 dev kdev0 && ip addr add fd00:1::2/64 dev kdev0 nodad \
    && ip link set kdev0 up && ip link set kdev1 up";

#[test]
fn a_device_moves_with_its_name_addresses_and_properties() -> Result<()> {
    with_runtime(|runtime| {
        for (name, users) in [("plain", false), ("users", true)] {
            let bundle = runtime.bundle(name, "ip addr show dev inside", |spec| {
                spec["linux"]["netDevices"] = json!({"kdev0": {"name": "inside"}});
                if users {
                    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
                    spec["linux"]["uidMappings"] = map.clone();
                    spec["linux"]["gidMappings"] = map;
                    if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
                        list.push(json!({"type": "user"}));
                    }
                }
            })?;
            if users {
                let status =
                    Command::new("chown").args(["-R", "100000:100000", &bundle]).status()?;
                ensure!(status.success());
            }
            let said = in_a_network(runtime, DEVICE, &["run", "-b", &bundle, &runtime.id(name)])?;
            ensure!(said.code == 0, "{name}: {said:?}");
            for word in ["mtu 1300", "02:00:00:00:00:07", "10.11.12.13/24", "fd00:1::2/64", "UP"] {
                ensure!(said.out.contains(word), "{name}: no {word}: {said:?}");
            }
            ensure!(!said.err.contains("kdev0@"), "it is still there: {said:?}");
        }
        Ok(())
    })
}

#[test]
fn devices_that_cannot_move_are_named_and_nothing_is_left() -> Result<()> {
    with_runtime(|runtime| {
        for (name, devices, word) in [
            ("missing", json!({"kdev9": {}}), "kdev9"),
            ("taken", json!({"kdev0": {"name": "lo"}}), "kdev0"),
            ("twice", json!({"kdev0": {"name": "x"}, "kdev1": {"name": "x"}}), "each name once"),
            ("path", json!({"kdev0": {"name": "../x"}}), "name of a network device"),
            ("long", json!({"kdev0": {"name": "sixteen-letters-"}}), "name of a network device"),
        ] {
            let bundle = runtime.bundle(name, "echo ran", |spec| {
                spec["linux"]["netDevices"] = devices.clone();
            })?;
            let said = in_a_network(runtime, DEVICE, &["run", "-b", &bundle, &runtime.id(name)])?;
            ensure!(said.code == 1 && said.err.contains(word), "{name}: {said:?}");
            ensure!(said.out.is_empty() && runtime.cgroups().is_empty(), "{name}: {said:?}");
        }
        let bundle = runtime.bundle("shared", "echo ran", |spec| {
            spec["linux"]["netDevices"] = json!({"kdev0": {}});
            if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
                list.retain(|namespace| namespace["type"] != "network");
            }
        })?;
        let said = in_a_network(runtime, DEVICE, &["run", "-b", &bundle, &runtime.id("shared")])?;
        ensure!(said.code == 1 && said.err.contains("linux.netDevices"), "{said:?}");
        Ok(())
    })
}
