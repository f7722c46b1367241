//! Clients attached to containers.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use model::ContainerId;
use shim_protocol::{
    AttachEnd, Body, Event, FailureKind, Phase, Response, StartAttach, StartContainer,
};

use crate::client::Client;
use crate::fixture::{Shim, can_run, until};

/// A client's ends of the pipes.
struct Attached {
    stdin: PipeWriter,
    stdout: PipeReader,
    stderr: PipeReader,
}

impl Attached {
    fn send(&mut self, text: &str) {
        self.stdin.write_all(text.as_bytes()).unwrap();
    }

    #[track_caller]
    fn expect(&mut self, text: &str) {
        assert_eq!(read_exactly(&mut self.stdout, text.len()), text.as_bytes(), "{text}");
    }

    /// What is left of its output.
    fn rest(mut self) -> (Vec<u8>, Vec<u8>) {
        drop(self.stdin);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        self.stdout.read_to_end(&mut out).unwrap();
        self.stderr.read_to_end(&mut err).unwrap();
        (out, err)
    }
}

fn read_exactly(from: &mut PipeReader, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).unwrap();
    bytes
}

#[track_caller]
fn attach(client: &mut Client, attach: u64, container: &ContainerId) -> Attached {
    let ((stdin_r, stdin), (stdout, stdout_w), (stderr, stderr_w)) =
        (std::io::pipe().unwrap(), std::io::pipe().unwrap(), std::io::pipe().unwrap());
    let files: [BorrowedFd<'_>; 3] = [stdin_r.as_fd(), stdout_w.as_fd(), stderr_w.as_fd()];
    let sent = client.send(Body::Attach(request(attach, container)), &files);
    assert_eq!(client.answer_to(sent), Response::Done);
    Attached { stdin, stdout, stderr }
}

fn request(attach: u64, container: &ContainerId) -> StartAttach {
    let container = container.to_string();
    StartAttach { attach, container, stdin: true, stdout: true, stderr: true }
}

#[track_caller]
fn end_of(client: &mut Client, wanted: u64) -> AttachEnd {
    client.event(|event| match event {
        Event::AttachEnded { attach, end } if *attach == wanted => Some(*end),
        _ => None,
    })
}

/// Starts a container with a stdin.
#[track_caller]
fn with_stdin(
    shim: &mut Shim,
    client: &mut Client,
    script: &str,
    change: impl FnOnce(&mut StartContainer),
) -> ContainerId {
    let (mut start, id, _) = shim.container(script);
    start.stdin = true;
    change(&mut start);
    shim.started(client, start);
    id
}

/// Starts a container with a terminal.
#[track_caller]
fn with_terminal(shim: &mut Shim, client: &mut Client, script: &str) -> ContainerId {
    let (mut start, id, mut plan) = shim.container(script);
    start.stdin = true;
    plan.process.terminal = true;
    start.plan = plan.encode();
    shim.started(client, start);
    id
}

const MAKE_ZERO: &str = "[ -e /dev/zero ] || mknod /dev/zero c 1 5";

const ECHO: &str = "while read line; do echo got $line; done; echo end";

#[test]
fn every_client_gets_a_copy_of_what_comes_from_then_on() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let script = "read x; echo one; echo problem >&2; read x; echo two; exit 3";
    let id = with_stdin(&mut shim, &mut client, script, |_| {});
    let (mut first, mut second) = (attach(&mut client, 1, &id), attach(&mut client, 2, &id));
    first.send("go\n");
    for attached in [&mut first, &mut second] {
        attached.expect("one\n");
        assert_eq!(read_exactly(&mut attached.stderr, 8), b"problem\n");
    }
    let third = attach(&mut client, 3, &id);
    second.send("go\n");
    let two = (b"two\n".to_vec(), Vec::new());
    assert_eq!((first.rest(), second.rest(), third.rest()), (two.clone(), two.clone(), two));
    for attach in 1..=3 {
        assert_eq!(end_of(&mut client, attach), AttachEnd::ContainerEnded);
    }
    assert_eq!(client.exit_of(id.as_str()).code, 3);
    let mut records = shim.records(&id);
    records.sort();
    assert_eq!(records, ["stderr F problem", "stdout F one", "stdout F two"]);
}

#[test]
fn only_what_is_asked_for_is_handed_out() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let id = with_stdin(&mut shim, &mut client, "read x; echo one; echo problem >&2", |_| {});
    let (mut stderr, stderr_w) = std::io::pipe().unwrap();
    let wanted = StartAttach { stdin: false, stdout: false, ..request(1, &id) };
    let sent = client.send(Body::Attach(wanted), &[stderr_w.as_fd()]);
    assert_eq!(client.answer_to(sent), Response::Done);
    drop(stderr_w);
    attach(&mut client, 2, &id).send("go\n");
    let mut text = String::new();
    stderr.read_to_string(&mut text).unwrap();
    assert_eq!(text, "problem\n");
}

#[test]
fn stdin_outlives_the_clients_that_feed_it() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let id = with_stdin(&mut shim, &mut client, ECHO, |_| {});
    let mut first = attach(&mut client, 1, &id);
    first.send("a\n");
    first.expect("got a\n");
    let Attached { stdin, mut stdout, .. } = first;
    drop(stdin);
    client.done(Body::CloseStdin { attach: 1 });
    let mut second = attach(&mut client, 2, &id);
    second.send("b\n");
    second.expect("got b\n");
    // The first still listens.
    assert_eq!(read_exactly(&mut stdout, 6), b"got b\n");
    client.done(Body::Detach { attach: 1 });
    client.done(Body::Detach { attach: 1 });
    assert_eq!(end_of(&mut client, 1), AttachEnd::Detached);
    assert_eq!(stdout.read(&mut [0; 8]).unwrap(), 0);
    second.send("c\n");
    second.expect("got c\n");
}

#[test]
fn a_stdin_of_one_client_ends_with_it_and_the_output_goes_on() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let id = with_stdin(&mut shim, &mut client, ECHO, |start| start.stdin_once = true);
    let mut attached = attach(&mut client, 1, &id);
    attached.send("a\n");
    client.done(Body::CloseStdin { attach: 1 });
    assert_eq!(attached.rest().0, b"got a\nend\n");
    assert_eq!(end_of(&mut client, 1), AttachEnd::ContainerEnded);
    assert_eq!(client.exit_of(id.as_str()).code, 0);
    // The client that is torn away ends it too.
    let id = with_stdin(&mut shim, &mut client, ECHO, |start| start.stdin_once = true);
    let mut torn = attach(&mut client, 2, &id);
    torn.send("b\n");
    client.done(Body::Detach { attach: 2 });
    assert_eq!(client.exit_of(id.as_str()).code, 0);
    assert_eq!(shim.records(&id), ["stdout F got b", "stdout F end"]);
}

#[test]
fn a_daemon_that_dies_takes_its_clients_with_it_and_nothing_else() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let id = with_stdin(&mut shim, &mut client, ECHO, |start| start.stdin_once = true);
    let mut old = attach(&mut client, 1, &id);
    old.send("a\n");
    old.expect("got a\n");
    drop(client);
    let mut client = shim.client();
    // Its files are closed once the lost connection is seen.
    assert_eq!(old.rest().0, b"");
    assert!(matches!(client.phase(id.as_str()), Some(Phase::Running(_))));
    let mut new = attach(&mut client, 1, &id);
    new.send("b\n");
    new.expect("got b\n");
}

#[test]
fn a_client_that_does_not_read_slows_neither_the_container_nor_the_log() {
    if !can_run() {
        return;
    }
    const ROUND: usize = 1_000_000;
    const ROUNDS: usize = 8;
    let (mut shim, mut client) = Shim::with_pod();
    let script =
        &format!("{MAKE_ZERO}; while read x; do head -c 1000000 /dev/zero | tr '\\0' x; done");
    let id = with_stdin(&mut shim, &mut client, script, |start| {
        start.stdin_once = true;
    });
    let slow = attach(&mut client, 1, &id);
    let mut quick = attach(&mut client, 2, &id);
    for _ in 0..ROUNDS {
        quick.send("go\n");
        assert!(read_exactly(&mut quick.stdout, ROUND).iter().all(|byte| *byte == b'x'));
    }
    assert_eq!(end_of(&mut client, 1), AttachEnd::TooSlow);
    client.done(Body::CloseStdin { attach: 2 });
    assert_eq!(quick.rest().0, b"");
    assert_eq!(end_of(&mut client, 2), AttachEnd::ContainerEnded);
    client.exit_of(id.as_str());
    let logged: usize = shim.records(&id).iter().map(|line| line.len() - "stdout P ".len()).sum();
    assert_eq!(logged, ROUND * ROUNDS);
    // It lost what it did not read, not what was already its.
    assert!(!slow.rest().0.is_empty());
}

#[test]
fn what_a_container_wrote_before_its_end_is_still_handed_over() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let script = &format!("{MAKE_ZERO}; read x; head -c 3000000 /dev/zero; exit 4");
    let id = with_stdin(&mut shim, &mut client, script, |_| {});
    let mut attached = attach(&mut client, 1, &id);
    attached.send("go\n");
    // Nothing is read before the end is known.
    assert_eq!(client.exit_of(id.as_str()).code, 4);
    client.done(Body::Forget { container: id.to_string() });
    assert_eq!(attached.rest().0.len(), 3_000_000);
    assert_eq!(end_of(&mut client, 1), AttachEnd::ContainerEnded);
}

#[test]
fn a_container_that_does_not_read_slows_only_those_who_feed_it() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let script =
        "trap 'wc -c; exit 0' USR1; echo ready; while :; do sleep 1000 <&- & wait $!; done";
    let id = with_stdin(&mut shim, &mut client, script, |start| start.stdin_once = true);
    until("it is ready", || shim.records(&id) == ["stdout F ready"]);
    let mut attached = attach(&mut client, 1, &id);
    let (full, is_full) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        // More than both pipes and what the shim keeps hold.
        for round in 0..64 {
            attached.stdin.write_all(&[b'x'; 32 << 10]).unwrap();
            full.send(round).unwrap();
        }
        attached
    });
    assert_eq!(is_full.recv(), Ok(0));
    assert_eq!(shim.output(&mut client, "echo other"), ["stdout F other"]);
    client.done(Body::Kill { container: id.to_string(), signal: 10, all: false });
    let attached = writer.join().unwrap();
    client.done(Body::CloseStdin { attach: 1 });
    let (out, _) = attached.rest();
    assert_eq!(String::from_utf8(out).unwrap().trim(), (64 * (32 << 10)).to_string());
    assert_eq!(client.exit_of(id.as_str()).code, 0);
}

#[test]
fn input_for_a_container_without_stdin_goes_nowhere() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (id, _) = shim.run(&mut client, "while :; do sleep 1; done");
    let mut attached = attach(&mut client, 1, &id);
    let refused = attached.stdin.write_all(b"x").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::BrokenPipe);
    client.done(Body::CloseStdin { attach: 1 });
    client.done(Body::Detach { attach: 1 });
}

#[test]
fn a_terminal_is_one_stream_with_a_size() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let script = "stty -echo; echo ready; read x; stty size >&2; read x; echo $x";
    let id = with_terminal(&mut shim, &mut client, script);
    until("it is ready", || shim.records(&id) == ["stdout F ready"]);
    let mut attached = attach(&mut client, 1, &id);
    client.done(Body::Resize { container: id.to_string(), columns: 132, rows: 43 });
    attached.send("\n");
    attached.expect("43 132\r\n");
    attached.send("bye\n");
    attached.expect("bye\r\n");
    assert_eq!(client.exit_of(id.as_str()).code, 0);
    assert_eq!(end_of(&mut client, 1), AttachEnd::ContainerEnded);
    assert_eq!(shim.records(&id), ["stdout F ready", "stdout F 43 132", "stdout F bye"]);
    let gone = Body::Resize { container: id.to_string(), columns: 1, rows: 1 };
    assert_eq!(client.fails(gone).kind, FailureKind::WrongState);
}

#[test]
fn the_end_of_input_to_a_terminal_detaches() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let id = with_terminal(&mut shim, &mut client, "stty -echo; echo ready; cat");
    until("it is ready", || shim.records(&id) == ["stdout F ready"]);
    let attached = attach(&mut client, 1, &id);
    attached.rest();
    assert_eq!(end_of(&mut client, 1), AttachEnd::Detached);
    let mut other = attach(&mut client, 2, &id);
    other.send("still here\n");
    other.expect("still here\r\n");
}

#[test]
fn a_terminal_that_nobody_has_open_for_a_moment_goes_on() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let script = "exec <&- >&- 2>&-; sleep 0.2; echo back > /dev/pts/0";
    let id = with_terminal(&mut shim, &mut client, script);
    assert_eq!(client.exit_of(id.as_str()).code, 0);
    assert_eq!(shim.records(&id), ["stdout F back"]);
}

#[test]
fn an_attach_that_cannot_be_is_refused() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (id, _) = shim.run(&mut client, "while :; do sleep 1; done");
    assert_eq!(client.fails(Body::Attach(request(1, &id))).kind, FailureKind::BadRequest);
    let nothing = StartAttach { stdin: false, stdout: false, stderr: false, ..request(1, &id) };
    assert_eq!(client.fails(Body::Attach(nothing)).kind, FailureKind::BadRequest);
    let resize = Body::Resize { container: id.to_string(), columns: 80, rows: 24 };
    assert_eq!(client.fails(resize).kind, FailureKind::WrongState);
    let nobody = StartAttach { container: "0".repeat(64), ..request(1, &id) };
    assert_eq!(refused(&mut client, nobody), FailureKind::NotFound);
    let held: Vec<Attached> = (1..=64).map(|number| attach(&mut client, number, &id)).collect();
    // The number is taken; there are too many.
    assert_eq!(refused(&mut client, request(1, &id)), FailureKind::WrongState);
    assert_eq!(refused(&mut client, request(65, &id)), FailureKind::WrongState);
    drop(held);
    client.done(Body::Kill { container: id.to_string(), signal: 9, all: true });
    client.exit_of(id.as_str());
    assert_eq!(refused(&mut client, request(1, &id)), FailureKind::WrongState);
}

#[track_caller]
fn refused(client: &mut Client, wanted: StartAttach) -> FailureKind {
    let null = std::fs::File::open("/dev/null").unwrap();
    let one = StartAttach { stdin: false, stderr: false, ..wanted };
    let sent = client.send(Body::Attach(one), &[null.as_fd()]);
    match client.answer_to(sent) {
        Response::Failed(failure) => failure.kind,
        other => panic!("not refused but {other:?}"),
    }
}
