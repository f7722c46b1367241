//! Processes run inside containers.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use shim_protocol::{Body, FailureKind, Response};

use crate::fixture::{Shim, can_run, exec, until};

const IDLE: &str = "while :; do sleep 1; done";

#[test]
fn an_exec_runs_inside_and_its_output_and_code_come_back() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (id, plan) = shim.run(&mut client, IDLE);
    let (out, err, exit) = client.exec(exec(
        1,
        &id,
        &plan,
        "hostname; echo problem >&2; readlink /proc/1/exe; exit 9",
    ));
    assert_eq!((out.as_str(), err.as_str()), ("a-pod\n/bin/busybox\n", "problem\n"));
    assert_eq!((exit.code, exit.signal), (9, None));
    assert_eq!(client.state().execs, Some(Vec::new()));
}

#[test]
fn an_exec_with_a_terminal_gives_its_master() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (id, plan) = shim.run(&mut client, IDLE);
    let mut request = exec(1, &id, &plan, "tty; echo done");
    request.terminal = true;
    let id = client.send(Body::Exec(Box::new(request)), &[]);
    assert!(matches!(client.answer_to(id), Response::Started(_)));
    let master = client.take_files().pop().expect("a terminal's master");
    let mut text = Vec::new();
    // EIO once nobody has it open any more.
    std::fs::File::from(master).read_to_end(&mut text).ok();
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("/dev/") && text.ends_with("done\r\n"), "{text}");
    assert_eq!(client.exec_exit(1).code, 0);
}

#[test]
fn killing_an_exec_kills_its_descendants_and_nothing_else() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (id, plan) = shim.run(&mut client, IDLE);
    let script = "sleep 1001 & (sleep 1002 &) ; setsid sleep 1003 & echo ready; wait";
    let null = std::fs::File::open("/dev/null").unwrap();
    let (mut out, out_w) = std::io::pipe().unwrap();
    let sent = client.send(
        Body::Exec(Box::new(exec(5, &id, &plan, script))),
        &[null.as_fd(), out_w.as_fd(), null.as_fd()],
    );
    drop(out_w);
    let Response::Started(started) = client.answer_to(sent) else { panic!("not started") };
    let mut ready = [0; 6];
    out.read_exact(&mut ready).unwrap();
    assert_eq!(client.state().execs, Some(vec![5]));
    // All sleepers run before the kill, so that it has something to find.
    let count = |client: &mut crate::client::Client, number| {
        let (text, ..) = client.exec(exec(number, &id, &plan, "ps -o args | grep -c '^sleep 100'"));
        text.trim().parse::<u32>().unwrap()
    };
    until("three sleepers run", || count(&mut client, 6) == 3);
    client.done(Body::KillExec { exec: 5 });
    // Not even a zombie by the time of the answer.
    assert!(!std::path::Path::new(&format!("/proc/{}", started.pid)).exists());
    let exit = client.exec_exit(5);
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    // The pipe ends only when the last of them is gone.
    assert_eq!(out.read(&mut ready).unwrap(), 0);
    assert_eq!(count(&mut client, 7), 0);
    assert_eq!(client.fails(Body::KillExec { exec: 5 }).kind, FailureKind::NotFound);
}

#[test]
fn an_exec_that_cannot_be_is_refused() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (id, plan) = shim.run(&mut client, IDLE);
    let request = || Box::new(exec(1, &id, &plan, "true"));
    // Neither files nor a terminal.
    assert_eq!(client.fails(Body::Exec(request())).kind, FailureKind::BadRequest);
    let mut missing = request();
    let process = crate::plans::process(&["/bin/no-such-program"]);
    missing.plan = launch::plan::ExecPlan { process, cgroup: plan.cgroup.clone() }.encode();
    let null = std::fs::File::open("/dev/null").unwrap();
    let sent = client.send(Body::Exec(missing), &[null.as_fd(), null.as_fd(), null.as_fd()]);
    match client.answer_to(sent) {
        Response::Failed(failure) => assert_eq!(failure.kind, FailureKind::CannotExec),
        other => panic!("{other:?}"),
    }
    client.done(Body::Kill { container: id.to_string(), signal: 9, all: true });
    client.exit_of(id.as_str());
    assert_eq!(client.fails(Body::Exec(request())).kind, FailureKind::WrongState);
    let mut nobody = request();
    nobody.container = "0".repeat(64);
    assert_eq!(client.fails(Body::Exec(nobody)).kind, FailureKind::NotFound);
}

#[test]
fn an_exec_whose_daemon_died_goes_on_and_is_reported() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (id, plan) = shim.run(&mut client, IDLE);
    let null = std::fs::File::open("/dev/null").unwrap();
    let sent = client.send(
        Body::Exec(Box::new(exec(3, &id, &plan, IDLE))),
        &[null.as_fd(), null.as_fd(), null.as_fd()],
    );
    assert!(matches!(client.answer_to(sent), Response::Started(_)));
    drop(client);
    let mut client = shim.client();
    assert_eq!(client.state().execs, Some(vec![3]));
    client.done(Body::KillExec { exec: 3 });
    assert_eq!(client.exec_exit(3).code, 137);
}

#[test]
fn an_exec_that_is_hung_up_leaves_nothing_behind() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (id, plan) = shim.run(&mut client, IDLE);
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut start = |number, script: &str| {
        let (mut out, out_w) = std::io::pipe().unwrap();
        let request = Body::Exec(Box::new(exec(number, &id, &plan, script)));
        let sent = client.send(request, &[null.as_fd(), out_w.as_fd(), null.as_fd()]);
        drop(out_w);
        assert!(matches!(client.answer_to(sent), Response::Started(_)));
        out.read_exact(&mut [0; 6]).unwrap();
        out
    };
    // One child does not mind SIGHUP: it is killed when its parent has gone.
    let script = "(trap '' HUP; echo ready; exec sleep 1001) & wait";
    let mut out = start(1, script);
    let mut deaf = start(2, "trap '' HUP; echo ready; while :; do sleep 1; done");
    client.done(Body::HangUpExec { exec: 1 });
    let exit = client.exec_exit(1);
    assert_eq!((exit.code, exit.signal), (129, Some(1)));
    assert_eq!(out.read(&mut [0; 8]).unwrap(), 0);
    client.done(Body::HangUpExec { exec: 2 });
    assert_eq!(client.state().execs, Some(vec![2]));
    client.done(Body::KillExec { exec: 2 });
    assert_eq!(client.exec_exit(2).signal, Some(9));
    assert_eq!(deaf.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(client.fails(Body::HangUpExec { exec: 1 }).kind, FailureKind::NotFound);
}

/// Mounts a file system at `/tmp` of a process's root whose server never answers, until the file is
/// closed; `None` where the kernel has none of that kind.
fn hang_tmp_of(pid: i32) -> Option<OwnedFd> {
    // Not closed on exec: the program that mounts it names it by its number.
    let server = rustix::fs::open("/dev/fuse", OFlags::RDWR, Mode::empty()).ok()?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
    let mut mount = Command::new("nsenter");
    mount.args(["--target", &pid.to_string(), "--mount", "--root", "--wd", "--"]);
    mount.args(["/bin/busybox", "mount", "-t", "fuse", "-o", &options, "hung", "/tmp"]);
    let status = mount.status().unwrap();
    assert!(status.success(), "{status}");
    rustix::io::fcntl_setfd(&server, rustix::io::FdFlags::CLOEXEC).unwrap();
    Some(server)
}

#[test]
fn an_exec_that_hangs_on_its_way_holds_nobody_up() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (start, id, plan) = shim.container(IDLE);
    let started = shim.started(&mut client, start);
    let Some(server) = hang_tmp_of(started.pid) else {
        println!("skipped: needs /dev/fuse");
        return;
    };
    let null = std::fs::File::open("/dev/null").unwrap();
    let hang = |client: &mut crate::client::Client, number| {
        let mut process = crate::plans::process(&["/bin/true"]);
        process.cwd = "/tmp".to_owned();
        let mut request = exec(number, &id, &plan, "true");
        request.plan = launch::plan::ExecPlan { process, cgroup: plan.cgroup.clone() }.encode();
        let files = [null.as_fd(), null.as_fd(), null.as_fd()];
        client.send(Body::Exec(Box::new(request)), &files)
    };
    let killed = hang(&mut client, 1);
    let (text, _, exit) = client.exec(exec(2, &id, &plan, "echo meanwhile"));
    assert_eq!((text.as_str(), exit.code), ("meanwhile\n", 0));
    assert_eq!(client.state().execs, Some(vec![1]));
    // The answer to the first comes with its end.
    let kill = client.send(Body::KillExec { exec: 1 }, &[]);
    assert!(matches!(client.answer_to(killed), Response::Started(_)));
    assert_eq!(client.answer_to(kill), Response::Done);
    assert_eq!(client.exec_exit(1).signal, Some(9));
    // One whose server goes away learns it.
    let failed = hang(&mut client, 3);
    assert_eq!(client.state().execs, Some(vec![3]));
    drop(server);
    match client.answer_to(failed) {
        Response::Failed(failure) => assert!(failure.message.contains("/tmp"), "{failure:?}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(client.state().execs, Some(Vec::new()));
    shim.shut_down(&mut client);
    assert_eq!(shim.cgroups_left(), Vec::<String>::new());
}
