//! One boot of the machine, from its first word to the end of its power.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, anyhow, ensure};

use super::random::Random;
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

/// What is known about an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Present,
    Absent,
    /// The power was cut while it came or went.
    Open,
}

/// What should be on the disk.
#[derive(Debug)]
pub(super) struct Fates(BTreeMap<&'static str, Fate>);

impl Fates {
    /// None of these is there.
    pub(super) fn new(names: &[&'static str]) -> Self {
        Self(names.iter().map(|name| (*name, Fate::Absent)).collect())
    }

    /// Compares with what is there, and settles what was open.
    fn compare(&mut self, there: &BTreeSet<&str>) -> Result<()> {
        for (name, fate) in &mut self.0 {
            let is_there = there.contains(name);
            let fits = match fate {
                Fate::Present => is_there,
                Fate::Absent => !is_there,
                Fate::Open => true,
            };
            ensure!(fits, "{name} was {fate:?}, and now it is there: {is_there}");
            *fate = if is_there { Fate::Present } else { Fate::Absent };
        }
        Ok(())
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

    /// Mounts the disk and starts the daemon.
    pub(super) fn begin(&mut self) -> Result<(), Stop> {
        self.answer()?;
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
        self.fates.0.insert(name, Fate::Open);
        self.say(&format!("pull {name}"))?;
        self.fates.0.insert(name, Fate::Present);
        Ok(())
    }

    fn remove(&mut self, name: &'static str) -> Result<(), Stop> {
        self.fates.0.insert(name, Fate::Open);
        self.say(&format!("rm {name}"))?;
        self.fates.0.insert(name, Fate::Absent);
        Ok(())
    }

    /// Pulls or removes an image.
    pub(super) fn change(&mut self) -> Result<(), Stop> {
        let fates: Vec<_> = self.fates.0.iter().map(|(name, fate)| (*name, *fate)).collect();
        match *self.random.pick(&fates) {
            (name, Fate::Present) => self.remove(name),
            (name, Fate::Absent | Fate::Open) => self.pull(name),
        }
    }

    /// Removes all images; nothing of them stays.
    pub(super) fn purge(&mut self) -> Result<(), Stop> {
        self.fates.0.values_mut().for_each(|fate| *fate = Fate::Open);
        self.say("purge")?;
        self.fates.0.values_mut().for_each(|fate| *fate = Fate::Absent);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_done_is_held_to_and_what_was_under_way_is_not() {
        let mut fates = Fates::new(&["a", "b", "c"]);
        fates.0.insert("a", Fate::Present);
        fates.0.insert("b", Fate::Open);
        for (there, fits) in
            [(vec!["a"], true), (vec!["a", "b"], false), (vec![], false), (vec!["a", "c"], false)]
        {
            let outcome = fates.compare(&there.iter().copied().collect());
            assert_eq!(outcome.is_ok(), fits, "{there:?}");
        }
    }
}
