//! What the pod's containers share: namespaces, `/dev/shm`, perhaps a PID 1.

mod netns;
mod setup;
mod sysctl;

use rustix::fd::{AsFd, OwnedFd};
use rustix::process::Pid;
use shim_protocol::{Failure, FailureKind, PodReady, PodSetup};

use crate::failure::{io_failure, wrong_state};
use crate::runtime::Runtime;
use netns::Pin;

/// The pod.
#[derive(Debug)]
pub(crate) enum Pod {
    /// `SetupPod` has not succeeded.
    Bare,
    /// Containers may start.
    Ready(ReadyPod),
}

/// A pod with its namespaces.
#[derive(Debug)]
pub(crate) struct ReadyPod {
    pin: Option<Pin>,
    pause: Option<Pause>,
}

/// The process that holds the shared PID namespace.
#[derive(Debug)]
struct Pause {
    pid: Pid,
    pidfd: OwnedFd,
    plan: launch::plan::CgroupPlan,
    /// Not reaped yet.
    alive: bool,
}

impl Pod {
    /// Does `SetupPod`: all of it, or nothing.
    ///
    /// # Errors
    /// The first step that failed; the ones before it are undone.
    pub(crate) fn set_up(
        &mut self,
        request: &PodSetup,
        runtime: &mut Runtime,
    ) -> Result<(PodReady, Option<OwnedFd>), Failure> {
        match self {
            Self::Ready(_) => Err(wrong_state("the pod has been set up already")),
            Self::Bare => {
                let done = setup::set_up(request, runtime)?;
                *self = Self::Ready(done.pod);
                Ok((done.ready, done.netns))
            }
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self, Self::Ready(_))
    }

    /// The pause process, if it lives.
    pub(crate) fn pause_pid(&self) -> Option<Pid> {
        self.living_pause().map(|pause| pause.pid)
    }

    /// Notes that the pause process was reaped; false when `pid` is another.
    pub(crate) fn pause_ended(&mut self, pid: Pid) -> bool {
        match self {
            Self::Ready(ReadyPod { pause: Some(pause), .. }) if pause.alive && pause.pid == pid => {
                pause.alive = false;
                true
            }
            Self::Ready(_) | Self::Bare => false,
        }
    }

    /// Ends the pause process, and with it everything in its PID namespace. Does not wait.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn kill_pause(&self) -> Result<(), Failure> {
        self.living_pause().map_or(Ok(()), Pause::kill)
    }

    /// Gives back what stays behind when the shim ends: the pin and pause's cgroup. Can be
    /// repeated.
    ///
    /// # Errors
    /// What could not be released, each by name.
    pub(crate) fn release(&mut self, runtime: &mut Runtime) -> Result<(), Vec<Failure>> {
        let Self::Ready(pod) = self else { return Ok(()) };
        let mut failures = Vec::new();
        if let Some(pause) = &pod.pause {
            failures.extend(runtime.remove_cgroups(&pause.plan).err());
        }
        if let Some(pin) = &pod.pin {
            match pin.release(runtime) {
                Ok(()) => pod.pin = None,
                Err(failure) => failures.push(failure),
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }

    fn living_pause(&self) -> Option<&Pause> {
        match self {
            Self::Ready(ReadyPod { pause: Some(pause), .. }) if pause.alive => Some(pause),
            Self::Ready(_) | Self::Bare => None,
        }
    }
}

impl Pause {
    fn kill(&self) -> Result<(), Failure> {
        sys::pidfd::kill(self.pidfd.as_fd()).map_err(|error| {
            let what = format!("cannot kill the pause process {}", self.pid.as_raw_nonzero());
            io_failure(FailureKind::Internal, what, &error)
        })
    }
}
