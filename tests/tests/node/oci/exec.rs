//! `exec`: further processes in a container.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use test_support::oci::{Runtime, wait_ended, with_runtime};

/// A container that stays, and its id.
pub(crate) fn sleeper(runtime: &Runtime, change: impl FnOnce(&mut Value)) -> Result<String> {
    let bundle = runtime.bundle("sleeper", "sleep 100000", change)?;
    let id = runtime.id("sleeper");
    runtime.leave(&["run", "--detach", "--bundle", &bundle, &id])?;
    Ok(id)
}

#[test]
fn a_command_runs_in_the_container_and_its_exit_code_is_ours() -> Result<()> {
    with_runtime(|runtime| {
        let id = sleeper(runtime, |spec| spec["hostname"] = json!("inside"))?;
        let said = runtime.call(&["exec", &id, "sh", "-c", "hostname; id -u; pwd; exit 9"])?;
        ensure!(said.code == 9 && said.out == "inside\n0\n/\n", "{said:?}");
        let words = ["exec", "-u", "7:8", "-g", "9", "--cwd", "/tmp", "-e", "X=y z", &id];
        let command =
            ["sh", "-c", "id -u; id -g; id -G; pwd; echo $X; grep NoNewPrivs /proc/self/status"];
        let out = runtime.call(&[&words[..], &command].concat())?.ok()?;
        ensure!(out == "7\n8\n8 9\n/tmp\ny z\nNoNewPrivs:\t1\n", "{out}");
        let one = |ns: &str| -> Result<bool> {
            let link = format!("/proc/self/ns/{ns}");
            let inside = runtime.call(&["exec", &id, "readlink", &link])?.ok()?;
            let pid = runtime.state(&id)?["pid"].to_string();
            let first = fs::read_link(format!("/proc/{pid}/ns/{ns}"))?;
            Ok(inside.trim_end() == first.to_string_lossy())
        };
        for ns in ["pid", "mnt", "net", "ipc", "uts", "cgroup"] {
            ensure!(one(ns)?, "another {ns} namespace");
        }
        Ok(())
    })
}

#[test]
fn a_command_that_cannot_be_run_gives_255_and_says_why() -> Result<()> {
    with_runtime(|runtime| {
        let id = sleeper(runtime, |_| {})?;
        let said = runtime.call(&["exec", &id, "nowhere"])?;
        ensure!(said.code == 255, "{said:?}");
        ensure!(
            said.err.contains("exec failed: exec: \\\"nowhere\\\": executable file not"),
            "{said:?}"
        );
        let said = runtime.call(&["exec", "--cwd", "/bin/sh", &id, "true"])?;
        ensure!(said.code == 255 && said.err.contains("working directory /bin/sh"), "{said:?}");
        let said = runtime.call(&["exec", &runtime.id("nobody"), "true"])?;
        ensure!(said.code == 255 && said.err.contains("does not exist"), "{said:?}");
        Ok(())
    })
}

#[test]
fn a_file_describes_the_process() -> Result<()> {
    with_runtime(|runtime| {
        let id = sleeper(runtime, |_| {})?;
        let process = runtime.dir().join("process.json");
        let description = json!({
            "user": {"uid": 1, "gid": 2, "umask": 0o27},
            "args": ["sh", "-c", "id -u; id -g; umask; echo $A; grep -E 'CapEff|CapBnd' /proc/self/status"],
            "env": ["PATH=/bin", "A=b"],
            "cwd": "/",
            "capabilities": {"bounding": ["CAP_KILL"], "effective": [], "permitted": []},
        });
        fs::write(&process, description.to_string())?;
        let path = process.to_str().unwrap_or_default();
        let out = runtime.call(&["exec", "--process", path, &id])?.ok()?;
        let want = "1\n2\n0027\nb\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000020\n";
        ensure!(out == want, "{out}");
        fs::write(&process, "[]")?;
        let said = runtime.call(&["exec", "-p", path, &id])?;
        ensure!(said.code == 255 && said.err.contains("process.json is not a process"), "{said:?}");
        Ok(())
    })
}

#[test]
fn a_detached_command_goes_on_and_its_number_is_told() -> Result<()> {
    with_runtime(|runtime| {
        let id = sleeper(runtime, |_| {})?;
        let file = runtime.dir().join("exec.pid");
        let path = file.to_str().unwrap_or_default();
        runtime.leave(&["exec", "--detach", "--pid-file", path, &id, "sleep", "100000"])?;
        let pid: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
        let pids = runtime.call(&["ps", "-f", "json", &id])?.ok()?;
        let pids: Vec<Value> = serde_json::from_str(&pids)?;
        ensure!(pids.len() == 2 && pids.contains(&pid), "{pids:?} {pid}");
        let table = runtime.call(&["ps", &id])?.ok()?;
        ensure!(table.lines().count() == 3 && table.contains("sleep 100000"), "{table}");
        runtime.call(&["kill", "--all", &id, "KILL"])?.ok()?;
        wait_ended(&pid)?;
        Ok(())
    })
}

#[test]
fn only_files_that_are_named_are_inherited() -> Result<()> {
    with_runtime(|runtime| {
        let id = sleeper(runtime, |_| {})?;
        let shell = |count: &str| -> Result<String> {
            // 3 and 4 are open in the runtime.
            let line = "exec 3</etc/hostname 4</etc/hostname; exec \"$@\"";
            let program = runtime.program().to_str().unwrap_or_default().to_owned();
            let root = runtime.root();
            let output = std::process::Command::new("sh")
                .args(["-c", line, "sh", &program, "--root"])
                .arg(root)
                .args(["exec", "--preserve-fds", count, &id])
                .args(["sh", "-c", "ls /proc/self/fd | tr '\\n' ' '"])
                .stdin(std::process::Stdio::null())
                .output()?;
            let text = [output.stdout, output.stderr].concat();
            Ok(String::from_utf8_lossy(&text).into_owned())
        };
        // The last is the directory being read.
        let (none, one, two) = (shell("0")?, shell("1")?, shell("2")?);
        ensure!(
            (none.as_str(), one.as_str(), two.as_str())
                == ("0 1 2 3 ", "0 1 2 3 4 ", "0 1 2 3 4 5 "),
            "{none:?} {one:?} {two:?}"
        );
        let three = shell("3")?;
        ensure!(three.contains("--preserve-fds 3: file 5 is not open"), "{three}");
        Ok(())
    })
}

#[test]
fn a_container_that_was_not_started_takes_commands_a_stopped_one_does_not() -> Result<()> {
    with_runtime(|runtime| {
        let bundle = runtime.bundle("b", "true", |_| {})?;
        let id = runtime.id("a");
        runtime.leave(&["create", "-b", &bundle, &id])?;
        let out = runtime.call(&["exec", &id, "sh", "-c", "echo $$; ls /bin/busybox"])?.ok()?;
        ensure!(out.ends_with("/bin/busybox\n"), "{out}");
        ensure!(runtime.status(&id)? == "created");
        let pid = runtime.state(&id)?["pid"].clone();
        runtime.leave(&["start", &id])?;
        wait_ended(&pid)?;
        let said = runtime.call(&["exec", &id, "true"])?;
        ensure!(said.code == 255 && said.err.contains("that is stopped"), "{said:?}");
        Ok(())
    })
}

/// What a container prints that is run as a service manager runs a program, with `LISTEN_PID` so.
fn activated(runtime: &Runtime, name: &str, whose: &str) -> Result<String> {
    let command = "echo $LISTEN_FDS $LISTEN_PID; ls /proc/self/fd | tr '\\n' ' '";
    let bundle = runtime.bundle(name, command, |_| {})?;
    let opened = "exec 3</etc/hostname 4</etc/hostname";
    let script = format!("{opened}; {whose} LISTEN_FDS=2 exec \"$@\"");
    let output = std::process::Command::new("sh")
        .args(["-c", &script, "sh"])
        .arg(runtime.program())
        .arg("--root")
        .arg(runtime.root())
        .args(["run", "-b", &bundle, &runtime.id(name)])
        .stdin(std::process::Stdio::null())
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn sockets_of_a_service_manager_reach_the_program() -> Result<()> {
    with_runtime(|runtime| {
        // `exec` keeps the number.
        let out = activated(runtime, "a", "LISTEN_PID=$$")?;
        // The last is the directory being read.
        ensure!(out == "2 1\n0 1 2 3 4 5 ", "{out}");
        Ok(())
    })
}

#[test]
fn sockets_that_were_meant_for_another_process_are_not_handed_on() -> Result<()> {
    with_runtime(|runtime| {
        for (name, whose) in [("parents", "LISTEN_PID=$PPID"), ("nobodys", "")] {
            let out = activated(runtime, name, whose)?;
            ensure!(out == "\n0 1 2 3 ", "{name}: {out}");
        }
        Ok(())
    })
}
