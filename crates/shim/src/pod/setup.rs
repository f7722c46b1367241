//! `SetupPod`, step by step, each with its way back.

use std::io;
use std::path::PathBuf;

use failpoint::Point;
use launch::plan::LaunchPlan;
use rustix::fd::{AsFd, OwnedFd};
use rustix::mount::UnmountFlags;
use shim_protocol::{Failure, FailureKind, PodReady, PodSetup, Warning};

use sys::namespace::{self, Kind};
use sys::trace::span;

use super::netns::{self, Pin};
use super::{Pause, ReadyPod, sysctl};
use crate::failure::{also, bad_request, chain, io_failure, reach};
use crate::runtime::{Runtime, directories_only};

/// A pod set up, and what to answer.
pub(super) struct Done {
    pub(super) pod: ReadyPod,
    pub(super) ready: PodReady,
    pub(super) netns: Option<OwnedFd>,
}

/// What exists so far.
#[derive(Default)]
struct Progress {
    /// Where the shim was before.
    left: Vec<(Kind, OwnedFd)>,
    pin: Option<Pin>,
    shm: Option<PathBuf>,
    pause: Option<Pause>,
    warnings: Vec<Warning>,
}

pub(super) fn set_up(request: &PodSetup, runtime: &mut Runtime) -> Result<Done, Failure> {
    let _span = span("shim: set the pod up");
    let pause_plan = check(request)?;
    let mut progress = Progress::default();
    match progress.advance(request, pause_plan, runtime) {
        Ok(netns) => {
            let Progress { pin, pause, warnings, .. } = progress;
            let pause_pid = pause.as_ref().map(|pause| pause.pid.as_raw_nonzero().get());
            let ready = PodReady { pause_pid, warnings };
            Ok(Done { pod: ReadyPod { pin, pause }, ready, netns })
        }
        Err(mut failure) => {
            for undo in progress.undo(runtime) {
                also(&mut failure, &undo);
            }
            Err(failure)
        }
    }
}

/// Everything that can be refused before anything is made. Returns the plan of pause.
fn check(request: &PodSetup) -> Result<Option<LaunchPlan>, Failure> {
    sysctl::check(request)?;
    if request.hostname.is_some() && !request.new_uts {
        return Err(bad_request("a host name needs a UTS namespace of the pod's own"));
    }
    if request.netns_path.is_some() && !request.new_net {
        return Err(bad_request("only a network namespace of the pod's own can be pinned"));
    }
    if request.netns_path.as_ref().is_some_and(|path| !path.starts_with('/')) {
        return Err(bad_request("the pin of a network namespace needs an absolute path"));
    }
    if request.shm_bytes.is_some() != request.shm_path.is_some() {
        return Err(bad_request("/dev/shm needs both a size and a path"));
    }
    match (&request.pause_plan, request.shared_pid) {
        (Some(plan), true) => {
            let plan = LaunchPlan::decode(plan)
                .map_err(|error| bad_request(format!("pause: {}", chain(&error))))?;
            Ok(Some(plan))
        }
        (None, true) => Err(bad_request("a shared PID namespace needs a plan for pause")),
        (_, false) => Ok(None),
    }
}

impl Progress {
    /// Makes everything. The namespaces come first: sysctls, the pin and pause live in them.
    fn advance(
        &mut self,
        request: &PodSetup,
        pause_plan: Option<LaunchPlan>,
        runtime: &mut Runtime,
    ) -> Result<Option<OwnedFd>, Failure> {
        {
            let _span = span("shim: namespaces");
            reach(Point::ShimNamespaces)?;
            self.unshare(request, runtime)?;
        }
        if let Some(name) = &request.hostname {
            rustix::system::sethostname(name.as_bytes())
                .map_err(|error| failed(format!("cannot set the host name {name}"), error))?;
        }
        if request.new_net {
            let _span = span("shim: loopback");
            reach(Point::ShimLoopback)?;
            sys::netlink::set_link_up("lo").map_err(|error| failed("cannot bring lo up", error))?;
        }
        sysctl::write(&request.sysctls, runtime)?;
        if let Some(path) = &request.netns_path {
            let _span = span("shim: pin of the network namespace");
            reach(Point::ShimPin)?;
            self.pin = Some(Pin::make(path, runtime)?);
        }
        if let (Some(path), Some(bytes)) = (&request.shm_path, request.shm_bytes) {
            let _span = span("shim: /dev/shm");
            reach(Point::ShimShm)?;
            let label = request.shm_label.as_deref();
            runtime.mount_shm(path, bytes, request.users.as_ref(), label)?;
            self.shm = Some(PathBuf::from(path));
        }
        if let Some(plan) = pause_plan {
            self.start_pause(plan, runtime)?;
        }
        if !request.new_net {
            return Ok(None);
        }
        netns::open_own(runtime)
            .map(Some)
            .map_err(|error| failed("cannot open the network namespace", error))
    }

    fn unshare(&mut self, request: &PodSetup, runtime: &mut Runtime) -> Result<(), Failure> {
        let wanted = [
            (request.new_net, Kind::Net),
            (request.new_ipc, Kind::Ipc),
            (request.new_uts, Kind::Uts),
        ];
        let kinds: Vec<Kind> =
            wanted.into_iter().filter(|(wanted, _)| *wanted).map(|(_, kind)| kind).collect();
        let mut left = Vec::new();
        for kind in &kinds {
            let own = runtime
                .on_host(|| namespace::own(*kind))
                .map_err(|error| failed("cannot open the host's namespaces", error))?;
            left.push((*kind, own));
        }
        self.left = left;
        if let Some(users) = &request.users {
            // The shim itself stays outside: inside it would have lost its privileges.
            for (kind, owned) in runtime.make_user_namespace(users, &kinds)? {
                namespace::enter(owned.as_fd(), kind)
                    .map_err(|error| failed("cannot enter the pod's namespaces", error))?;
            }
        } else if !kinds.is_empty() {
            namespace::unshare(&kinds)
                .map_err(|error| failed("cannot make the pod's namespaces", error))?;
        }
        Ok(())
    }

    fn start_pause(&mut self, plan: LaunchPlan, runtime: &mut Runtime) -> Result<(), Failure> {
        reach(Point::ShimPause)?;
        let launched = runtime.start_pause(&plan)?;
        self.warnings.extend(launched.warnings);
        self.pause = Some(Pause {
            pid: launched.pid,
            pidfd: launched.pidfd,
            plan: directories_only(plan.cgroup),
            alive: true,
        });
        Ok(())
    }

    /// Takes back what exists, newest first; returns what could not be.
    fn undo(self, runtime: &mut Runtime) -> Vec<Failure> {
        let mut failures = Vec::new();
        if let Some(pause) = self.pause {
            failures.extend(pause.kill().err());
            // It was sent SIGKILL and has no children: this ends at once.
            let ended = sys::pidfd::wait(pause.pidfd.as_fd());
            failures.extend(ended.err().map(|error| failed("cannot reap pause", error)));
            failures.extend(runtime.remove_cgroups(&pause.plan).err());
        }
        if let Some(path) = self.shm {
            let unmounted = rustix::mount::unmount(&path, UnmountFlags::DETACH);
            failures.extend(
                unmounted
                    .err()
                    .map(|error| failed(format!("cannot unmount {}", path.display()), error)),
            );
        }
        if let Some(pin) = self.pin {
            failures.extend(pin.release(runtime).err());
        }
        runtime.drop_user_namespace();
        for (kind, namespace) in self.left {
            let back = namespace::enter(namespace.as_fd(), kind);
            failures.extend(back.err().map(|error| failed("cannot leave a namespace", error)));
        }
        failures
    }
}

fn failed(what: impl std::fmt::Display, cause: impl Into<io::Error>) -> Failure {
    io_failure(FailureKind::Internal, what, &cause.into())
}
