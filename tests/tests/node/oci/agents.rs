//! Seccomp filters that ask an agent.

use std::fs::File;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec};
use serde_json::{Value, json};
use test_support::files::wait_for;
use test_support::node::PATIENCE;
use test_support::oci::{ConsoleSocket, Runtime, with_runtime};

/// Asks the agent when a directory is made.
fn asking(socket: &ConsoleSocket, spec: &mut Value, no_new_privileges: bool) {
    spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
    spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": socket.path(),
        "listenerMetadata": "mine \"here\"",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
    });
}

fn agent(runtime: &Runtime) -> Result<ConsoleSocket> {
    ConsoleSocket::listen(runtime.dir().join("agent"))
}

/// Blocks until a process asks.
fn wait_asked(listener: &File) -> Result<()> {
    let limit = Timespec { tv_sec: i64::try_from(PATIENCE.as_secs())?, tv_nsec: 0 };
    let mut ready = [PollFd::new(listener, PollFlags::IN)];
    ensure!(rustix::event::poll(&mut ready, Some(&limit))? > 0, "nobody asks");
    Ok(())
}

const MAKES: &str = "mkdir /tmp/made; echo done";

#[test]
fn the_agent_gets_the_listener_and_the_state_and_decides() -> Result<()> {
    with_runtime(|runtime| {
        let socket = agent(runtime)?;
        for (name, no_new_privileges) in [("with", true), ("without", false)] {
            let bundle = runtime.bundle(name, MAKES, |spec| {
                asking(&socket, spec, no_new_privileges);
                spec["annotations"] = json!({"a": "b"});
            })?;
            let id = runtime.id(name);
            let mut run = runtime
                .command(&["run", "-b", &bundle, &id])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            let (listener, text) = socket.master()?;
            let told: Value = serde_json::from_str(&text).context(text)?;
            ensure!(told["fds"] == json!(["seccompFd"]), "{told}");
            ensure!(told["metadata"] == "mine \"here\"", "{told}");
            ensure!(told["state"]["id"] == id.as_str(), "{told}");
            ensure!(told["state"]["bundle"] == bundle.as_str(), "{told}");
            ensure!(told["state"]["annotations"] == json!({"a": "b"}), "{told}");
            ensure!(told["state"]["pid"] == told["pid"] && told["pid"].is_i64(), "{told}");
            wait_asked(&listener)?;
            ensure!(run.try_wait()?.is_none(), "it did not wait for the answer");
            // Nobody answers any more: the call is as if it were not there.
            drop(listener);
            let output = run.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.stdout == b"done\n" && said.contains("not implemented"), "{said}");
        }
        Ok(())
    })
}

#[test]
fn who_starts_a_container_and_who_enters_it_tells_the_agent() -> Result<()> {
    with_runtime(|runtime| {
        let socket = agent(runtime)?;
        let bundle = runtime.bundle("b", "echo up; sleep 100000", |spec| {
            asking(&socket, spec, false);
        })?;
        let id = runtime.id("a");
        runtime.leave(&["create", "-b", &bundle, &id])?;
        let first = runtime.state(&id)?["pid"].clone();
        runtime.leave(&["start", &id])?;
        let (_listener, text) = socket.master()?;
        let told: Value = serde_json::from_str(&text)?;
        ensure!(told["pid"] == first && told["state"]["status"] == "created", "{told}");
        let streams = runtime.dir().join("streams");
        wait_for(&streams, PATIENCE, |text| text.contains("up").then_some(()))?;

        let exec =
            runtime.command(&["exec", &id, "mkdir", "/tmp/made"]).stderr(Stdio::piped()).spawn()?;
        let (listener, text) = socket.master()?;
        let told: Value = serde_json::from_str(&text)?;
        ensure!(told["state"]["pid"] == first && told["state"]["status"] == "running", "{told}");
        ensure!(told["pid"] != first, "{told}");
        wait_asked(&listener)?;
        drop(listener);
        ensure!(exec.wait_with_output()?.status.code() == Some(1));
        Ok(())
    })
}

#[test]
fn without_the_agent_nothing_runs_and_nothing_is_left() -> Result<()> {
    with_runtime(|runtime| {
        let gone = agent(runtime)?;
        let path = gone.path().to_owned();
        let bundle = runtime.bundle("b", "echo ran", |spec| asking(&gone, spec, true))?;
        drop(gone);
        let id = runtime.id("a");
        let said = runtime.call(&["run", "-b", &bundle, &id])?;
        ensure!(said.code == 1 && said.err.contains(&path), "{said:?}");
        ensure!(!said.out.contains("ran"), "{said:?}");
        ensure!(runtime.call(&["list", "-q"])?.ok()?.is_empty() && runtime.cgroups().is_empty());
        runtime.leave(&["create", "-b", &bundle, &id])?;
        let said = runtime.leave_with(&["start", &id])?;
        ensure!(said.code == 1 && said.err.contains(&path), "{said:?}");
        ensure!(!runtime.streams()?.contains("ran"), "it ran all the same");
        runtime.call(&["delete", "--force", &id])?.ok()?;
        Ok(())
    })
}

#[test]
fn filters_that_cannot_ask_are_refused_by_name() -> Result<()> {
    with_runtime(|runtime| {
        let notify = "SCMP_ACT_NOTIFY";
        let rule = json!([{"names": ["mkdir"], "action": notify}]);
        for (name, profile, word) in [
            ("all", json!({"defaultAction": notify, "listenerPath": "/x"}), "default action"),
            (
                "nobody",
                json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rule}),
                "listenerPath",
            ),
            (
                "relative",
                json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rule, "listenerPath": "x"}),
                "absolute path",
            ),
        ] {
            let bundle =
                runtime.bundle(name, "true", |spec| spec["linux"]["seccomp"] = profile.clone())?;
            let said = runtime.call(&["run", "-b", &bundle, &runtime.id(name)])?;
            ensure!(said.code == 1 && said.err.contains(word), "{name}: {said:?}");
        }
        // Where nothing asks it does not matter who would be asked.
        let bundle = runtime.bundle("unasked", "echo ran", |spec| {
            spec["linux"]["seccomp"] =
                json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/nowhere"});
        })?;
        let out = runtime.call(&["run", "-b", &bundle, &runtime.id("unasked")])?.ok()?;
        ensure!(out == "ran\n", "{out}");
        Ok(())
    })
}
