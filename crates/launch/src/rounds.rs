//! Hooks of the launcher's namespaces, as a launcher runs them: waited for, or one step at a time.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::process::Pid;

use crate::error::{LaunchError, Step, Warning};
use crate::hooks::{Deadline, Round, Turn};
use crate::launcher::Launcher;
use crate::plan::HooksPlan;

/// What a plan wants to be run once its container is gone, on its way. Dropping it kills what runs and leaves
/// out the rest.
#[derive(Debug)]
pub struct Parting {
    round: Round,
    failed: Vec<Warning>,
}

/// How far that has come.
#[derive(Debug)]
pub enum Parted {
    /// It is still on its way.
    OnItsWay(Parting),
    /// All have been run: what failed.
    Done(Vec<Warning>),
}

impl Parting {
    /// Becomes readable when there is something for [`Self::advance`].
    pub fn awaited(&self) -> Option<BorrowedFd<'_>> {
        self.round.awaited()
    }

    /// When [`Self::advance`] is to be called in any case: the one that runs has had its time.
    pub fn due(&self) -> Option<Instant> {
        self.round.due()
    }

    /// The program that runs, as the launcher's PID namespace numbers it. It is reaped by [`Self::advance`].
    pub fn pid(&self) -> Option<Pid> {
        self.round.pid()
    }

    /// Goes on without waiting for a program to end. Those after one that fails are run as well.
    pub fn advance(mut self, launcher: &Launcher) -> Parted {
        loop {
            match launcher.turn(&mut self.round) {
                Ok(Turn::Waits) => return Parted::OnItsWay(self),
                Ok(Turn::Done) => return Parted::Done(self.failed),
                Err(error) => {
                    // Then none can be run, and asking again would have no end.
                    let is_elsewhere = error.step == Step::HostNamespace;
                    let why = error.sentence();
                    self.failed.push(Warning { what: error.subject, why });
                    if is_elsewhere {
                        return Parted::Done(self.failed);
                    }
                }
            }
        }
    }
}

impl Launcher {
    /// Runs what a plan wants to be run once its program runs, unless it was started by
    /// [`Self::launch`], which does. OCI: where one fails the container is stopped, which is left to
    /// the caller.
    ///
    /// # Errors
    /// [`crate::Step::Hook`]; the later ones were not run.
    pub fn poststart_hooks(&self, hooks: &HooksPlan, pid: Pid) -> Result<(), LaunchError> {
        self.run_round(Round::after(hooks, pid, Deadline::of_launch()))
    }

    /// Runs what a plan wants to be run once its container is gone; says what failed.
    pub fn poststop_hooks(&self, hooks: &HooksPlan) -> Vec<Warning> {
        let mut parting = self.begin_poststop(hooks);
        loop {
            match parting.advance(self) {
                Parted::Done(failed) => return failed,
                Parted::OnItsWay(on_its_way) => {
                    on_its_way.round.wait();
                    parting = on_its_way;
                }
            }
        }
    }

    /// As [`Self::poststop_hooks`], by whoever has other things to do meanwhile. Nothing is run yet.
    pub fn begin_poststop(&self, hooks: &HooksPlan) -> Parting {
        Parting { round: Round::at_the_end(hooks), failed: Vec::new() }
    }

    pub(crate) fn run_round(&self, mut round: Round) -> Result<(), LaunchError> {
        while self.turn(&mut round)? == Turn::Waits {
            round.wait();
        }
        Ok(())
    }

    /// Goes on with a round, in the host's mount namespace.
    pub(crate) fn turn(&self, round: &mut Round) -> Result<Turn, LaunchError> {
        if round.is_over() {
            return Ok(Turn::Done);
        }
        self.on_host(|| round.advance())
    }
}
