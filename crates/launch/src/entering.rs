//! Processes run inside running containers.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::process::Pid;
use sys::process::NewNamespaces;

use crate::agent::Agent;
use crate::birth::{hidden, spawn};
use crate::cgroup::{Groups, Made};
use crate::child::{Inside, Job, Place, Program, Start};
use crate::error::{At, LaunchError, Step, Warning};
use crate::hooks::Status;
use crate::launcher::{Io, Launcher};
use crate::launching::Progress;
use crate::plan::ExecPlan;
use crate::prepared::{Attempt, Heard, Running, Said, Words, no_hooks};
use crate::report::{self, Reporter};

/// A process on its way into a running container. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Entering {
    console: Option<OwnedFd>,
    warnings: Vec<Warning>,
    attempt: Attempt,
}

impl Entering {
    /// As the launcher's PID namespace numbers it.
    pub fn pid(&self) -> Option<Pid> {
        self.attempt.child.as_ref().map(|child| child.pid)
    }

    /// Becomes readable when there is something for [`Self::advance`].
    pub fn channel(&self) -> BorrowedFd<'_> {
        self.attempt.channel.as_fd()
    }

    /// Takes in what the process has said so far, without waiting for more. One that has ended is
    /// reaped here.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left then.
    pub fn advance(mut self) -> Result<Progress<Self>, LaunchError> {
        loop {
            let waiting = report::has_something(&self.attempt.channel).at(Step::Channel, "")?;
            if !waiting {
                return Ok(Progress::OnItsWay(self));
            }
            match self.attempt.hear(&mut self.console, &mut self.warnings)? {
                None => {}
                Some(Said::Hooks) => return Err(LaunchError::no_hooks_due()),
                Some(Said::Heard(Heard::Ready | Heard::Runs)) => {
                    let Self { console, warnings, attempt } = self;
                    return attempt.succeed(console, warnings).map(Progress::Runs);
                }
            }
        }
    }
}

impl Launcher {
    /// Runs a process inside a running container, whose first process `target` is; waits until it
    /// runs its program.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left then.
    pub fn exec(
        &self,
        plan: &ExecPlan,
        target: BorrowedFd<'_>,
        io: Io<'_>,
    ) -> Result<Running, LaunchError> {
        let Entering { mut console, mut warnings, attempt } = self.enter(plan, target, io)?;
        match attempt.listen(None, &mut console, &mut warnings, no_hooks)? {
            Heard::Ready | Heard::Runs => attempt.succeed(console, warnings),
        }
    }

    /// Begins [`Self::exec`]: what the process does before it runs its program may take long, where
    /// a file system does not answer.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left then.
    pub fn enter(
        &self,
        plan: &ExecPlan,
        target: BorrowedFd<'_>,
        io: Io<'_>,
    ) -> Result<Entering, LaunchError> {
        let mut groups = self.on_host(|| Groups::open(&plan.cgroup))?;
        match self.try_enter(plan, target, io, &groups) {
            Err(error) if error.step == Step::Clone && error.errno() == Some(libc::EBUSY) => {
                let pid = sys::pidfd::pid_of(target).at(Step::Namespace, "the container's")?;
                self.on_host(|| groups.follow(&plan.cgroup, pid))?;
                self.try_enter(plan, target, io, &groups)
            }
            result => result,
        }
    }

    fn try_enter(
        &self,
        plan: &ExecPlan,
        target: BorrowedFd<'_>,
        io: Io<'_>,
        groups: &Groups,
    ) -> Result<Entering, LaunchError> {
        let words = Words::of(&plan.process)?;
        let agent = self.agent(plan, target)?;
        let (channel, childs) = sys::fdpass::packet_pair().at(Step::Channel, "")?;
        let job = Job {
            launcher: self,
            process: &plan.process,
            words: &words,
            program: Program::InPath,
            io,
            groups,
            reporter: Reporter(childs.as_fd()),
            parents_end: channel.as_raw_fd(),
            start: Start::AtOnce,
            place: Place::Inside(Inside { target }),
        };
        let cgroup = groups.unified.as_ref().map(AsFd::as_fd);
        let child = self
            .with_children_beside(target, || {
                hidden(|| spawn(NewNamespaces::default(), cgroup, || job.run()))
            })
            .at(Step::Namespace, "the container's pid")?
            .at(Step::Clone, "")?;
        drop(childs);
        let attempt = Attempt {
            child: Some(child),
            made: Made::default(),
            channel,
            agent,
            outliving: self.outliving.clone(),
        };
        Ok(Entering { console: None, warnings: Vec::new(), attempt })
    }

    fn agent(&self, plan: &ExecPlan, target: BorrowedFd<'_>) -> Result<Option<Agent>, LaunchError> {
        if plan.process.seccomp.as_ref().is_none_or(|filter| filter.listener.is_none()) {
            return Ok(None);
        }
        let first = sys::pidfd::pid_of(target).at(Step::Namespace, "the container's")?;
        self.on_host(|| Agent::of(&plan.process, Status::Running, Some(first)))
    }
}
