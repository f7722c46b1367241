//! Verbs in states they are not for, and what is broken around a container.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal};
use serde_json::json;
use test_support::oci::{ConsoleSocket, Runtime, wait_ended, with_runtime};

use super::exec::sleeper;

fn without_pid_namespace(spec: &mut serde_json::Value) {
    if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
        list.retain(|namespace| namespace["type"] != "pid");
    }
}

#[test]
fn no_signal_asks_whether_a_container_runs() -> Result<()> {
    with_runtime(|runtime| {
        let id = sleeper(runtime, |_| {})?;
        runtime.call(&["kill", &id, "0"])?.ok()?;
        let pid = runtime.state(&id)?["pid"].clone();
        runtime.call(&["kill", &id, "KILL"])?.ok()?;
        wait_ended(&pid)?;
        let said = runtime.call(&["kill", &id, "0"])?;
        ensure!(said.code == 1 && said.err.contains("container not running"), "{said:?}");
        for signal in ["65", "-1", "SIGNONE"] {
            let said = runtime.call(&["kill", &id, signal])?;
            ensure!(said.code != 0, "{signal}: {said:?}");
        }
        Ok(())
    })
}

/// Its processes, its first one among them, in the host's PID namespace.
fn processes(runtime: &Runtime, id: &str) -> Result<Vec<serde_json::Value>> {
    Ok(serde_json::from_str(&runtime.call(&["ps", "--format", "json", id])?.ok()?)?)
}

#[test]
fn what_a_dead_first_process_has_left_is_killed_and_deleted() -> Result<()> {
    with_runtime(|runtime| {
        for (name, words) in [("kill", &["kill"][..]), ("delete", &["delete", "--force"][..])] {
            let command = "sleep 100000 & sleep 100000 & wait";
            let bundle = runtime.bundle(name, command, without_pid_namespace)?;
            let id = runtime.id(name);
            runtime.leave(&["run", "-d", "-b", &bundle, &id])?;
            let first = runtime.state(&id)?["pid"].clone();
            let pid = first.as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
            let all = loop {
                let all = processes(runtime, &id)?;
                if all.len() == 3 {
                    break all;
                }
            };
            rustix::process::kill_process(pid.context("no pid")?, Signal::KILL)?;
            wait_ended(&first)?;
            ensure!(runtime.status(&id)? == "stopped");
            let mut call = words.to_vec();
            call.push(&id);
            call.extend((name == "kill").then_some("KILL"));
            runtime.call(&call)?.ok()?;
            for pid in &all {
                wait_ended(pid)?;
            }
            if name == "kill" {
                let said = runtime.call(&["kill", &id, "KILL"])?;
                ensure!(said.code == 1 && said.err.contains("not running"), "{said:?}");
                runtime.call(&["delete", &id])?.ok()?;
            }
        }
        Ok(())
    })
}

/// Where a host has v1 hierarchies: the freezer's, else the unified one.
fn freezer() -> PathBuf {
    let v1 = Path::new("/sys/fs/cgroup/freezer");
    if v1.is_dir() { v1.to_owned() } else { PathBuf::from("/sys/fs/cgroup") }
}

/// A process that joins it would never come to be.
#[test]
fn a_cgroup_that_is_frozen_is_refused() -> Result<()> {
    with_runtime(|runtime| {
        let group = freezer().join(runtime.id("cold"));
        fs::create_dir(&group)?;
        let (file, on, off) = if group.join("freezer.state").exists() {
            ("freezer.state", "FROZEN", "THAWED")
        } else {
            ("cgroup.freeze", "1", "0")
        };
        if !group.join(file).exists() {
            fs::remove_dir(&group)?;
            test_support::skip("this host has no freezer");
            return Ok(());
        }
        fs::write(group.join(file), on)?;
        let path = format!("/{}", runtime.id("cold"));
        let bundle =
            runtime.bundle("b", "true", |spec| spec["linux"]["cgroupsPath"] = json!(path))?;
        let said = runtime.call(&["run", "-b", &bundle, &runtime.id("a")]);
        fs::write(group.join(file), off)?;
        let said = said?;
        ensure!(said.code == 1 && said.err.contains("frozen"), "{said:?}");
        fs::remove_dir(&group)?;
        ensure!(runtime.call(&["list", "-q"])?.ok()?.is_empty());
        Ok(())
    })
}

#[test]
fn a_console_socket_that_is_gone_ends_it_and_leaves_nothing() -> Result<()> {
    with_runtime(|runtime| {
        let bundle =
            runtime.bundle("b", "echo up", |spec| spec["process"]["terminal"] = json!(true))?;
        let gone = ConsoleSocket::listen(runtime.dir().join("gone"))?;
        let path = gone.path().to_owned();
        drop(gone);
        let id = runtime.id("a");
        for verb in ["create", "run"] {
            let mut words = vec![verb, "-b", &bundle, "--console-socket", &path];
            words.extend((verb == "run").then_some("--detach"));
            words.push(&id);
            let said = runtime.leave_with(&words)?;
            ensure!(said.code == 1 && said.err.contains(&path), "{verb}: {said:?}");
            ensure!(runtime.call(&["list", "-q"])?.ok()?.is_empty());
            ensure!(runtime.cgroups().is_empty(), "{:?}", runtime.cgroups());
        }
        let id = sleeper(runtime, |_| {})?;
        let before = processes(runtime, &id)?.len();
        let said =
            runtime.call(&["exec", "-d", "-t", "--console-socket", &path, &id, "sleep", "9"])?;
        ensure!(said.code == 255 && said.err.contains(&path), "{said:?}");
        ensure!(processes(runtime, &id)?.len() == before, "it is left");
        Ok(())
    })
}

#[test]
fn a_damaged_state_is_named_by_every_verb_and_hides_no_other_container() -> Result<()> {
    with_runtime(|runtime| {
        let good = sleeper(runtime, |_| {})?;
        let bundle = runtime.bundle("b", "sleep 100000", |_| {})?;
        let id = runtime.id("bad");
        runtime.leave(&["run", "-d", "-b", &bundle, &id])?;
        let dir = runtime.root().join(&id);
        for (file, text) in
            [("state.json", "{\"format\":1"), ("state.json", ""), ("config.json", "[]")]
        {
            let path = dir.join(file);
            let whole = fs::read(&path)?;
            fs::write(&path, text)?;
            for verb in ["state", "pause", "events", "start"] {
                let said = runtime.call(&[verb, &id])?;
                ensure!(said.code == 1 && said.err.contains(file), "{verb} {file}: {said:?}");
            }
            let said = runtime.call(&["exec", &id, "true"])?;
            ensure!(said.code == 255 && said.err.contains(file), "{said:?}");
            let list = runtime.call(&["list"])?;
            ensure!(list.code == 0 && list.out.contains(&good), "{list:?}");
            ensure!(list.err.contains(file), "the damage is not told: {list:?}");
            fs::write(&path, whole)?;
        }
        ensure!(runtime.status(&id)? == "running");
        // A file in the place of a directory, and a directory of nobody's.
        fs::write(runtime.root().join(runtime.id("file")), "")?;
        let said = runtime.call(&["state", &runtime.id("file")])?;
        ensure!(said.code == 1, "{said:?}");
        fs::remove_file(runtime.root().join(runtime.id("file")))?;
        fs::create_dir(runtime.root().join(runtime.id("empty")))?;
        let said = runtime.call(&["state", &runtime.id("empty")])?;
        ensure!(said.code == 1 && said.err.contains("does not exist"), "{said:?}");
        runtime.call(&["delete", "--force", &runtime.id("empty")])?.ok()?;
        Ok(())
    })
}

/// Also where it is not the id that the cgroup is called by.
#[test]
fn of_a_damaged_container_force_leaves_no_process_and_no_cgroup() -> Result<()> {
    with_runtime(|runtime| {
        let specification: &[&str] = &["config.json"];
        let all = ["config.json", "state.json"];
        for (number, files) in [specification, &all[1..], &all].into_iter().enumerate() {
            for named in [true, false] {
                if named && files.len() > 1 {
                    // Nobody knows that name any more.
                    continue;
                }
                let id = runtime.id(&format!("{number}{named}"));
                let path = format!("/{}", runtime.id(&format!("cg{number}")));
                let bundle = runtime.bundle(&id, "sleep 100000 & sleep 100000", |spec| {
                    if named {
                        spec["linux"]["cgroupsPath"] = json!(path);
                    }
                })?;
                runtime.leave(&["run", "-d", "-b", &bundle, &id])?;
                let pid = runtime.state(&id)?["pid"].clone();
                ensure!(!runtime.cgroups().is_empty(), "there is nothing to be left");
                for file in files {
                    fs::write(runtime.root().join(&id).join(file), "{\"")?;
                }
                let said = runtime.call(&["delete", &id])?;
                ensure!(said.code == 1 && said.err.contains(".json"), "{said:?}");
                runtime.call(&["delete", "--force", &id])?.ok()?;
                wait_ended(&pid)?;
                ensure!(runtime.cgroups().is_empty(), "{files:?}: {:?}", runtime.cgroups());
                let said = runtime.call(&["state", &id])?;
                ensure!(said.code == 1 && said.err.contains("does not exist"), "{said:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn what_verbs_are_not_for_is_said_and_changes_nothing() -> Result<()> {
    with_runtime(|runtime| {
        let bundle = runtime.bundle("b", "sleep 100000", |_| {})?;
        let id = runtime.id("a");
        runtime.leave(&["create", "-b", &bundle, &id])?;
        let said = runtime.call(&["resume", &id])?;
        ensure!(said.code == 1 && said.err.contains("cannot resume"), "{said:?}");
        runtime.call(&["start", &id])?.ok()?;
        let pid = runtime.state(&id)?["pid"].clone();
        runtime.call(&["kill", &id, "KILL"])?.ok()?;
        wait_ended(&pid)?;
        for words in [&["pause"][..], &["resume"], &["start"], &["update", "--pids-limit", "5"]] {
            let mut call = words.to_vec();
            call.push(&id);
            let said = runtime.call(&call)?;
            ensure!(said.code == 1 && said.err.contains("stopped"), "{words:?}: {said:?}");
        }
        ensure!(runtime.status(&id)? == "stopped");
        let schema = ["update", "--l3-cache-schema", "L3:0=f", &id];
        let said = runtime.call(&schema)?;
        ensure!(said.code == 1, "{said:?}");
        runtime.call(&["delete", &id])?.ok()?;
        let said = runtime.call(&["delete", &id])?;
        ensure!(said.code == 1 && said.err.contains("does not exist"), "{said:?}");
        let id = sleeper(runtime, |_| {})?;
        let said = runtime.call(&["update", "--mem-bw-schema", "MB:0=20", &id])?;
        ensure!(said.code == 1 && said.err.contains("linux.intelRdt"), "{said:?}");
        Ok(())
    })
}
