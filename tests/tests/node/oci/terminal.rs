//! Terminals: by a socket, and our own.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::json;
use test_support::oci::{ConsoleSocket, with_runtime};

use super::exec::sleeper;

#[test]
fn a_terminals_master_is_sent_to_the_socket() -> Result<()> {
    with_runtime(|runtime| {
        let command = "stty -echo size; read line; echo got $line; sleep 100000";
        let bundle = runtime.bundle("b", command, |spec| {
            spec["process"]["terminal"] = json!(true);
            spec["process"]["consoleSize"] = json!({"height": 17, "width": 71});
        })?;
        let id = runtime.id("a");
        let socket = ConsoleSocket::listen(runtime.dir().join("console"))?;
        runtime.leave(&["create", "--console-socket", socket.path(), "-b", &bundle, &id])?;
        let (master, name) = socket.master()?;
        ensure!(name == "/dev/ptmx", "{name}");
        runtime.leave(&["start", &id])?;
        let mut lines = BufReader::new(master.try_clone()?).lines();
        let mut next = || lines.next().transpose().map(Option::unwrap_or_default);
        ensure!(next()?.trim_end() == "17 71");
        (&master).write_all(b"a word\n")?;
        let mut line = next()?;
        // Typed before the echo was off.
        if line.starts_with("a word") {
            line = next()?;
        }
        ensure!(line.trim_end() == "got a word", "{line}");

        let exec = ["exec", "--tty", "--detach", "--console-socket", socket.path()];
        runtime.leave(&[&exec[..], &[&id, "tty"]].concat())?;
        let (master, _) = socket.master()?;
        let mut line = String::new();
        BufReader::new(master).read_line(&mut line)?;
        ensure!(line.trim_end() == "/dev/pts/1", "{line}");
        Ok(())
    })
}

#[test]
fn a_terminal_nobody_would_have_and_a_socket_for_none_are_refused() -> Result<()> {
    with_runtime(|runtime| {
        let with =
            runtime.bundle("with", "true", |spec| spec["process"]["terminal"] = json!(true))?;
        let without = runtime.bundle("without", "true", |_| {})?;
        let id = runtime.id("a");
        for words in [vec!["create", "-b", &with, &id], vec!["run", "-d", "-b", &with, &id]] {
            let said = runtime.leave_with(&words)?;
            ensure!(said.code == 1 && said.err.contains("needs --console-socket"), "{said:?}");
        }
        let gone = runtime.dir().join("gone");
        let gone = gone.to_str().unwrap_or_default();
        let said =
            runtime.leave_with(&["create", "--console-socket", gone, "-b", &without, &id])?;
        ensure!(said.code == 1 && said.err.contains("without a terminal"), "{said:?}");
        let said = runtime.leave_with(&["create", "--console-socket", gone, "-b", &with, &id])?;
        ensure!(said.code == 1 && said.err.contains("send the terminal to"), "{said:?}");
        ensure!(runtime.call(&["list", "-q"])?.ok()?.is_empty());
        ensure!(runtime.cgroups().is_empty());
        Ok(())
    })
}

#[test]
fn run_and_exec_stand_between_two_terminals() -> Result<()> {
    with_runtime(|runtime| {
        // `script` gives a terminal of this size to what it runs.
        let on_a_terminal = |words: &[&str]| -> Result<(i32, String)> {
            let program = runtime.program().to_str().unwrap_or_default();
            let root = runtime.root();
            let root = root.to_str().unwrap_or_default();
            let line = [&[program, "--root", root], words].concat().join(" ");
            let line = format!("stty rows 21 cols 83; exec {line}");
            let shown = runtime.dir().join("shown");
            let status = Command::new("script")
                .args(["-q", "-e", "-c", &line])
                .arg(&shown)
                .stdin(std::process::Stdio::null())
                .stdout(std::process::Stdio::null())
                .env("SHELL", "/bin/sh")
                .status()?;
            Ok((status.code().unwrap_or(256), fs::read_to_string(&shown)?))
        };
        let bundle = runtime.bundle("b", "tty; stty size; exit 3", |spec| {
            spec["process"]["terminal"] = json!(true);
        })?;
        let (code, shown) = on_a_terminal(&["run", "-b", &bundle, &runtime.id("a")])?;
        ensure!(
            code == 3 && ["/dev/pts/0\r\n", "21 83\r\n"].iter().all(|line| shown.contains(line)),
            "{code} {shown}"
        );
        let id = sleeper(runtime, |_| {})?;
        let (code, shown) = on_a_terminal(&["exec", "-t", &id, "stty", "size"])?;
        ensure!(code == 0 && shown.contains("21 83\r\n"), "{code} {shown}");
        Ok(())
    })
}

#[test]
fn a_terminal_works_for_callers_that_have_none() -> Result<()> {
    with_runtime(|runtime| {
        let bundle = runtime.bundle("b", "test -t 0 && test -t 1 && echo both", |spec| {
            spec["process"]["terminal"] = json!(true);
        })?;
        let out = runtime.call(&["run", "-b", &bundle, &runtime.id("a")])?.ok()?;
        // Nobody has a terminal where lines would end otherwise.
        ensure!(out == "both\n", "{out:?}");
        Ok(())
    })
}
