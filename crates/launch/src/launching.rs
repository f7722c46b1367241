//! A container's first process, from its clone to its program.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::process::Pid;
use sys::trace::{Span, span};

use crate::child::{Program, Start};
use crate::error::{At, LaunchError, Step, Warning};
use crate::hooks::{Round, Turn};
use crate::launcher::{Io, Launcher};
use crate::plan::{HooksPlan, LaunchPlan};
use crate::prepared::{Attempt, Heard, Running, Said};
use crate::report;

/// A container's first process on its way to its program. Dropping it kills and reaps it and removes the
/// cgroups that were made for it; a hook that runs is killed before.
#[derive(Debug)]
pub struct Launching {
    stage: Stage,
    /// Hooks that have not begun.
    before: Option<Round>,
    after: Option<Round>,
    console: Option<OwnedFd>,
    warnings: Vec<Warning>,
    until: Option<Instant>,
    attempt: Attempt,
    _span: Span,
}

/// What it waits for.
#[derive(Debug)]
enum Stage {
    /// A word of the process.
    Child,
    /// Hooks, as the process does.
    Before(Round),
    /// Hooks; the program runs.
    After(Round),
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
    /// Its process, as the launcher's PID namespace numbers it. Once its program runs it may have ended before
    /// this is told by [`Self::advance`].
    pub fn pid(&self) -> Option<Pid> {
        self.attempt.child.as_ref().map(|child| child.pid)
    }

    /// The hook that runs, as the launcher's PID namespace numbers it. It is reaped by [`Self::advance`].
    pub fn hook(&self) -> Option<Pid> {
        match &self.stage {
            Stage::Child => None,
            Stage::Before(round) | Stage::After(round) => round.pid(),
        }
    }

    /// Becomes readable when there is something for [`Self::advance`].
    pub fn awaited(&self) -> BorrowedFd<'_> {
        let channel = self.attempt.channel.as_fd();
        match &self.stage {
            Stage::Child => channel,
            Stage::Before(round) | Stage::After(round) => round.awaited().unwrap_or(channel),
        }
    }

    /// When [`Self::advance`] is to be called in any case, see [`crate::Options::runs_within`].
    pub fn due(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Child => self.until,
            Stage::Before(round) | Stage::After(round) => round.due(),
        }
    }

    /// Goes on as far as that needs no waiting: takes in what the process has said, and runs its hooks.
    ///
    /// # Errors
    /// [`LaunchError`], also when it has had its time; nothing is left then.
    pub fn advance(mut self, launcher: &Launcher) -> Result<Progress<Self>, LaunchError> {
        loop {
            match &mut self.stage {
                Stage::Child => {
                    if report::has_something(&self.attempt.channel).at(Step::Channel, "")? {
                        self.hear()?;
                    } else if self.until.is_some_and(|until| until <= Instant::now()) {
                        return Err(LaunchError::stuck());
                    } else {
                        return Ok(Progress::OnItsWay(self));
                    }
                }
                Stage::Before(round) => match launcher.turn(round)? {
                    Turn::Waits => return Ok(Progress::OnItsWay(self)),
                    Turn::Done => {
                        report::go(&self.attempt.channel).at(Step::Channel, "")?;
                        self.stage = Stage::Child;
                    }
                },
                Stage::After(round) => match launcher.turn(round)? {
                    Turn::Waits => return Ok(Progress::OnItsWay(self)),
                    Turn::Done => {
                        let Self { console, warnings, attempt, .. } = self;
                        return attempt.succeed(console, warnings).map(Progress::Runs);
                    }
                },
            }
        }
    }

    /// Waits until it runs its program, or has had its time.
    fn finish(mut self, launcher: &Launcher) -> Result<Running, LaunchError> {
        loop {
            match self.advance(launcher)? {
                Progress::Runs(running) => return Ok(running),
                Progress::OnItsWay(on_its_way) => self = on_its_way,
            }
            report::has_something_by(self.awaited(), self.due()).at(Step::Channel, "")?;
        }
    }

    /// Takes in one message.
    fn hear(&mut self) -> Result<(), LaunchError> {
        let round = match self.attempt.hear(&mut self.console, &mut self.warnings)? {
            None => return Ok(()),
            Some(Said::Hooks) => self.before.take().map(Stage::Before),
            Some(Said::Heard(Heard::Ready | Heard::Runs)) => self.after.take().map(Stage::After),
        };
        self.stage = round.ok_or_else(LaunchError::no_hooks_due)?;
        Ok(())
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
        let Some(pid) = attempt.child.as_ref().map(|child| child.pid) else {
            return Err(LaunchError::bad_plan("a launch without a process"));
        };
        let none = HooksPlan::default();
        let hooks = plan.hooks.as_ref().unwrap_or(&none);
        Ok(Launching {
            stage: Stage::Child,
            before: Some(Round::before(hooks, pid, hooks_until)),
            after: Some(Round::after(hooks, pid, hooks_until)),
            console: None,
            warnings,
            until,
            attempt,
            _span: span("shim: wait for the child"),
        })
    }
}
