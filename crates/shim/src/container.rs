//! One container's life in the shim.
//!
//! ```text
//! Running ──first process reaped──► Draining ──outputs ended, or time up──► Ended ──► forgotten
//! ```
//!
//! The order at the end is fixed: the log is complete, then the exit is recorded, then told.

use std::time::Instant;

use launch::plan::{CgroupPlan, HooksPlan};
use model::ContainerId;
use rustix::fd::OwnedFd;
use rustix::process::Pid;
use shim_protocol::{ContainerSnapshot, Exit, Phase};

use crate::external::{Keeper, Outputs};
use crate::oom::Oom;
use crate::runtime::Runtime;
use crate::stdin::Stdin;
use crate::stdio::Sink;

/// One container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    /// Nanoseconds since the epoch.
    pub(crate) started_at: i64,
    /// Directories only: the settings have been applied.
    pub(crate) cgroup: CgroupPlan,
    /// Its first process is PID 1 of a namespace of its own, which the kernel ends with it.
    pub(crate) own_pidns: bool,
    /// When the first process ends, the others must too.
    pub(crate) kill_rest: bool,
    /// What asks it to end; none: SIGTERM.
    pub(crate) stop_signal: Option<i32>,
    /// What is to be run once it is gone; taken by the first who sees to it.
    pub(crate) hooks: Option<HooksPlan>,
    pub(crate) keeper: Keeper,
    /// Of a container in a sandbox: where the sandbox's processes are.
    pub(crate) sandbox_cgroup: Option<CgroupPlan>,
    pub(crate) lifecycle: Lifecycle,
}

/// Where it stands.
#[derive(Debug)]
pub(crate) enum Lifecycle {
    /// The first process has not been reaped.
    Running(Running),
    /// It has; somebody else may still hold its outputs.
    Draining(Draining),
    /// Logged and recorded.
    Ended(Exit),
}

#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    /// Held open so that it does not end while nobody is attached.
    pub(crate) stdin: Option<Stdin>,
    pub(crate) sink: Sink,
    pub(crate) oom: Oom,
    /// Of a container without a process of its own on the host: what the command that stands for it
    /// says of its end.
    pub(crate) wait: Option<Outputs>,
}

#[derive(Debug)]
pub(crate) struct Draining {
    pub(crate) pid: Pid,
    pub(crate) exit: Exit,
    pub(crate) sink: Sink,
    pub(crate) until: Instant,
}

impl Container {
    /// Where the OOM killer comes to it.
    pub(crate) fn oom_cgroup(&self) -> &CgroupPlan {
        self.sandbox_cgroup.as_ref().unwrap_or(&self.cgroup)
    }

    /// For `State`.
    pub(crate) fn snapshot(&self) -> ContainerSnapshot {
        let running = |pid: Pid| Phase::Running(pid.as_raw_nonzero().get());
        let phase = match &self.lifecycle {
            Lifecycle::Running(running_now) => running(running_now.pid),
            Lifecycle::Draining(draining) => running(draining.pid),
            Lifecycle::Ended(exit) => Phase::Exited(exit.clone()),
        };
        ContainerSnapshot {
            container: self.id.as_str().to_owned(),
            started_at: self.started_at,
            phase,
        }
    }

    /// Its outputs, until it has ended.
    pub(crate) fn sink(&mut self) -> Option<&mut Sink> {
        match &mut self.lifecycle {
            Lifecycle::Running(running) => Some(&mut running.sink),
            Lifecycle::Draining(draining) => Some(&mut draining.sink),
            Lifecycle::Ended(_) => None,
        }
    }

    fn has_output(&self, number: u64) -> bool {
        match &self.lifecycle {
            Lifecycle::Running(running) => running.sink.has(number),
            Lifecycle::Draining(draining) => draining.sink.has(number),
            Lifecycle::Ended(_) => false,
        }
    }

    /// Its first process, if that has not been reaped.
    pub(crate) fn running(&self) -> Option<&Running> {
        match &self.lifecycle {
            Lifecycle::Running(running) => Some(running),
            Lifecycle::Draining(_) | Lifecycle::Ended(_) => None,
        }
    }

    /// As [`Self::running`].
    pub(crate) fn running_mut(&mut self) -> Option<&mut Running> {
        match &mut self.lifecycle {
            Lifecycle::Running(running) => Some(running),
            Lifecycle::Draining(_) | Lifecycle::Ended(_) => None,
        }
    }

    /// It is about to be sent SIGKILL.
    pub(crate) fn kill_requested(&mut self, runtime: &Runtime) {
        let kills = runtime.oom_kills(self.oom_cgroup());
        if let Some(running) = self.running_mut() {
            running.oom.kill_requested(running.pid, kills);
        }
    }

    /// When the OOM killer's visit is to be looked at.
    pub(crate) fn looks_at(&self) -> Option<Instant> {
        self.running().and_then(|running| running.oom.look_at())
    }

    /// Whether killing its first process now kills them all.
    pub(crate) fn dies_with_its_first(&self) -> bool {
        self.own_pidns && self.running().is_some()
    }

    /// When its outputs are no longer waited for.
    pub(crate) fn drains_until(&self) -> Option<Instant> {
        match &self.lifecycle {
            Lifecycle::Draining(draining) => Some(draining.until),
            Lifecycle::Running(_) | Lifecycle::Ended(_) => None,
        }
    }

    /// Whether it stands for the pod itself: it ends when the others have, not when it is asked to.
    pub(crate) fn is_sandbox(&self) -> bool {
        self.keeper.of_signals().is_some() && self.sandbox_cgroup.is_none()
    }

    /// Whether its exit is recorded.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.lifecycle, Lifecycle::Ended(_))
    }
}

/// The pod's containers. There are few: they are searched one by one.
#[derive(Debug, Default)]
pub(crate) struct Containers(Vec<Container>);

impl Containers {
    pub(crate) fn get(&self, id: &str) -> Option<&Container> {
        self.0.iter().find(|container| container.id.as_str() == id)
    }

    pub(crate) fn get_mut(&mut self, id: &str) -> Option<&mut Container> {
        self.0.iter_mut().find(|container| container.id.as_str() == id)
    }

    pub(crate) fn by_output(&mut self, number: u64) -> Option<&mut Container> {
        self.0.iter_mut().find(|container| container.has_output(number))
    }

    pub(crate) fn by_pid(&mut self, pid: Pid) -> Option<&mut Container> {
        self.0
            .iter_mut()
            .find(|container| container.running().is_some_and(|running| running.pid == pid))
    }

    pub(crate) fn by_oom_watch(&mut self, number: u64) -> Option<&mut Container> {
        self.0
            .iter_mut()
            .find(|container| container.running().is_some_and(|running| running.oom.has(number)))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Container> {
        self.0.iter_mut()
    }

    pub(crate) fn insert(&mut self, container: Container) {
        self.0.push(container);
    }

    pub(crate) fn remove(&mut self, id: &str) {
        self.0.retain(|container| container.id.as_str() != id);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Container> {
        self.0.iter()
    }
}
