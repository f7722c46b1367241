//! What is known about images on a disk that loses its power.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::random::Random;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Present,
    Absent,
    /// The power was cut while it came or went.
    Open,
}

/// What is done with an image next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Pull,
    Remove,
}

/// What should be on the disk.
#[derive(Debug)]
pub struct Fates(BTreeMap<&'static str, Fate>);

impl Fates {
    /// None of these is there.
    pub fn new(names: &[&'static str]) -> Self {
        Self(names.iter().map(|name| (*name, Fate::Absent)).collect())
    }

    /// Compares with what is there, and settles what was open.
    ///
    /// # Errors
    /// Something is there that should not, or the other way round.
    pub fn compare(&mut self, there: &BTreeSet<&str>) -> Result<()> {
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

    /// An image and what can be done with it.
    pub fn next(&self, random: &mut Random) -> (&'static str, Change) {
        let all: Vec<_> = self.0.iter().collect();
        let (name, fate) = random.pick(&all);
        match fate {
            Fate::Present => (name, Change::Remove),
            Fate::Absent | Fate::Open => (name, Change::Pull),
        }
    }

    /// It has begun and may or may not come about.
    pub fn begun(&mut self, name: &'static str) {
        self.0.insert(name, Fate::Open);
    }

    /// It was told done.
    pub fn done(&mut self, name: &'static str, change: Change) {
        let fate = match change {
            Change::Pull => Fate::Present,
            Change::Remove => Fate::Absent,
        };
        self.0.insert(name, fate);
    }

    /// Whether it is known to be there.
    pub fn has(&self, name: &str) -> bool {
        self.0.get(name) == Some(&Fate::Present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_done_is_held_to_and_what_was_under_way_is_not() {
        let mut fates = Fates::new(&["a", "b", "c"]);
        fates.done("a", Change::Pull);
        fates.begun("b");
        for (there, fits) in
            [(vec!["a"], true), (vec!["a", "b"], false), (vec![], false), (vec!["a", "c"], false)]
        {
            let outcome = fates.compare(&there.iter().copied().collect());
            assert_eq!(outcome.is_ok(), fits, "{there:?}");
        }
    }
}
