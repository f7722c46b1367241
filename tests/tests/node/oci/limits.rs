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
fn a_paused_container_that_is_killed_ends() -> Result<()> {
    with_runtime(|runtime| {
        let id = sleeper(runtime, |_| {})?;
        let pid = runtime.state(&id)?["pid"].clone();
        runtime.call(&["pause", &id])?.ok()?;
        runtime.call(&["kill", &id, "KILL"])?.ok()?;
        wait_ended(&pid)?;
        runtime.call(&["delete", &id])?.ok().map(drop)
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

#[test]
fn scheduling_disk_priority_and_personality_are_the_specifications() -> Result<()> {
    with_runtime(|runtime| {
        let command = "uname -m; ionice -p 1; cut -d' ' -f41 /proc/1/stat";
        let bundle = runtime.bundle("b", command, |spec| {
            spec["linux"]["personality"] = json!({"domain": "LINUX32"});
            spec["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
            spec["process"]["scheduler"] = json!({"policy": "SCHED_BATCH"});
        })?;
        let out = runtime.call(&["run", "-b", &bundle, &runtime.id("a")])?.ok()?;
        let lines: Vec<&str> = out.lines().collect();
        ensure!(lines == ["i686", "best-effort: prio 6", "3"], "{out}");
        Ok(())
    })
}

#[test]
fn a_user_namespace_has_its_own_root_whose_files_are_not_the_hosts() -> Result<()> {
    with_runtime(|runtime| {
        let command = "id -u; cat /proc/self/uid_map; touch /dev/shm/x && stat -c %u /dev/shm/x; \
                       echo x > /etc/passwd";
        let bundle = runtime.bundle("b", command, |spec| {
            let maps = json!([{"containerID": 0, "hostID": 300_000, "size": 1000}]);
            spec["linux"]["uidMappings"] = maps.clone();
            spec["linux"]["gidMappings"] = maps;
            if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
                list.push(json!({"type": "user"}));
            }
            spec["root"]["readonly"] = json!(false);
        })?;
        let said = runtime.call(&["run", "-b", &bundle, &runtime.id("a")])?;
        let words: Vec<&str> = said.out.split_whitespace().collect();
        ensure!(words == ["0", "0", "300000", "1000", "0"], "{said:?}");
        ensure!(said.code == 1 && said.err.contains("/etc/passwd: Permission denied"), "{said:?}");
        Ok(())
    })
}

#[test]
fn a_specification_may_list_devices_that_are_there_anyway() -> Result<()> {
    with_runtime(|runtime| {
        let bundle = runtime.bundle("b", "readlink /dev/ptmx; stat -c %t:%T /dev/null", |spec| {
            let device = |path: &str, minor: u32, major: u32| {
                json!({"path": path, "type": "c", "major": major, "minor": minor})
            };
            spec["linux"]["devices"] =
                json!([device("/dev/ptmx", 2, 5), device("/dev/null", 3, 1), device("/dev/kmsg", 11, 1)]);
        })?;
        let out = runtime.call(&["run", "-b", &bundle, &runtime.id("a")])?.ok()?;
        ensure!(out == "pts/ptmx\n1:3\n", "{out}");
        Ok(())
    })
}

#[test]
fn a_time_namespaces_clocks_are_ahead_for_all_processes_of_the_container() -> Result<()> {
    with_runtime(|runtime| {
        if !std::path::Path::new("/proc/self/ns/time").exists() {
            test_support::skip("this kernel has no time namespaces");
            return Ok(());
        }
        let id = sleeper(runtime, |spec| {
            if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
                list.push(json!({"type": "time"}));
            }
            spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 10_000_000}});
        })?;
        let pid = runtime.state(&id)?["pid"].to_string();
        let link = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/time"));
        ensure!(link(&pid)? != link("self")?, "it has the host's");
        let inside = runtime.call(&["exec", &id, "readlink", "/proc/self/ns/time"])?.ok()?;
        ensure!(inside.trim_end() == link(&pid)?.to_string_lossy(), "{inside}");
        let uptime = runtime.call(&["exec", &id, "cut", "-d.", "-f1", "/proc/uptime"])?.ok()?;
        ensure!(uptime.trim_end().parse::<u64>()? > 10_000_000, "{uptime}");
        Ok(())
    })
}
