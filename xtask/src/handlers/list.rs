//! `tests/handlers.txt`: lines `runtimes: test: reason`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The file, below the workspace.
pub(super) const FILE: &str = "tests/handlers.txt";

/// Why a test does not hold, by runtime and test.
#[derive(Debug, Default)]
pub(super) struct List(BTreeMap<(String, String), String>);

impl List {
    pub(super) fn read(root: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(root.join(FILE)).context(FILE)?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut all = BTreeMap::new();
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
            for runtime in runtimes.split_whitespace() {
                let before = all.insert((runtime.into(), test.into()), reason.to_owned());
                ensure!(before.is_none(), "{FILE}: {runtime}: {test} is listed twice");
            }
        }
        Ok(Self(all))
    }

    pub(super) fn reason(&self, runtime: &str, test: &str) -> Option<&str> {
        self.0.get(&(runtime.to_owned(), test.to_owned())).map(String::as_str)
    }

    /// All tests it names.
    pub(super) fn tests(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(|(_, test)| test.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_has_a_reason_for_each_runtime() {
        let list = List::parse("# why\n\nrunc crun: a::b: it: cannot\nrunsc: a::b: no\n").unwrap();
        assert_eq!(list.reason("crun", "a::b"), Some("it: cannot"));
        assert_eq!(list.reason("runsc", "a::b"), Some("no"));
        assert_eq!(list.reason("runc", "a::c"), None);
        assert_eq!(list.tests().count(), 3);
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        for wrong in ["runc a::b", "runc: a::b", "runc: a: x\nrunc: a: y"] {
            assert!(List::parse(wrong).is_err(), "{wrong}");
        }
    }
}
