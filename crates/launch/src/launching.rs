//! A container's first process, from its clone to its program.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::process::Pid;
use sys::process::Child;
use sys::trace::{Span, span};

use crate::child::{Program, Start};
use crate::error::{At, LaunchError, Step, Warning};
use crate::hooks::Deadline;
use crate::launcher::{Io, Launcher};
use crate::plan::{HooksPlan, LaunchPlan};
use crate::prepared::{Attempt, Heard, Running};
use crate::report;

/// A container's first process on its way to its program. Dropping it kills and reaps it and removes the
/// cgroups that were made for it.
#[derive(Debug)]
pub struct Launching {
    console: Option<OwnedFd>,
    warnings: Vec<Warning>,
    hooks: Option<HooksPlan>,
    /// Those that come before its program have not been run.
    hooks_due: bool,
    hooks_until: Deadline,
    until: Option<Instant>,
    attempt: Attempt,
    _span: Span,
}

/// How far a process has come.
#[derive(Debug)]
pub enum Progress<W> {
    /// It is still on its way.
    OnItsWay(W),
    /// It runs its program.
    Runs(Running),
}

impl Launching {
    /// As the launcher's PID namespace numbers it.
    pub fn pid(&self) -> Option<Pid> {
        self.attempt.child.as_ref().map(|child| child.pid)
    }

    /// Becomes readable when there is something for [`Self::advance`].
    pub fn channel(&self) -> BorrowedFd<'_> {
        self.attempt.channel.as_fd()
    }

    /// When it is to be given up, see [`crate::Options::runs_within`].
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Takes in what the process has said so far, without waiting for more. Hooks are run here and waited for;
    /// what comes of the process is then known only by its reaper.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left then.
    pub fn advance(mut self, launcher: &Launcher) -> Result<Progress<Self>, LaunchError> {
        while report::has_something(&self.attempt.channel).at(Step::Channel, "")? {
            if self.hear(launcher)? {
                return self.runs(launcher).map(Progress::Runs);
            }
        }
        Ok(Progress::OnItsWay(self))
    }

    /// Ends it, because it has had its time: why it does not run.
    pub fn give_up(self) -> LaunchError {
        LaunchError { step: Step::Stuck, subject: String::new(), cause: None }
    }

    /// Waits until it runs its program, or has had its time.
    fn finish(mut self, launcher: &Launcher) -> Result<Running, LaunchError> {
        while report::has_something_by(&self.attempt.channel, self.until).at(Step::Channel, "")? {
            if self.hear(launcher)? {
                return self.runs(launcher);
            }
        }
        Err(self.give_up())
    }

    /// Waits for one message; true when it was the last.
    fn hear(&mut self, launcher: &Launcher) -> Result<bool, LaunchError> {
        let Self { console, warnings, hooks, hooks_due, hooks_until, attempt, .. } = self;
        let mut run = hooks_due.then_some(|child: &Child| {
            launcher.create_runtime_hooks(hooks.as_ref(), child, *hooks_until)
        });
        let heard = attempt.hear(console, warnings, &mut run)?;
        *hooks_due = run.is_some();
        Ok(match heard {
            Some(Heard::Ready | Heard::Runs) => true,
            None => false,
        })
    }

    fn runs(self, launcher: &Launcher) -> Result<Running, LaunchError> {
        let Self { console, warnings, hooks, hooks_until, attempt, .. } = self;
        if let (Some(hooks), Some(child)) = (&hooks, &attempt.child) {
            launcher.run_poststart(hooks, child.pid, hooks_until)?;
        }
        attempt.succeed(console, warnings)
    }
}

impl Launcher {
    /// [`Self::prepare`] and [`crate::Prepared::start`] in one go, without the wait between them.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left then.
    pub fn launch(&self, plan: &LaunchPlan, io: Io<'_>) -> Result<Running, LaunchError> {
        self.launch_program(plan, io, Program::InPath)
    }

    /// Begins [`Self::launch`]: what the process does before it runs its program may take long, where
    /// a file system does not answer.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left then.
    pub fn begin_launch(&self, plan: &LaunchPlan, io: Io<'_>) -> Result<Launching, LaunchError> {
        self.launching(plan, io, Program::InPath)
    }

    pub(crate) fn launch_program(
        &self,
        plan: &LaunchPlan,
        io: Io<'_>,
        program: Program<'_>,
    ) -> Result<Running, LaunchError> {
        self.launching(plan, io, program)?.finish(self)
    }

    fn launching(
        &self,
        plan: &LaunchPlan,
        io: Io<'_>,
        program: Program<'_>,
    ) -> Result<Launching, LaunchError> {
        let (until, hooks_until) = self.deadlines();
        let (attempt, warnings) = self.begin(plan, io, program, Start::AtOnce, hooks_until)?;
        Ok(Launching {
            console: None,
            warnings,
            hooks: plan.hooks.clone(),
            hooks_due: true,
            hooks_until,
            until,
            attempt,
            _span: span("shim: wait for the child"),
        })
    }
}
