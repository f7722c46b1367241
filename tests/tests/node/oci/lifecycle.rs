//! From `create` to `delete`, and what is left when something goes wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, ensure};
use serde_json::json;
use test_support::files::wait_for;
use test_support::node::PATIENCE;
use test_support::oci::{script, wait_ended, with_runtime};

fn number(file: &str) -> Result<serde_json::Value> {
    Ok(serde_json::from_str(&fs::read_to_string(file)?)?)
}

/// A shell that says it is there and ends when asked to.
const WAITS: &str = "trap 'echo asked; exit 5' TERM; echo up; while :; do sleep 1000 & wait; done";

#[test]
fn a_container_is_created_started_killed_and_deleted() -> Result<()> {
    with_runtime(|runtime| {
        let bundle = runtime.bundle("b", WAITS, |_| {})?;
        let id = runtime.id("a");
        let pid_file = runtime.dir().join("pid");
        let pid_file = pid_file.to_str().unwrap_or_default();
        runtime.leave(&["create", "--bundle", &bundle, "--pid-file", pid_file, &id])?;
        let state = runtime.state(&id)?;
        ensure!(state["status"] == "created" && state["id"] == id.as_str(), "{state}");
        ensure!(state["bundle"] == bundle.as_str(), "{state}");
        ensure!(state["rootfs"] == format!("{bundle}/rootfs"), "{state}");
        ensure!(number(pid_file)? == state["pid"], "{state}");
        ensure!(!runtime.streams()?.contains("up"), "it runs already");

        runtime.leave(&["start", &id])?;
        wait_for(&runtime.dir().join("streams"), PATIENCE, |text| {
            text.contains("up").then_some(())
        })?;
        ensure!(runtime.status(&id)? == "running");
        let said = runtime.call(&["start", &id])?;
        ensure!(said.code == 1 && said.err.contains("cannot start"), "{said:?}");
        let said = runtime.call(&["delete", &id])?;
        ensure!(said.code == 1 && said.err.contains("not stopped: running"), "{said:?}");

        runtime.call(&["kill", &id])?.ok()?;
        wait_ended(&state["pid"])?;
        ensure!(runtime.streams()?.ends_with("asked\n"), "{}", runtime.streams()?);
        let state = runtime.state(&id)?;
        ensure!(state["status"] == "stopped" && state["pid"] == 0, "{state}");
        let said = runtime.call(&["kill", &id, "KILL"])?;
        ensure!(said.code == 1 && said.err.contains("container not running"), "{said:?}");
        runtime.call(&["delete", &id])?.ok()?;
        let said = runtime.call(&["state", &id])?;
        ensure!(said.code == 1 && said.err.contains("does not exist"), "{said:?}");
        Ok(())
    })
}

#[test]
fn a_container_that_was_not_started_is_deleted_without_force() -> Result<()> {
    with_runtime(|runtime| {
        let bundle = runtime.bundle("b", "echo up", |_| {})?;
        let id = runtime.id("a");
        runtime.leave(&["create", "-b", &bundle, &id])?;
        let pid = runtime.state(&id)?["pid"].clone();
        ensure!(!runtime.cgroups().is_empty(), "it has no cgroup");
        runtime.call(&["delete", &id])?.ok()?;
        wait_ended(&pid)?;
        ensure!(runtime.streams()?.is_empty(), "its program ran");
        Ok(())
    })
}

/// Its process is the first of a PID namespace, to which signals without a handler do not get.
#[test]
fn a_container_that_was_not_started_ends_at_a_signal() -> Result<()> {
    with_runtime(|runtime| {
        let command = "grep SigCgt /proc/self/status; kill -TERM $$; sleep 100000";
        let bundle = runtime.bundle("b", command, |_| {})?;
        for signal in ["TERM", "INT", "SIGHUP", "USR1", "SIGRTMIN+3"] {
            let id = runtime.id(&signal.replace('+', "-"));
            runtime.leave(&["create", "-b", &bundle, &id])?;
            let pid = runtime.state(&id)?["pid"].clone();
            // These end nobody.
            for harmless in ["WINCH", "CHLD", "CONT"] {
                runtime.call(&["kill", &id, harmless])?.ok()?;
            }
            ensure!(runtime.status(&id)? == "created");
            runtime.call(&["kill", &id, signal])?.ok()?;
            wait_ended(&pid)?;
            let said = runtime.call(&["start", &id])?;
            ensure!(said.code == 1 && said.err.contains("stopped"), "{said:?}");
            runtime.call(&["delete", &id])?.ok()?;
        }
        // Its program begins with none of that.
        let id = runtime.id("started");
        runtime.leave(&["create", "-b", &bundle, &id])?;
        runtime.call(&["kill", &id, "WINCH"])?.ok()?;
        runtime.call(&["start", &id])?.ok()?;
        wait_for(&runtime.dir().join("streams"), PATIENCE, |text| {
            text.contains("SigCgt:\t0000000000000000").then_some(())
        })?;
        runtime.call(&["kill", &id, "KILL"])?.ok()?;
        Ok(())
    })
}

#[test]
fn run_gives_the_programs_output_and_exit_code_and_leaves_nothing() -> Result<()> {
    with_runtime(|runtime| {
        let command = "hostname; echo $$; read line; echo got $line >&2; exit 7";
        let bundle = runtime.bundle("b", command, |spec| spec["hostname"] = json!("inside"))?;
        let id = runtime.id("a");
        let said = runtime.call(&["run", "--bundle", &bundle, &id])?;
        ensure!(said.code == 7 && said.out == "inside\n1\n", "{said:?}");
        ensure!(said.err == "got\n", "standard input is empty: {said:?}");
        ensure!(runtime.call(&["list", "-q"])?.ok()?.is_empty());
        let said = runtime.call(&["run", "--keep", "--bundle", &bundle, &id])?;
        ensure!(said.code == 7, "{said:?}");
        ensure!(runtime.status(&id)? == "stopped");
        Ok(())
    })
}

#[test]
fn signals_to_run_go_to_the_container() -> Result<()> {
    with_runtime(|runtime| {
        let bundle = runtime.bundle("b", WAITS, |_| {})?;
        let out = runtime.dir().join("out");
        let mut run = runtime
            .command(&["run", "--bundle", &bundle, &runtime.id("a")])
            .stdout(fs::File::create(&out)?)
            .spawn()?;
        wait_for(&out, PATIENCE, |text| text.contains("up").then_some(()))?;
        let pid = i32::try_from(run.id())?;
        let pid = rustix::process::Pid::from_raw(pid).ok_or_else(|| anyhow::anyhow!("no pid"))?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = run.wait()?;
        ensure!(status.code() == Some(5), "{status}");
        ensure!(fs::read_to_string(&out)? == "up\nasked\n");
        Ok(())
    })
}

#[test]
fn what_a_program_is_killed_by_shows_in_the_exit_code() -> Result<()> {
    with_runtime(|runtime| {
        let bundle = runtime.bundle("b", "kill -9 $$; sh -c 'kill -9 $$'; exit $?", |_| {})?;
        let said = runtime.call(&["run", "-b", &bundle, &runtime.id("a")])?;
        ensure!(said.code == 137, "{said:?}");
        Ok(())
    })
}

#[test]
fn a_bundle_that_cannot_be_run_is_named_and_leaves_nothing() -> Result<()> {
    with_runtime(|runtime| {
        let id = runtime.id("a");
        let path =
            |spec: &mut serde_json::Value, args: &str| spec["process"]["args"] = json!([args]);
        let bundles = [
            runtime.bundle("program", "", |spec| path(spec, "nowhere"))?,
            runtime.bundle("version", "", |spec| spec["ociVersion"] = json!("2.0.0"))?,
            runtime.bundle("rootfs", "", |spec| spec["root"]["path"] = json!("../nowhere"))?,
            runtime.bundle("file", "", |spec| spec["root"]["path"] = json!("config.json"))?,
            runtime.bundle("type", "", |spec| spec["process"]["args"] = json!("sh"))?,
            runtime.bundle("dots", "", |spec| {
                spec["mounts"][0]["destination"] = json!("/../../etc");
            })?,
            runtime.bundle("fs", "", |spec| spec["mounts"][1]["type"] = json!("nofs"))?,
            runtime.bundle("limit", "", |spec| {
                spec["process"]["rlimits"][0]["soft"] = json!(4096);
            })?,
            runtime.bundle("ids", "", |spec| {
                spec["linux"]["uidMappings"] =
                    json!([{"containerID": 0, "hostID": 100_000, "size": 10}]);
            })?,
        ];
        let words = [
            "executable file not found",
            "ociVersion `2.0.0`",
            "find the root file system",
            "is not a directory",
            "config.json is not an OCI spec",
            "destination",
            "nofs",
            "RLIMIT_NOFILE",
            "linux.uidMappings",
        ];
        for (bundle, word) in bundles.iter().zip(words) {
            for verb in ["create", "run"] {
                let said = runtime.leave_with(&[verb, "-b", bundle, &id])?;
                ensure!(said.code == 1, "{verb} {bundle}: {said:?}");
                ensure!(said.err.contains(&format!("{verb} failed: ")), "{said:?}");
                ensure!(said.err.contains(word), "{verb} {bundle} does not say {word}: {said:?}");
            }
        }
        ensure!(runtime.call(&["list", "-q"])?.ok()?.is_empty());
        ensure!(runtime.cgroups().is_empty(), "{:?}", runtime.cgroups());
        Ok(())
    })
}

#[test]
fn ids_are_taken_once_and_are_no_paths() -> Result<()> {
    with_runtime(|runtime| {
        let bundle = runtime.bundle("b", "true", |_| {})?;
        let id = runtime.id("a");
        runtime.leave(&["create", "-b", &bundle, &id])?;
        let said = runtime.leave_with(&["create", "-b", &bundle, &id])?;
        ensure!(said.code == 1 && said.err.contains("already exists"), "{said:?}");
        ensure!(runtime.status(&id)? == "created", "the first is gone");
        for bad in ["../x", "a/b", ".."] {
            let said = runtime.leave_with(&["create", "-b", &bundle, bad])?;
            ensure!(said.code == 1 && said.err.contains("invalid container ID"), "{said:?}");
        }
        Ok(())
    })
}

#[test]
fn force_deletes_what_runs_what_is_damaged_and_what_is_not_there() -> Result<()> {
    with_runtime(|runtime| {
        let bundle = runtime.bundle("b", "trap '' TERM; while :; do sleep 1000; done", |_| {})?;
        let (id, other) = (runtime.id("a"), runtime.id("b"));
        runtime.leave(&["run", "--detach", "-b", &bundle, &id])?;
        let pid = runtime.state(&id)?["pid"].clone();
        runtime.call(&["delete", "--force", &id])?.ok()?;
        wait_ended(&pid)?;
        runtime.call(&["delete", "--force", &id])?.ok()?;
        let said = runtime.call(&["delete", &id])?;
        ensure!(said.code == 1 && said.err.contains("does not exist"), "{said:?}");

        runtime.leave(&["run", "--detach", "-b", &bundle, &other])?;
        let state = runtime.root().join(&other).join("state.json");
        let whole = fs::read(&state)?;
        fs::write(&state, "{")?;
        let said = runtime.call(&["state", &other])?;
        ensure!(said.code == 1 && said.err.contains("state.json"), "{said:?}");
        let said = runtime.call(&["list"])?;
        ensure!(said.code == 0 && said.err.contains("state.json"), "{said:?}");
        fs::write(&state, whole)?;
        runtime.call(&["delete", "-f", &other])?.ok()?;
        Ok(())
    })
}

#[test]
fn processes_outside_a_pid_namespace_of_their_own_go_with_the_first() -> Result<()> {
    with_runtime(|runtime| {
        let bundle = runtime.bundle("b", "sleep 1000 & echo up; wait", |spec| {
            if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
                list.retain(|namespace| namespace["type"] != "pid");
            }
        })?;
        let id = runtime.id("a");
        runtime.leave(&["run", "-d", "-b", &bundle, &id])?;
        wait_for(&runtime.dir().join("streams"), PATIENCE, |text| {
            text.contains("up").then_some(())
        })?;
        let pids = runtime.call(&["ps", "--format", "json", &id])?.ok()?;
        let pids: Vec<serde_json::Value> = serde_json::from_str(&pids)?;
        ensure!(pids.len() == 2, "{pids:?}");
        runtime.call(&["kill", &id, "9"])?.ok()?;
        pids.iter().try_for_each(wait_ended)?;
        runtime.call(&["delete", &id])?.ok()?;
        Ok(())
    })
}

#[test]
fn a_cgroup_in_use_is_not_shared() -> Result<()> {
    with_runtime(|runtime| {
        let own = format!("/{}", runtime.id("cgroup"));
        let bundle = runtime.bundle("b", "sleep 1000", |spec| {
            spec["linux"]["cgroupsPath"] = json!(own);
        })?;
        let (id, other) = (runtime.id("a"), runtime.id("b"));
        runtime.leave(&["run", "-d", "-b", &bundle, &id])?;
        let said = runtime.leave_with(&["run", "-d", "-b", &bundle, &other])?;
        ensure!(said.code == 1 && said.err.contains("has processes already"), "{said:?}");
        ensure!(runtime.status(&id)? == "running");
        Ok(())
    })
}

#[test]
fn hooks_are_run_with_the_state_in_their_order() -> Result<()> {
    with_runtime(|runtime| {
        let told = runtime.dir().join("told");
        let hook = |name: &str| -> Result<serde_json::Value> {
            let path = runtime.dir().join(format!("{name}.sh"));
            script(&path, &format!("echo {name} $(cat) >> {}", told.display()))?;
            Ok(json!([{"path": path}]))
        };
        let hooks = json!({
            "prestart": hook("prestart")?,
            "createRuntime": hook("createRuntime")?,
            "createContainer": hook("createContainer")?,
            "startContainer": [{
                "path": "/bin/sh",
                "args": ["sh", "-c", "echo startContainer $(cat) >> /told/told; id -u >> /told/user"],
                "env": ["PATH=/bin"],
            }],
            "poststart": hook("poststart")?,
            "poststop": hook("poststop")?,
        });
        let bundle = runtime.bundle("b", "true", |spec| {
            spec["hooks"] = hooks;
            spec["process"]["user"]["uid"] = json!(7);
            let shown =
                json!({"destination": "/told", "source": runtime.dir(), "options": ["bind"]});
            spec["mounts"].as_array_mut().into_iter().for_each(|list| list.push(shown.clone()));
        })?;
        let id = runtime.id("a");
        runtime.leave(&["create", "-b", &bundle, &id])?;
        let pid = runtime.state(&id)?["pid"].clone();
        for name in ["told", "user"] {
            let file =
                fs::File::options().create(true).append(true).open(runtime.dir().join(name))?;
            file.set_permissions(PermissionsExt::from_mode(0o666))?;
        }
        runtime.leave(&["start", &id])?;
        wait_ended(&pid)?;
        runtime.call(&["delete", &id])?.ok()?;
        let text = fs::read_to_string(&told)?;
        let lines: Vec<(&str, serde_json::Value)> = text
            .lines()
            .map(|line| {
                let (name, state) = line.split_once(' ').unwrap_or_default();
                Ok((name, serde_json::from_str(state)?))
            })
            .collect::<Result<_>>()?;
        let order: Vec<(&str, &str)> = lines
            .iter()
            .map(|(name, state)| (*name, state["status"].as_str().unwrap_or_default()))
            .collect();
        let want = [
            ("prestart", "creating"),
            ("createRuntime", "creating"),
            ("createContainer", "creating"),
            ("startContainer", "created"),
            ("poststart", "running"),
            ("poststop", "stopped"),
        ];
        ensure!(order == want, "{text}");
        for (name, state) in &lines {
            ensure!(state["id"] == id.as_str() && state["bundle"] == bundle.as_str(), "{state}");
            let on_the_host = matches!(*name, "prestart" | "createRuntime" | "poststart");
            ensure!(!on_the_host || state["pid"] == pid, "{name} {state}");
        }
        ensure!(fs::read_to_string(runtime.dir().join("user"))? == "7\n");
        Ok(())
    })
}

#[test]
fn a_hook_that_fails_ends_the_creation_and_leaves_nothing() -> Result<()> {
    with_runtime(|runtime| {
        let path = runtime.dir().join("hook.sh");
        script(&path, "echo not today >&2; exit 3")?;
        let hooks = json!({"createRuntime": [{"path": path}]});
        let bundle = runtime.bundle("b", "true", |spec| spec["hooks"] = hooks)?;
        let said = runtime.leave_with(&["create", "-b", &bundle, &runtime.id("a")])?;
        ensure!(said.code == 1 && said.err.contains("not today"), "{said:?}");
        ensure!(runtime.call(&["list", "-q"])?.ok()?.is_empty());
        Ok(())
    })
}

/// As that of a start that fails; those for the end are run all the same.
#[test]
fn a_hook_that_fails_after_the_start_ends_the_container() -> Result<()> {
    with_runtime(|runtime| {
        let told = runtime.dir().join("told");
        let hook = |name: &str, then: &str| -> Result<serde_json::Value> {
            let path = runtime.dir().join(format!("{name}.sh"));
            script(&path, &format!("echo {name} >> {}; {then}", told.display()))?;
            Ok(json!({"path": path}))
        };
        let hooks = json!({
            "poststart": [hook("first", "echo no luck >&2; exit 3")?, hook("second", "")?],
            "poststop": [hook("end", "")?],
        });
        let bundle = runtime.bundle("b", "sleep 100000", |spec| spec["hooks"] = hooks)?;
        let id = runtime.id("a");
        runtime.leave(&["create", "-b", &bundle, &id])?;
        let pid = runtime.state(&id)?["pid"].clone();
        let said = runtime.call(&["start", &id])?;
        ensure!(said.code == 1 && said.err.contains("no luck"), "{said:?}");
        wait_ended(&pid)?;
        ensure!(runtime.status(&id)? == "stopped");
        runtime.call(&["delete", &id])?.ok()?;
        ensure!(fs::read_to_string(&told)? == "first\nend\n");

        let said = runtime.call(&["run", "-b", &bundle, &id])?;
        ensure!(said.code == 1 && said.err.contains("no luck"), "{said:?}");
        ensure!(fs::read_to_string(&told)? == "first\nend\nfirst\nend\n");
        ensure!(runtime.call(&["list", "-q"])?.ok()?.is_empty());
        ensure!(runtime.cgroups().is_empty(), "{:?}", runtime.cgroups());
        Ok(())
    })
}
