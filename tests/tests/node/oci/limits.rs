//! Limits and where processes are.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use test_support::files::wait_for;
use test_support::node::PATIENCE;
use test_support::oci::{wait_ended, with_runtime};

use super::exec::sleeper;

#[test]
fn limits_of_the_specification_hold() -> Result<()> {
    with_runtime(|runtime| {
        let command = "for f in pids.max pids/pids.max; do cat /sys/fs/cgroup/$f 2>/dev/null; done; \
                       echo end";
        let bundle = runtime.bundle("b", command, |spec| {
            spec["linux"]["resources"]["pids"] = json!({"limit": 77});
        })?;
        let said = runtime.call(&["run", "-b", &bundle, &runtime.id("a")])?;
        let applied = !said.err.contains("linux.resources.pids");
        ensure!(said.code == 0 && (said.out == "77\nend\n") == applied, "{said:?}");
        Ok(())
    })
}

#[test]
fn devices_that_are_not_allowed_are_denied() -> Result<()> {
    with_runtime(|runtime| {
        let command = "echo x > /dev/null && mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg";
        let bundle = runtime.bundle("b", command, |spec| {
            spec["root"]["readonly"] = json!(false);
            for set in ["bounding", "effective", "permitted"] {
                spec["process"]["capabilities"][set] = json!(["CAP_MKNOD", "CAP_SYSLOG"]);
            }
        })?;
        let said = runtime.call(&["run", "-b", &bundle, &runtime.id("a")])?;
        ensure!(
            said.code == 1 && said.err.contains("/tmp/kmsg': Operation not permitted"),
            "{said:?}"
        );
        Ok(())
    })
}

#[test]
fn a_paused_container_stands_still_and_takes_no_commands() -> Result<()> {
    with_runtime(|runtime| {
        let id = sleeper(runtime, |_| {})?;
        let said = runtime.call(&["resume", &id])?;
        ensure!(said.code == 1 && said.err.contains("cannot resume"), "{said:?}");
        runtime.call(&["pause", &id])?.ok()?;
        ensure!(runtime.status(&id)? == "paused");
        let said = runtime.call(&["exec", &id, "true"])?;
        ensure!(said.code == 255 && said.err.contains("--ignore-paused"), "{said:?}");
        runtime.call(&["resume", &id])?.ok()?;
        ensure!(runtime.status(&id)? == "running");
        runtime.call(&["exec", &id, "true"])?.ok()?;
        // Deleting does not wait for somebody to resume it.
        runtime.call(&["pause", &id])?.ok()?;
        let pid = runtime.state(&id)?["pid"].clone();
        let said = runtime.call(&["delete", &id])?;
        ensure!(said.code == 1 && said.err.contains("paused"), "{said:?}");
        runtime.call(&["delete", "--force", &id])?.ok()?;
        wait_ended(&pid)
    })
}

#[test]
fn limits_are_changed_one_by_one_and_stay() -> Result<()> {
    with_runtime(|runtime| {
        let id = sleeper(runtime, |spec| {
            spec["linux"]["resources"]["pids"] = json!({"limit": 77});
        })?;
        let limit = |words: &[&str]| -> Result<Value> {
            runtime.call(words)?.ok()?;
            let event = runtime.call(&["events", "--stats", &id])?.ok()?;
            let event: Value = serde_json::from_str(&event)?;
            ensure!(event["type"] == "stats" && event["id"] == id.as_str(), "{event}");
            Ok(event["data"]["pids"].clone())
        };
        let first = limit(&["state", &id])?;
        if first["limit"].is_null() {
            test_support::skip("this host has no pids controller");
            return Ok(());
        }
        ensure!(first == json!({"current": 1, "limit": 77}), "{first}");
        ensure!(limit(&["update", "--pids-limit", "55", &id])?["limit"] == 55);
        // What is not named stays as it was last set.
        ensure!(limit(&["update", "--cpu-share", "512", &id])?["limit"] == 55);
        let file = runtime.dir().join("resources.json");
        std::fs::write(&file, json!({"pids": {"limit": 44}}).to_string())?;
        let path = file.to_str().unwrap_or_default();
        ensure!(limit(&["update", "-r", path, &id])?["limit"] == 44);
        ensure!(limit(&["update", "-r", path, "--pids-limit=-1", &id])?["limit"].is_null());
        let said = runtime.call(&["update", "--memory", "lots", &id])?;
        ensure!(said.code == 1 && said.err.contains("--memory: `lots`"), "{said:?}");
        Ok(())
    })
}

#[test]
fn events_end_with_the_container() -> Result<()> {
    with_runtime(|runtime| {
        let id = sleeper(runtime, |_| {})?;
        let out = runtime.dir().join("events");
        let mut events = runtime
            .command(&["events", "--interval", "1ms", &id])
            .stdout(std::fs::File::create(&out)?)
            .spawn()?;
        wait_for(&out, PATIENCE, |text| (text.lines().count() > 1).then_some(()))?;
        runtime.call(&["kill", &id, "KILL"])?.ok()?;
        let status = events.wait()?;
        ensure!(status.success(), "{status}");
        let said = runtime.call(&["events", "--stats", &id])?;
        ensure!(said.code == 1 && said.err.contains("container not running"), "{said:?}");
        Ok(())
    })
}
