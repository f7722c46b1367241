//! One boot of the machine, from its first word to the end of its power.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, anyhow};
use test_support::power::{Change, Fates, NAMES, Random};

use crate::vm::boot::{Event, Machine};

/// Why a life ended before it was done.
#[derive(Debug)]
pub(super) enum Stop {
    Cut,
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

pub(super) struct Life<'a> {
    pub(super) machine: Machine,
    pub(super) random: &'a mut Random,
    pub(super) fates: &'a mut Fates,
    pub(super) fs: &'a str,
    pub(super) writes: &'a AtomicU64,
    pub(super) cut_at: &'a AtomicU64,
}

impl Life<'_> {
    /// The power goes after so many more writes. Gives how many there were so far.
    pub(super) fn cut_after(&self, more: u64) -> u64 {
        let now = self.writes.load(Ordering::Relaxed);
        self.cut_at.store(now + more, Ordering::Relaxed);
        now
    }

    /// The machine is up and has a registry.
    pub(super) fn awake(&mut self) -> Result<(), Stop> {
        self.answer().map(drop)
    }

    /// Mounts the disk and starts the daemon.
    pub(super) fn begin(&mut self) -> Result<(), Stop> {
        self.say(&format!("start {}", self.fs)).map(drop)
    }

    /// What is there is what should be, each file of it, and nothing is on its way in.
    pub(super) fn look(&mut self) -> Result<(), Stop> {
        let lines = self.say("list")?;
        let there = lines.iter().filter_map(|line| line.strip_prefix("@ have ")).collect();
        self.fates.compare(&there)?;
        self.say("verify")?;
        self.say("settle").map(drop)
    }

    pub(super) fn pull(&mut self, name: &'static str) -> Result<(), Stop> {
        self.do_to(name, Change::Pull)
    }

    fn do_to(&mut self, name: &'static str, change: Change) -> Result<(), Stop> {
        let verb = match change {
            Change::Pull => "pull",
            Change::Remove => "rm",
        };
        self.fates.begun(name);
        self.say(&format!("{verb} {name}"))?;
        self.fates.done(name, change);
        Ok(())
    }

    /// Pulls or removes an image.
    pub(super) fn change(&mut self) -> Result<(), Stop> {
        let (name, change) = self.fates.next(self.random);
        self.do_to(name, change)
    }

    /// Removes all images; nothing of them stays.
    pub(super) fn purge(&mut self) -> Result<(), Stop> {
        NAMES.iter().for_each(|name| self.fates.begun(name));
        self.say("purge")?;
        NAMES.iter().for_each(|name| self.fates.done(name, Change::Remove));
        Ok(())
    }

    /// Types a command and waits until it is done; gives what the machine said meanwhile.
    pub(super) fn say(&mut self, command: &str) -> Result<Vec<String>, Stop> {
        // A machine whose power is gone does not listen; the event says so.
        let typed = self.machine.type_in(command);
        self.answer().map_err(|stop| match (stop, typed) {
            (Stop::Failed(error), Err(cause)) => error.context(cause).into(),
            (stop, _) => stop,
        })
    }

    fn answer(&mut self) -> Result<Vec<String>, Stop> {
        let mut lines = Vec::new();
        loop {
            match self.machine.next()? {
                Event::Line(line) if line == "@ done" => return Ok(lines),
                Event::Line(line) if line.starts_with("@ failed") => {
                    return Err(anyhow!("the machine says: {line}").into());
                }
                Event::Line(line) => lines.push(line),
                Event::Cut => return Err(Stop::Cut),
                Event::Off => return Err(anyhow!("the machine went off by itself").into()),
            }
        }
    }

    /// Waits until it has switched itself off.
    pub(super) fn see_off(&mut self) -> Result<()> {
        loop {
            match self.machine.next()? {
                Event::Off => return Ok(()),
                Event::Line(_) | Event::Cut => {}
            }
        }
    }
}
