//! Start, end, kill, forget, and a daemon that goes and comes back.

use std::path::Path;

use launch::plan::{Hierarchy, PidNamespace};
use shim_protocol::{Body, Exit, FailureKind, Phase};

use crate::fixture::{Shim, can_run, until};
use crate::plans;

/// `statfs(2)` of a namespace: `NSFS_MAGIC`.
const NSFS: rustix::fs::FsWord = 0x6e73_6673;

#[test]
fn an_exit_code_is_told_recorded_and_reported() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (id, _) = shim.run(&mut client, "exit 7");
    let exit = client.exit_of(id.as_str());
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (7, None, false));
    assert!(exit.finished_at > 0);
    let record = std::fs::read_to_string(shim.exit_record(&id)).unwrap();
    assert_eq!(Exit::from_file(&record), Ok(exit.clone()));
    assert_eq!(client.phase(id.as_str()), Some(Phase::Exited(exit)));
    client.done(Body::Kill { container: id.to_string(), signal: 15, all: false });
    client.done(Body::Kill { container: id.to_string(), signal: 9, all: true });
    client.done(Body::Forget { container: id.to_string() });
    client.done(Body::Forget { container: id.to_string() });
    assert!(!shim.exit_record(&id).exists());
    assert_eq!(client.phase(id.as_str()), None);
    assert!(shim.cgroups_left().is_empty());
}

#[test]
fn a_signal_reaches_the_first_process() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (trapping, _) = shim.run(
        &mut client,
        "trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.01; done",
    );
    until("it is ready", || shim.records(&trapping) == ["stdout F ready"]);
    client.done(Body::Kill { container: trapping.to_string(), signal: 15, all: false });
    assert_eq!(client.exit_of(trapping.as_str()).code, 3);
    assert_eq!(shim.records(&trapping), ["stdout F ready", "stdout F got it"]);

    let (id, _) = shim.run(&mut client, "while :; do sleep 1; done");
    client.done(Body::Kill { container: id.to_string(), signal: 9, all: true });
    let exit = client.exit_of(id.as_str());
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), false));
}

#[test]
fn requests_that_make_no_sense_are_refused_by_kind() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let nobody = "0".repeat(64);
    let kill = |container: &str, signal| Body::Kill {
        container: container.to_owned(),
        signal,
        all: false,
    };
    assert_eq!(client.fails(kill(&nobody, 9)).kind, FailureKind::NotFound);
    assert_eq!(client.fails(Body::KillExec { exec: 9 }).kind, FailureKind::NotFound);
    assert_eq!(
        client.fails(Body::ReopenLog { container: nobody.clone() }).kind,
        FailureKind::NotFound
    );
    let out = Body::Forget { container: "../../etc/passwd".to_owned() };
    assert_eq!(client.fails(out).kind, FailureKind::BadRequest);
    assert_eq!(client.fails(Body::SetupPod(Box::new(shim.setup()))).kind, FailureKind::WrongState);

    let (id, _) = shim.run(&mut client, "while :; do sleep 1; done");
    assert_eq!(client.fails(kill(id.as_str(), 0)).kind, FailureKind::BadRequest);
    assert_eq!(client.fails(kill(id.as_str(), 65)).kind, FailureKind::BadRequest);
    assert_eq!(
        client.fails(Body::Forget { container: id.to_string() }).kind,
        FailureKind::WrongState
    );
    let (mut again, ..) = shim.container("true");
    again.container = id.to_string();
    assert_eq!(client.fails(Body::Start(Box::new(again))).kind, FailureKind::WrongState);
    let (mut bad, ..) = shim.container("true");
    bad.plan = b"nonsense".to_vec();
    assert_eq!(client.fails(Body::Start(Box::new(bad))).kind, FailureKind::BadRequest);
}

#[test]
fn a_program_that_is_missing_fails_the_start_and_leaves_nothing() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let open_files = || std::fs::read_dir(format!("/proc/{}/fd", shim.pid())).unwrap().count();
    // An answer means that the one before has been sent, with its file.
    client.state();
    let before = open_files();
    let (mut start, id, mut plan) = shim.container("");
    plan.process.args = vec!["/bin/no-such-program".to_owned()];
    start.plan = plan.encode();
    let failure = client.fails(Body::Start(Box::new(start)));
    assert_eq!((failure.kind, failure.errno), (FailureKind::CannotExec, Some(2)), "{failure:?}");
    assert!(failure.message.contains("/bin/no-such-program"), "{}", failure.message);
    assert_eq!(client.phase(id.as_str()), None);
    assert!(shim.cgroups_left().is_empty());
    let pid = shim.pid();
    assert_eq!(std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(), before);
    // The name is free again.
    let (mut start, _, mut plan) = shim.container("exit 4");
    start.container = id.to_string();
    plan.process.env.clear();
    start.plan = plan.encode();
    shim.started(&mut client, start);
    assert_eq!(client.exit_of(id.as_str()).code, 4);
}

#[test]
fn a_daemon_that_dies_finds_everything_when_it_is_back() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (stays, _) = shim.run(&mut client, "echo before; echo after; while :; do sleep 1; done");
    let fifo = Path::new(&shim.root()).join("tmp/end");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    let (ends, _) = shim.run(&mut client, "cat /tmp/end; exit 5");
    drop(client);

    // Ends while nobody is connected.
    std::fs::write(&fifo, "bye\n").unwrap();
    let mut client = shim.client();
    let mut exit = Exit::default();
    until("it has ended", || match client.phase(ends.as_str()) {
        Some(Phase::Exited(how)) => {
            exit = how;
            true
        }
        Some(Phase::Running(_)) | None => false,
    });
    assert_eq!(exit.code, 5);
    assert_eq!(shim.records(&ends), ["stdout F bye"]);
    assert!(matches!(client.phase(stays.as_str()), Some(Phase::Running(pid)) if pid > 0));
    let state = client.state();
    assert!(state.ready);
    assert_eq!(state.execs, Some(Vec::new()));
    until("the other one has logged", || {
        shim.records(&stays) == ["stdout F before", "stdout F after"]
    });
}

#[test]
fn the_oom_killer_is_told_from_any_other() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (mut start, id, mut plan) = shim.container("");
    if !plans::limit_memory(&mut plan.cgroup, 16 << 20) {
        return println!("skipped: no memory controller");
    }
    // tail keeps what has no line end in memory.
    plan.process.args = ["/bin/tail", "/dev/zero"].map(str::to_owned).into();
    start.plan = plan.encode();
    shim.started(&mut client, start);
    let exit = client.exit_of(id.as_str());
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), true));
}

#[test]
fn a_container_without_a_pid_namespace_takes_the_rest_with_it() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (mut start, id, mut plan) = shim.container("sleep 1000 & echo $!; exit 0");
    plan.namespaces.pid = PidNamespace::Inherit;
    start.plan = plan.encode();
    start.kill_rest = true;
    shim.started(&mut client, start);
    assert_eq!(client.exit_of(id.as_str()).code, 0);
    client.done(Body::Forget { container: id.to_string() });
    assert!(shim.cgroups_left().is_empty());
}

#[test]
fn output_held_by_a_stranger_does_not_hold_the_exit_for_ever() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (mut start, id, mut plan) = shim.container("sleep 1000 & echo -n unfinished; exit 2");
    plan.namespaces.pid = PidNamespace::Inherit;
    start.plan = plan.encode();
    shim.started(&mut client, start);
    assert_eq!(client.exit_of(id.as_str()).code, 2);
    assert_eq!(shim.records(&id), ["stdout P unfinished"]);
    client.done(Body::Kill { container: id.to_string(), signal: 9, all: true });
    client.done(Body::Forget { container: id.to_string() });
}

#[test]
fn a_frozen_container_can_be_killed() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    for all in [true, false] {
        let (id, plan) = shim.run(&mut client, "while :; do sleep 1; done");
        let files = plan.cgroup.groups.iter().filter_map(|group| match &group.hierarchy {
            Hierarchy::V2 => Some((format!("{}/cgroup.freeze", group.path), "1")),
            Hierarchy::V1(controllers) => controllers
                .iter()
                .any(|name| name == "freezer")
                .then(|| (format!("{}/freezer.state", group.path), "FROZEN")),
        });
        for (file, value) in files {
            std::fs::write(file, value).unwrap();
        }
        client.done(Body::Kill { container: id.to_string(), signal: 9, all });
        assert_eq!(client.exit_of(id.as_str()).code, 137);
    }
}

#[test]
fn every_process_gets_a_signal_that_is_meant_for_all() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let script = "trap 'echo child; exit 0' USR1; echo ready; while :; do sleep 0.01; done";
    let (id, _) = shim
        .run(&mut client, &format!("trap 'echo first' USR1; ({script}) & wait; wait; echo end"));
    until("it is ready", || shim.records(&id) == ["stdout F ready"]);
    client.done(Body::Kill { container: id.to_string(), signal: 10, all: true });
    client.exit_of(id.as_str());
    let mut records = shim.records(&id);
    // The shells say what ended their sleeps.
    records.retain(|record| record.starts_with("stdout"));
    records.sort();
    assert_eq!(records, ["stdout F child", "stdout F end", "stdout F first", "stdout F ready"]);
}

#[test]
fn containers_that_came_and_went_leave_no_file_and_no_memory() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let pid = shim.pid();
    // Not `status`: its counters are only roughly right.
    let number = |file: &str, key: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    client.state();
    let before = std::fs::read_dir(format!("/proc/{}/fd", shim.pid())).unwrap().count();
    let mut cycle = |shim: &mut Shim| {
        let (id, plan) =
            shim.run(&mut client, "head -c 200000 /dev/zero; while :; do sleep 1; done");
        client.exec(crate::fixture::exec(1, &id, &plan, "head -c 20000 /dev/zero"));
        client.done(Body::Kill { container: id.to_string(), signal: 9, all: true });
        client.exit_of(id.as_str());
        client.done(Body::Forget { container: id.to_string() });
    };
    // What the allocator keeps is there after the first few.
    (0..5).for_each(|_| cycle(&mut shim));
    let anonymous = number("smaps_rollup", "Anonymous:");
    (0..60).for_each(|_| cycle(&mut shim));
    let files = std::fs::read_dir(format!("/proc/{}/fd", shim.pid())).unwrap().count();
    assert_eq!(files, before);
    assert_eq!(number("status", "Threads:"), 1);
    // One plan kept per container would be several times this.
    let after = number("smaps_rollup", "Anonymous:");
    assert!(after <= anonymous + 64, "{anonymous} kB, then {after} kB");
}

#[test]
fn containers_do_not_inherit_what_is_the_shims() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let score = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let records = shim.output(
        &mut client,
        "grep -E '^Sig(Blk|Ign)' /proc/self/status | tr -d '\\t'; cat /proc/self/oom_score_adj; ls /proc/self/fd | wc -l; umask",
    );
    // 0, 1, 2 and the directory that is listed.
    let want = ["SigBlk:0000000000000000", "SigIgn:0000000000000000", score.trim(), "4", "0022"];
    assert_eq!(records, want.map(|line| format!("stdout F {line}")));
}

#[test]
fn a_shim_that_gets_sigterm_stops_its_containers_records_their_ends_and_leaves() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let script = "trap 'echo TERM; exit 3' TERM; trap 'echo USR1; exit 4' USR1; echo ready; \
                  while :; do sleep 0.01; done";
    let (by_term, _) = shim.run(&mut client, script);
    let (mut start, by_usr1, _) = shim.container(script);
    start.stop_signal = Some(10);
    shim.started(&mut client, start);
    for id in [&by_term, &by_usr1] {
        until("it is ready", || shim.records(id) == ["stdout F ready"]);
    }
    shim.terminate();
    assert_eq!(client.exit_of(by_term.as_str()).code, 3);
    assert_eq!(client.exit_of(by_usr1.as_str()).code, 4);
    assert!(shim.wait().success());
    assert_eq!(shim.records(&by_term), ["stdout F ready", "stdout F TERM"]);
    assert_eq!(shim.records(&by_usr1), ["stdout F ready", "stdout F USR1"]);
    for (id, code) in [(&by_term, 3), (&by_usr1, 4)] {
        let record = std::fs::read_to_string(shim.exit_record(id)).unwrap();
        assert_eq!(Exit::from_file(&record).unwrap().code, code);
    }
    assert!(shim.cgroups_left().is_empty());
    // For the daemon, which takes the network away.
    assert!(rustix::fs::statfs(shim.pin()).is_ok_and(|pin| pin.f_type == NSFS));
}

#[test]
fn what_ignores_its_stop_signal_is_killed_and_nothing_new_begins_meanwhile() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let (id, _) = shim.run(&mut client, "trap '' TERM; echo ready; while :; do sleep 0.01; done");
    until("it is ready", || shim.records(&id) == ["stdout F ready"]);
    shim.terminate();
    until("it has heard", || shim.log().contains("SIGTERM"));
    let (start, ..) = shim.container("true");
    let refused = client.fails(Body::Start(Box::new(start)));
    assert_eq!(refused.kind, FailureKind::WrongState, "{refused:?}");
    assert!(refused.message.contains("SIGTERM"), "{refused:?}");
    let exit = client.exit_of(id.as_str());
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    assert!(shim.wait().success());
    let record = std::fs::read_to_string(shim.exit_record(&id)).unwrap();
    assert_eq!(Exit::from_file(&record), Ok(exit));
    assert!(shim.cgroups_left().is_empty());
}
