//! What happens at the places of crate `failpoint`, and the table of how each case went.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// What happens at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// The process dies there.
    Kill,
    /// The step fails, once.
    Fail,
    /// What it writes to is full, once.
    Full,
}

impl Act {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Kill, Self::Fail, Self::Full];

    /// What the program is told.
    pub fn spec(self, place: &str) -> String {
        match self {
            Self::Kill => format!("{place}=kill"),
            Self::Fail => format!("{place}=error*1"),
            Self::Full => format!("{place}=full*1"),
        }
    }

    /// What the program says when it comes by.
    pub fn said(self, place: &str) -> String {
        let doing = match self {
            Self::Kill => "dying",
            Self::Fail => "failing",
            Self::Full => "full",
        };
        format!("failpoint {place}: {doing}")
    }
}

/// A place, and what can happen there.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// What can.
    pub acts: Vec<Act>,
}

/// Places as programs list them: `pod.run.intent kill error full`.
pub fn places(list: &str) -> Vec<Place> {
    let place = |line: &str| {
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default().to_owned();
        let acts = words.filter_map(|word| match word {
            "kill" => Some(Act::Kill),
            "error" => Some(Act::Fail),
            "full" => Some(Act::Full),
            _ => None,
        });
        Place { name, acts: acts.collect() }
    };
    list.lines().map(place).collect()
}

/// How each case of an operation went.
#[derive(Debug, Default)]
pub struct Table(Vec<(String, [Option<Duration>; 3])>);

impl Table {
    /// A case was green; the duration is that until all was well again.
    pub fn enter(&mut self, place: &str, act: Act, recovered: Duration) {
        if self.0.last().is_none_or(|(last, _)| last != place) {
            self.0.push((place.to_owned(), [None; 3]));
        }
        if let Some((_, times)) = self.0.last_mut() {
            times[act as usize] = Some(recovered);
        }
    }

    /// Prints it, and leaves it as a table of Markdown in `dir`, named after the operation.
    ///
    /// # Errors
    /// It is empty, or cannot be written.
    pub fn publish(&self, dir: &Path, operation: &str) -> Result<()> {
        ensure!(!self.0.is_empty(), "{operation} comes by no place");
        let mut text = String::new();
        for (place, times) in &self.0 {
            let cell = |time: &Option<Duration>| {
                time.map_or_else(
                    || "".to_owned(),
                    |time| format!("{:.1}", time.as_secs_f64() * 1e3),
                )
            };
            let [kill, error, full] = times.each_ref().map(cell);
            writeln!(text, "| {place} | {kill} | {error} | {full} |")?;
        }
        eprint!("{text}");
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let path = dir.join(format!("{operation}.md"));
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_their_cases_become_rows() {
        let places = places("a.b kill\nc.d kill error full\n");
        assert_eq!(places[0].acts, [Act::Kill]);
        assert_eq!(places[1].acts, Act::ALL);
        let mut table = Table::default();
        let dir = tempfile::tempdir().unwrap();
        table.publish(dir.path(), "empty").unwrap_err();
        table.enter("a.b", Act::Kill, Duration::from_millis(7));
        table.enter("c.d", Act::Full, Duration::from_micros(1500));
        table.publish(dir.path(), "two").unwrap();
        let text = std::fs::read_to_string(dir.path().join("two.md")).unwrap();
        assert_eq!(text, "| a.b | 7.0 |  |  |\n| c.d |  |  | 1.5 |\n");
    }
}
