//! What containers write.

use shim_protocol::{Body, FailureKind};

use crate::fixture::{Shim, can_run, records, until};

#[test]
fn both_streams_are_logged_in_the_kubelets_format() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (id, _) = shim.run(&mut client, "echo one; echo two >&2; echo; printf 'three\\r\\nrest'");
    client.exit_of(id.as_str());
    let (mut out, err): (Vec<String>, Vec<String>) =
        shim.records(&id).into_iter().partition(|record| record.starts_with("stdout"));
    assert_eq!(err, ["stderr F two"]);
    assert_eq!(out.pop().as_deref(), Some("stdout P rest"));
    assert_eq!(out, ["stdout F one", "stdout F ", "stdout F three"]);
    let text = std::fs::read_to_string(shim.log_of(&id)).unwrap();
    for line in text.lines() {
        let stamp = line.split(' ').next().unwrap();
        assert_eq!(stamp.len(), "2025-01-01T00:00:00.000000000Z".len(), "{stamp}");
        assert!(stamp.starts_with("20") && stamp.ends_with('Z'), "{stamp}");
    }
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(shim.log_of(&id)).unwrap());
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn a_long_line_comes_in_parts_and_nothing_is_lost() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let records = shim
        .output(&mut client, "i=0; while [ $i -lt 50000 ]; do echo -n ab; i=$((i+1)); done; echo");
    let joined: String = records
        .iter()
        .map(|record| {
            record.strip_prefix("stdout P ").or_else(|| record.strip_prefix("stdout F ")).unwrap()
        })
        .collect();
    assert_eq!(joined.len(), 100_000);
    assert_eq!(records.len(), 7);
    assert!(records[..6].iter().all(|record| record.len() == "stdout P ".len() + 16_384));
}

#[test]
fn a_chatty_container_does_not_starve_another() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (chatty, _) =
        shim.run(&mut client, "while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done");
    assert_eq!(shim.output(&mut client, "echo still here"), ["stdout F still here"]);
    client.done(Body::Kill { container: chatty.to_string(), signal: 9, all: true });
    assert_eq!(client.exit_of(chatty.as_str()).code, 137);
}

#[test]
fn rotation_loses_nothing() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (id, _) = shim.run(&mut client, "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done");
    let (path, rotated) = (shim.log_of(&id), shim.path("rotated.log"));
    std::fs::rename(&path, &rotated).unwrap();
    match client.ask(Body::ReopenLog { container: id.to_string() }) {
        shim_protocol::Response::Done => {}
        // It was faster than this test.
        shim_protocol::Response::Failed(failure) => {
            assert_eq!(failure.kind, FailureKind::WrongState);
            std::fs::write(&path, "").unwrap();
        }
        other => panic!("{other:?}"),
    }
    client.exit_of(id.as_str());
    let all = [records(&rotated), records(&path)].concat();
    let want: Vec<String> = (0..3000).map(|number| format!("stdout F {number}")).collect();
    assert_eq!(all, want);
}

#[test]
fn a_reopen_that_fails_keeps_the_old_log() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (mut start, id, _) =
        shim.container("while [ ! -e /tmp/go ]; do sleep 0.01; done; echo kept");
    let (dir, moved) = (shim.path("logs"), shim.path("moved"));
    std::fs::create_dir(&dir).unwrap();
    start.log_path = Some(dir.join("0.log").to_str().unwrap().to_owned());
    shim.started(&mut client, start);
    std::fs::rename(&dir, &moved).unwrap();
    let failure = client.fails(Body::ReopenLog { container: id.to_string() });
    assert_eq!((failure.kind, failure.errno), (FailureKind::Internal, Some(2)));
    std::fs::write(std::path::Path::new(&shim.root()).join("tmp/go"), "").unwrap();
    client.exit_of(id.as_str());
    assert_eq!(records(&moved.join("0.log")), ["stdout F kept"]);
    assert!(!dir.exists());
}

#[test]
fn a_log_that_cannot_be_opened_refuses_the_start() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (mut start, ..) = shim.container("true");
    start.log_path = Some(shim.path("missing/0.log").to_str().unwrap().to_owned());
    let failure = client.fails(Body::Start(Box::new(start)));
    assert!(failure.message.contains("missing/0.log"), "{}", failure.message);
    assert!(shim.cgroups_left().is_empty());
    assert!(client.state().containers.is_empty());
}

#[test]
fn without_a_log_output_is_read_and_dropped() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    // More than a pipe holds.
    let (mut start, id, _) =
        shim.container("i=0; while [ $i -lt 5000 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done; exit 6");
    start.log_path = None;
    shim.started(&mut client, start);
    assert_eq!(client.exit_of(id.as_str()).code, 6);
}

#[test]
fn a_terminal_is_one_stream_called_stdout() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (mut start, id, mut plan) = shim.container("tty >/tmp/tty; echo out; echo err >&2; exit 8");
    plan.process.terminal = true;
    start.plan = plan.encode();
    shim.started(&mut client, start);
    assert_eq!(client.exit_of(id.as_str()).code, 8);
    assert_eq!(shim.records(&id), ["stdout F out", "stdout F err"]);
    let tty = std::fs::read_to_string(std::path::Path::new(&shim.root()).join("tmp/tty")).unwrap();
    assert!(tty.starts_with("/dev/"), "{tty}");
}

#[test]
fn stdin_is_empty_unless_it_is_kept_open() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    assert_eq!(shim.output(&mut client, "cat; echo end"), ["stdout F end"]);
    let (mut start, id, _) = shim.container("echo reads; cat; echo end");
    start.stdin = true;
    shim.started(&mut client, start);
    until("it reads", || shim.records(&id) == ["stdout F reads"]);
    assert!(matches!(client.phase(id.as_str()), Some(shim_protocol::Phase::Running(_))));
}

#[test]
fn another_user_may_open_its_standard_files_again() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (mut start, id, mut plan) =
        shim.container("echo again >/proc/self/fd/1; echo err >/proc/self/fd/2");
    (plan.process.uid, plan.process.gid) = (1234, 1234);
    plan.process.capabilities = launch::plan::CapabilitySets::default();
    start.plan = plan.encode();
    shim.started(&mut client, start);
    client.exit_of(id.as_str());
    let mut records = shim.records(&id);
    records.sort();
    assert_eq!(records, ["stderr F err", "stdout F again"]);
}
