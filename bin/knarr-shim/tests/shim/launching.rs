//! Containers whose start hangs in a file system that does not answer: their pod's other affairs go on.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use launch::plan::{LaunchPlan, MountPlan, MountSource, Propagation};
use model::ContainerId;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use shim_protocol::{Body, Failure, FailureKind, Response, StartContainer};

use crate::client::Client;
use crate::fixture::{Shim, can_run, exec};

const IDLE: &str = "while :; do sleep 1; done";

/// A file system whose server never answers, until it is dropped.
struct Hung {
    dir: PathBuf,
    server: Option<OwnedFd>,
}

impl Hung {
    /// `None` where the kernel has none of that kind.
    fn mount(dir: PathBuf) -> Option<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let server = rustix::fs::open("/dev/fuse", flags, Mode::empty()).ok()?;
        std::fs::create_dir(&dir).unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        let options = Some(options.as_c_str());
        rustix::mount::mount("hung", &dir, "fuse", MountFlags::empty(), options).unwrap();
        Some(Self { dir, server: Some(server) })
    }

    /// Whoever waits for an answer gets an error.
    fn cut_off(&mut self) {
        self.server = None;
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.cut_off();
        rustix::mount::unmount(&self.dir, UnmountFlags::DETACH).unwrap();
    }
}

/// A container whose first process does not get to its program.
fn stuck(shim: &mut Shim, volume: &Path) -> (StartContainer, ContainerId, LaunchPlan) {
    let (mut start, id, mut plan) = shim.container(IDLE);
    plan.mounts.push(MountPlan {
        target: "/tmp".to_owned(),
        source: MountSource::Bind { path: volume.to_str().unwrap().to_owned(), recursive: false },
        attr_set: 0,
        attr_clear: 0,
        attr_recursive: false,
        propagation: Propagation::Private,
        ids: None,
        label: None,
    });
    plan.process.cwd = "/tmp".to_owned();
    start.plan = plan.encode();
    (start, id, plan)
}

#[track_caller]
fn failed(client: &mut Client, request: u64) -> Failure {
    match client.answer_to(request) {
        Response::Failed(failure) => failure,
        other => panic!("no failure but {other:?}"),
    }
}

#[test]
fn a_start_that_hangs_holds_up_nothing_else_and_can_be_ended() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let Some(hung) = Hung::mount(shim.path("hung")) else {
        println!("skipped: needs /dev/fuse");
        return;
    };
    let (beside, beside_plan) = shim.run(&mut client, IDLE);
    let (start, id, _) = stuck(&mut shim, &hung.dir);
    let starting = client.send(Body::Start(Box::new(start.clone())), &[]);

    // What is answered after it has been begun after it.
    client.done(Body::ReopenLog { container: beside.to_string() });
    let (text, _, exit) = client.exec(exec(1, &beside, &beside_plan, "echo meanwhile"));
    assert_eq!((text.as_str(), exit.code), ("meanwhile\n", 0));
    let (ended, _) = shim.run(&mut client, "exit 3");
    assert_eq!(client.exit_of(ended.as_str()).code, 3);
    client.done(Body::Forget { container: ended.to_string() });
    client.done(Body::Kill { container: beside.to_string(), signal: 9, all: true });
    assert_eq!(client.exit_of(beside.as_str()).signal, Some(9));

    // It is neither there nor not.
    assert_eq!(client.fails(Body::Start(Box::new(start.clone()))).kind, FailureKind::WrongState);
    let forget = Body::Forget { container: id.to_string() };
    assert_eq!(client.fails(forget).kind, FailureKind::WrongState);
    let asking = client.send(Body::State, &[]);
    let kill = Body::Kill { container: id.to_string(), signal: 9, all: true };
    let killing = client.send(kill, &[]);
    let failure = failed(&mut client, starting);
    assert!(failure.message.contains("was killed before it ran"), "{failure:?}");
    match client.answer_to(asking) {
        Response::State(report) => {
            assert!(report.containers.iter().all(|it| it.container != id.as_str()), "{report:?}");
        }
        other => panic!("no state but {other:?}"),
    }
    assert_eq!(client.answer_to(killing), Response::Done);
    assert!(!shim.exit_record(&id).exists());
    shim.shut_down(&mut client);
    assert_eq!(shim.cgroups_left(), Vec::<String>::new());
}

#[test]
fn a_start_that_hangs_is_told_why_when_its_file_system_is_cut_off() {
    if !can_run() {
        return;
    }
    let (mut shim, mut client) = Shim::with_pod();
    let Some(mut hung) = Hung::mount(shim.path("hung")) else {
        println!("skipped: needs /dev/fuse");
        return;
    };
    let (start, id, _) = stuck(&mut shim, &hung.dir);
    let starting = client.send(Body::Start(Box::new(start)), &[]);
    hung.cut_off();
    let failure = failed(&mut client, starting);
    assert!(failure.message.contains("/tmp"), "{failure:?}");
    assert_eq!(client.phase(id.as_str()), None);
    assert_eq!(shim.cgroups_left(), Vec::<String>::new());
}

#[test]
fn a_start_that_hangs_does_not_keep_the_pod_from_going() {
    if !can_run() {
        return;
    }
    for terminates in [false, true] {
        let (mut shim, mut client) = Shim::with_pod();
        let Some(hung) = Hung::mount(shim.path("hung")) else {
            println!("skipped: needs /dev/fuse");
            return;
        };
        let (start, ..) = stuck(&mut shim, &hung.dir);
        let starting = client.send(Body::Start(Box::new(start)), &[]);
        // What is answered after it has been begun after it.
        let nobody = Body::KillExec { exec: 1 };
        assert_eq!(client.fails(nobody).kind, FailureKind::NotFound);
        if terminates {
            shim.terminate();
            failed(&mut client, starting);
        } else {
            let ending = client.send(Body::Shutdown, &[]);
            failed(&mut client, starting);
            assert_eq!(client.answer_to(ending), Response::Done);
        }
        assert!(shim.wait().success());
        assert_eq!(shim.cgroups_left(), Vec::<String>::new());
    }
}
