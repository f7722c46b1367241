//! `tests/handlers.txt`: lines `runtimes: test: reason`. A runtime may have a bound: `crun<1.9`, `runc>=1.2`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use test_support::installed::version_in;

/// The file, below the workspace.
pub(super) const FILE: &str = "tests/handlers.txt";

/// A runtime's version as far as it is of interest: major, minor.
pub(super) type Version = (u32, u32);

/// Why tests do not hold.
#[derive(Debug, Default)]
pub(super) struct List(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    runtime: String,
    of: Of,
    test: String,
    reason: String,
}

/// Of which versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    All,
    Before(Version),
    Since(Version),
}

impl Of {
    /// A runtime without a version is a new one.
    fn has(self, version: Option<Version>) -> bool {
        match self {
            Self::All => true,
            Self::Before(bound) => version.is_some_and(|version| version < bound),
            Self::Since(bound) => version.is_none_or(|version| version >= bound),
        }
    }

    /// Whether there are versions of both.
    fn overlaps(self, other: Self) -> bool {
        match (self, other) {
            (Self::Before(end), Self::Since(begin)) | (Self::Since(begin), Self::Before(end)) => {
                begin < end
            }
            (Self::All | Self::Before(_) | Self::Since(_), _) => true,
        }
    }
}

/// A runtime with its bound, if it has one.
fn runtime(word: &str) -> Option<(&str, Of)> {
    if let Some((name, bound)) = word.split_once(">=") {
        return Some((name, Of::Since(version_in(bound)?)));
    }
    match word.split_once('<') {
        Some((name, bound)) => Some((name, Of::Before(version_in(bound)?))),
        None => Some((word, Of::All)),
    }
}

impl List {
    pub(super) fn read(root: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(root.join(FILE)).context(FILE)?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut all: Vec<Entry> = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if line.starts_with('#') {
                continue;
            }
            let fields = line.split_once(": ").and_then(|(runtimes, rest)| {
                let (test, reason) = rest.split_once(": ")?;
                Some((runtimes, test, reason))
            });
            let (runtimes, test, reason) =
                fields.with_context(|| format!("{FILE}: not `runtimes: test: reason`: {line}"))?;
            for word in runtimes.split_whitespace() {
                let (name, of) =
                    runtime(word).with_context(|| format!("{FILE}: no version: {word}"))?;
                let twice =
                    |one: &Entry| one.runtime == name && one.test == test && one.of.overlaps(of);
                ensure!(!all.iter().any(twice), "{FILE}: {word}: {test} is listed twice");
                let (runtime, test, reason) = (name.into(), test.into(), reason.into());
                all.push(Entry { runtime, of, test, reason });
            }
        }
        Ok(Self(all))
    }

    pub(super) fn reason(
        &self,
        runtime: &str,
        version: Option<Version>,
        test: &str,
    ) -> Option<&str> {
        let is_it =
            |one: &&Entry| one.runtime == runtime && one.test == test && one.of.has(version);
        self.0.iter().find(is_it).map(|one| one.reason.as_str())
    }

    /// All tests it names.
    pub(super) fn tests(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|one| one.test.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_has_a_reason_for_each_runtime() {
        let list = List::parse("# why\n\nrunc crun: a::b: it: cannot\nrunsc: a::b: no\n").unwrap();
        assert_eq!(list.reason("crun", None, "a::b"), Some("it: cannot"));
        assert_eq!(list.reason("runsc", Some((1, 0)), "a::b"), Some("no"));
        assert_eq!(list.reason("runc", None, "a::c"), None);
        assert_eq!(list.tests().count(), 3);
    }

    #[test]
    fn a_reason_may_be_one_of_some_versions() {
        let list = List::parse("crun<1.9: a: old\ncrun>=1.21: a: new\n").unwrap();
        let reason = |said: &str| list.reason("crun", version_in(said), "a");
        assert_eq!(reason("crun version 1.8.1"), Some("old"));
        assert_eq!(reason("crun version 1.14"), None);
        assert_eq!(reason("crun version 1.21"), Some("new"));
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        for wrong in [
            "runc a::b",
            "runc: a::b",
            "runc: a: x\nrunc: a: y",
            "runc<x: a: x",
            "runc<2.0: a: x\nrunc>=1.9: a: y",
            "runc<2.0: a: x\nrunc: a: y",
        ] {
            assert!(List::parse(wrong).is_err(), "{wrong}");
        }
    }
}
