//! What a daemon of version 3 and a shim said to each other about everything that version 1 did not have:
//! clients at a container's files, containers of other runtimes, a pod's user namespace.

use model::{IdMapping, IdMaps};
use shim_protocol::{
    AttachEnd, Body, Event, Exit, FromShim, Hello, ImagePlace, Places, PodReady, PodSetup, Request,
    Response, RuntimeKind, RuntimeProgram, StartAttach, StartContainer, StartExec, StartExternal,
    Started,
};

use super::conversation::Said;

fn id(digit: &str) -> String {
    digit.repeat(64)
}

fn setup() -> PodSetup {
    let map = |host_id| IdMapping { container_id: 0, host_id, length: 65_536 };
    PodSetup {
        sandbox: id("a"),
        new_net: true,
        users: Some(IdMaps { uids: vec![map(500_000)], gids: vec![map(600_000)] }),
        shm_label: Some("system_u:object_r:container_file_t:s0:c1,c2".into()),
        ..PodSetup::default()
    }
}

fn external() -> StartExternal {
    let pod = "/run/knarr/pods/a";
    StartExternal {
        start: StartContainer {
            container: id("d"),
            plan: vec![4, 5, 6],
            log_path: Some("/var/log/pods/web/0.log".into()),
            pid_target: Some(id("b")),
            ..StartContainer::default()
        },
        runtime: RuntimeProgram {
            path: "/usr/bin/runsc".into(),
            kind: RuntimeKind::Sandbox,
            options: vec!["--platform=systrap".into()],
            root: "/run/knarr/handlers/gvisor".into(),
        },
        bundle: "/var/lib/knarr/pods/a/containers/d".into(),
        places: Places {
            dir: pod.into(),
            scratch: format!("{pod}/bundles/d"),
            rootfs: format!("{pod}/bundles/d/rootfs"),
            pod_pid: format!("{pod}/pid"),
            pod_user: format!("{pod}/user"),
            images: vec![ImagePlace {
                path: format!("{pod}/images/0"),
                lower: vec!["/var/lib/knarr/layers/2".into(), "/var/lib/knarr/layers/1".into()],
            }],
        },
    }
}

pub fn conversation() -> Vec<Said> {
    let hello = |pid| Hello { version: 3, build: "0.1.0".into(), pid };
    let asked = |id, body| Said::Daemon(Request { id, body });
    let answered = |id, response| Said::Shim(FromShim::Reply { id, response });
    let told = |event| Said::Shim(FromShim::Event(event));
    let started = |pid| Response::Started(Started { pid, started_at: 5, ..Started::default() });
    let attach = StartAttach {
        attach: 1,
        container: id("d"),
        stdin: true,
        stdout: true,
        ..StartAttach::default()
    };
    let of_runtime = Some(br#"{"args":["ls"]}"#.to_vec());
    let exec =
        StartExec { exec: 4, container: id("d"), process: of_runtime, ..StartExec::default() };
    vec![
        asked(1, Body::Hello(hello(10))),
        answered(1, Response::Hello(hello(11))),
        asked(2, Body::SetupPod(Box::new(setup()))),
        answered(2, Response::PodReady(PodReady::default())),
        asked(3, Body::StartExternal(Box::new(external()))),
        answered(3, started(13)),
        asked(4, Body::Exec(Box::new(exec))),
        answered(4, started(14)),
        asked(5, Body::Attach(attach)),
        answered(5, Response::Done),
        asked(6, Body::Resize { container: id("d"), columns: 80, rows: 300 }),
        answered(6, Response::Done),
        asked(7, Body::CloseStdin { attach: 1 }),
        answered(7, Response::Done),
        asked(8, Body::Detach { attach: 1 }),
        answered(8, Response::Done),
        told(Event::AttachEnded { attach: 1, end: AttachEnd::Detached }),
        told(Event::AttachEnded { attach: 2, end: AttachEnd::TooSlow }),
        told(Event::AttachEnded { attach: 3, end: AttachEnd::ContainerEnded }),
        asked(9, Body::HangUpExec { exec: 4 }),
        answered(9, Response::Done),
        told(Event::ExecExited { exec: 4, exit: Exit { code: 129, ..Exit::default() } }),
    ]
}
