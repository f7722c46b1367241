//! Telling a seccomp agent of a process whose filter asks it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;

use crate::error::{At, LaunchError, Step};
use crate::hooks::Status;
use crate::plan::{ListenerPlan, ProcessPlan};

/// An agent that is there.
#[derive(Debug)]
pub(crate) struct Agent {
    plan: ListenerPlan,
    socket: OwnedFd,
    status: Status,
    /// The container's first process, where that is another than the filtered one.
    first: Option<Pid>,
}

impl Agent {
    /// Finds the agent a process needs; call it in the host's mount namespace.
    pub(crate) fn of(
        process: &ProcessPlan,
        status: Status,
        first: Option<Pid>,
    ) -> Result<Option<Self>, LaunchError> {
        let listener = process.seccomp.as_ref().and_then(|filter| filter.listener.as_ref());
        listener.map(|plan| Self::find(plan, status, first)).transpose()
    }

    pub(crate) fn find(
        plan: &ListenerPlan,
        status: Status,
        first: Option<Pid>,
    ) -> Result<Self, LaunchError> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let socket = rustix::fs::open(plan.path.as_str(), flags, Mode::empty())
            .at(Step::SeccompAgent, &plan.path)?;
        Ok(Self { plan: plan.clone(), socket, status, first })
    }

    /// Sends the listener of a process, as the launcher's PID namespace numbers it.
    pub(crate) fn tell(&self, pid: Pid, listener: impl AsFd) -> Result<(), LaunchError> {
        let ListenerPlan { path, head, state } = &self.plan;
        let number = pid.as_raw_nonzero();
        let first = self.first.unwrap_or(pid).as_raw_nonzero();
        let status = self.status.as_str();
        let text = format!(
            "{head},\"pid\":{number},\"state\":{state},\"status\":\"{status}\",\"pid\":{first}}}}}"
        );
        // The launcher may be in a mount namespace where the path means nothing.
        let socket = format!("/proc/self/fd/{}", self.socket.as_raw_fd());
        sys::fdpass::send_to_path(&socket, text.as_bytes(), listener.as_fd())
            .at(Step::SeccompAgent, path)
    }
}
