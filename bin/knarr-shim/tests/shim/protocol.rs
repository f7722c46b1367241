//! Connections: who may talk, what ends one, and that containers do not care.

use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use shim_protocol::{Body, FailureKind, Hello, Response};

use crate::client::Client;
use crate::fixture::{Shim, can_run, exec};

#[test]
fn a_connection_begins_with_hello() {
    if !can_run() {
        return;
    }
    let shim = Shim::start();
    let mut client = Client::connect(&shim.socket());
    assert_eq!(client.fails(Body::State).kind, FailureKind::BadRequest);
    let old = Hello { version: 0, build: String::new(), pid: 1 };
    assert_eq!(client.fails(Body::Hello(old)).kind, FailureKind::BadRequest);
    assert_eq!(client.fails(Body::State).kind, FailureKind::BadRequest);
    let mut client = client.hello();
    assert!(!client.state().ready);
}

#[test]
fn nonsense_ends_only_its_own_connection() {
    if !can_run() {
        return;
    }
    let (mut shim, mut good) = Shim::with_pod();
    let (id, _) = shim.run(&mut good, "while :; do sleep 1; done");
    for nonsense in [&[3, 0, 0, 0, 0xff, 0xff, 0xff][..], &u32::MAX.to_le_bytes()] {
        let mut bad = shim.client();
        bad.socket.write_all(nonsense).unwrap();
        assert!(bad.is_closed());
    }
    assert!(matches!(good.phase(id.as_str()), Some(shim_protocol::Phase::Running(_))));
    assert!(shim.log().contains("closed a connection"), "{}", shim.log());
}

#[test]
fn a_request_of_a_later_version_is_answered() {
    if !can_run() {
        return;
    }
    let shim = Shim::start();
    let mut client = shim.client();
    // Request 2 with variant 99, no fields.
    client.socket.write_all(&[6, 0, 0, 0, 0x82, 2, 0x82, 0x18, 99, 0x80]).unwrap();
    match client.answer_to(2) {
        Response::Failed(failure) => assert_eq!(failure.kind, FailureKind::BadRequest),
        other => panic!("{other:?}"),
    }
    assert!(!client.state().ready);
}

#[test]
fn every_connection_hears_of_an_exit() {
    if !can_run() {
        return;
    }
    let (mut shim, mut first) = Shim::with_pod();
    let mut second = shim.client();
    let (id, _) = shim.run(&mut first, "exit 2");
    assert_eq!(first.exit_of(id.as_str()).code, 2);
    assert_eq!(second.exit_of(id.as_str()).code, 2);
}

#[test]
fn only_so_many_connections_are_open_at_once() {
    if !can_run() {
        return;
    }
    let shim = Shim::start();
    let mut open: Vec<Client> = (0..16).map(|_| shim.client()).collect();
    assert!(Client::connect(&shim.socket()).is_closed());
    drop(open.pop());
    // The shim learns of the end when it reads; the one before it in the queue has been read then.
    open[0].state();
    shim.client();
}

/// The shim may open no more files; what it may otherwise.
fn no_more_files(shim: &Shim) -> (Pid, Rlimit) {
    let process = Pid::from_raw(i32::try_from(shim.pid()).unwrap()).unwrap();
    let entries = std::fs::read_dir(format!("/proc/{}/fd", shim.pid())).unwrap();
    let numbers = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().parse::<u64>());
    let taken: Vec<u64> = numbers.map(Result::unwrap).collect();
    let free = (0..).find(|number| !taken.contains(number));
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: free, maximum };
    (process, prlimit(Some(process), Resource::Nofile, limit).unwrap())
}

#[test]
fn without_descriptors_connections_stay_and_who_cannot_be_accepted_waits() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (id, plan) = shim.run(&mut client, "while :; do sleep 1; done");
    let begun = Instant::now();
    let (process, before) = no_more_files(&shim);
    let waiting = Client::connect(&shim.socket());
    let told = || shim.log().matches("cannot accept a connection").count();
    while told() == 0 {
        std::thread::yield_now();
    }
    // Its files cannot arrive: the request fails, and not the connection with all that hangs on it.
    let null = std::fs::File::open("/dev/null").unwrap();
    let request = Body::Exec(Box::new(exec(1, &id, &plan, "true")));
    let asked = client.send(request, &[null.as_fd(); 3]);
    match client.answer_to(asked) {
        Response::Failed(failure) => {
            assert!(failure.message.contains("Too many open files"), "{failure:?}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(client.phase(id.as_str()), Some(shim_protocol::Phase::Running(_))));
    // Once a second, and not all the time.
    let told = told();
    assert!(u64::try_from(told).unwrap() <= begun.elapsed().as_secs() + 1, "{told} times");
    prlimit(Some(process), Resource::Nofile, before).unwrap();
    assert!(waiting.hello().state().ready);
    shim.shut_down(&mut client);
}

#[test]
fn other_users_are_not_listened_to() {
    if !can_run() {
        return;
    }
    let shim = Shim::start();
    for path in [shim.path(""), shim.socket()] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(path, mode).unwrap();
    }
    let python = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\nsys.stdout.write(repr(s.recv(1)))";
    let connected = std::os::unix::process::CommandExt::uid(
        Command::new("/usr/bin/python3")
            .args(["-c", python])
            .arg(shim.socket())
            .stdin(Stdio::null()),
        65534,
    )
    .output();
    let Ok(output) = connected else { return println!("skipped: no python3 to be another user") };
    assert_eq!(String::from_utf8_lossy(&output.stdout), "b''", "{output:?}");
    assert!(shim.log().contains("user 65534, not root"), "{}", shim.log());
}

#[test]
fn signals_of_terminals_do_not_end_it() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let pid = rustix::process::Pid::from_raw(i32::try_from(shim.pid()).unwrap()).unwrap();
    for signal in
        [rustix::process::Signal::QUIT, rustix::process::Signal::HUP, rustix::process::Signal::INT]
    {
        rustix::process::kill_process(pid, signal).unwrap();
    }
    assert_eq!(shim.output(&mut client, "echo alive"), ["stdout F alive"]);
    shim.shut_down(&mut client);
}

#[test]
fn run_by_hand_it_explains_itself() {
    let shim = || Command::new(env!("CARGO_BIN_EXE_knarr-shim"));
    let version = shim().arg("--version").output().unwrap();
    assert!(String::from_utf8(version.stdout).unwrap().starts_with("knarr-shim "));
    let bare = shim().output().unwrap();
    assert_eq!(bare.status.code(), Some(2));
    assert!(String::from_utf8(bare.stderr).unwrap().contains("usage"));
    let no_socket = shim().arg("/nowhere").stdin(Stdio::null()).output().unwrap();
    assert_eq!(no_socket.status.code(), Some(1));
    assert!(String::from_utf8(no_socket.stderr).unwrap().contains("people do not"));
}
