//! What a daemon of version 1 and a shim said to each other in the life of one pod. Compiled by that
//! version it wrote `version1.txt`.

use shim_protocol::{
    Body, ContainerSnapshot, Event, Exit, Failure, FailureKind, FromShim, Hello, Phase, PodReady,
    PodSetup, Request, Response, StartContainer, StartExec, Started, StateReport, Sysctl, Warning,
};

pub enum Said {
    Daemon(Request),
    Shim(FromShim),
}

pub fn conversation() -> Vec<Said> {
    let id = |digit: &str| digit.repeat(64);
    let hello = |pid| Hello { version: 1, build: "0.1.0".into(), pid };
    let asked = |id, body| Said::Daemon(Request { id, body });
    let answered = |id, response| Said::Shim(FromShim::Reply { id, response });
    let exit = Exit { code: 137, signal: Some(9), oom_killed: true, finished_at: 1_764_000_009 };
    let warning = Warning { what: "memory.high".into(), why: "no such file".into() };
    let failure =
        |kind, errno| Response::Failed(Failure { kind, message: "cannot do that".into(), errno });
    let setup = PodSetup {
        sandbox: id("a"),
        new_net: true,
        new_ipc: true,
        new_uts: true,
        shared_pid: true,
        hostname: Some("web".into()),
        sysctls: vec![Sysctl { name: "net.ipv4.ip_forward".into(), value: "1".into() }],
        netns_path: Some("/run/netns/knarr-a".into()),
        shm_bytes: Some(64 << 20),
        shm_path: Some("/run/knarr/pods/a/shm".into()),
        pause_plan: Some(vec![1, 2, 3]),
        ..PodSetup::default()
    };
    let start = StartContainer {
        container: id("b"),
        plan: vec![4, 5, 6],
        log_path: Some("/var/log/pods/web/0.log".into()),
        stdin: true,
        stdin_once: true,
        kill_rest: true,
        ..StartContainer::default()
    };
    let exec = StartExec {
        exec: 3,
        container: id("b"),
        plan: vec![7, 8, 9],
        terminal: true,
        ..StartExec::default()
    };
    let report = StateReport {
        ready: true,
        pause_pid: Some(12),
        containers: vec![
            ContainerSnapshot { container: id("b"), started_at: 5, phase: Phase::Running(13) },
            ContainerSnapshot {
                container: id("c"),
                started_at: 6,
                phase: Phase::Exited(Exit { code: 3, signal: None, ..exit.clone() }),
            },
        ],
        execs: Some(vec![3]),
    };
    let started = Started { pid: 13, started_at: 1_764_000_000, warnings: vec![warning.clone()] };
    vec![
        asked(1, Body::Hello(hello(10))),
        answered(1, Response::Hello(hello(11))),
        asked(2, Body::SetupPod(Box::new(setup))),
        answered(2, Response::PodReady(PodReady { pause_pid: Some(12), warnings: vec![warning] })),
        asked(3, Body::Start(Box::new(start))),
        answered(3, Response::Started(started)),
        asked(4, Body::Exec(Box::new(exec))),
        answered(4, Response::Started(Started { pid: 14, ..Started::default() })),
        asked(5, Body::State),
        answered(5, Response::State(report)),
        asked(6, Body::ReopenLog { container: id("b") }),
        answered(6, Response::Done),
        asked(7, Body::KillExec { exec: 3 }),
        answered(7, failure(FailureKind::NotFound, None)),
        Said::Shim(FromShim::Event(Event::ExecExited { exec: 3, exit: Exit::default() })),
        asked(8, Body::Kill { container: id("b"), signal: 9, all: true }),
        answered(8, Response::Done),
        Said::Shim(FromShim::Event(Event::Exited { container: id("b"), exit: exit.clone() })),
        asked(9, Body::Forget { container: id("b") }),
        answered(9, failure(FailureKind::WrongState, Some(16))),
        answered(10, failure(FailureKind::CannotExec, Some(2))),
        answered(11, failure(FailureKind::Cgroup, Some(28))),
        answered(12, failure(FailureKind::Mount, Some(22))),
        answered(13, failure(FailureKind::Internal, Some(5))),
        answered(14, failure(FailureKind::BadRequest, None)),
        Said::Shim(FromShim::Event(Event::PauseExited(exit))),
        asked(15, Body::Shutdown),
        answered(15, Response::Done),
    ]
}
