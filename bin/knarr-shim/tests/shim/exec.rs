//! Processes run inside containers.

use std::io::Read;
use std::os::fd::AsFd;

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
