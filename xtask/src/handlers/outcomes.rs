//! How tests ended, as the test harness tells it.

use std::collections::BTreeMap;
use std::fmt::Write;

/// How one test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Failed,
    /// It ran on nothing, and said why.
    Skipped(String),
}

/// Reads the harness's lines.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// What a test said of being skipped, before the harness said that it is ok.
    skipped: BTreeMap<String, Vec<String>>,
}

impl Reader {
    /// The test that this line ends.
    pub(super) fn take(&mut self, line: &str) -> Option<(String, Outcome)> {
        if let Some((test, why)) = line.split_once(": skipped: ") {
            self.skipped.entry(test.to_owned()).or_default().push(why.to_owned());
            return None;
        }
        let (test, how) = line.strip_prefix("test ")?.split_once(" ... ")?;
        let outcome = match how {
            "ok" => match self.skipped.remove(test) {
                Some(why) => Outcome::Skipped(why.join("; ")),
                None => Outcome::Passed,
            },
            _ if how.starts_with("FAILED") => Outcome::Failed,
            _ if how.starts_with("ignored") => Outcome::Skipped("ignored".to_owned()),
            _ => return None,
        };
        Some((test.to_owned(), outcome))
    }
}

/// How the tests of one runtime ended.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    passed: Vec<String>,
    failed: Vec<String>,
    skipped: Vec<(String, String)>,
    /// They fail, and it is known why.
    listed: Vec<(String, String)>,
    /// They are listed, and pass.
    mended: Vec<String>,
}

impl Outcomes {
    pub(super) fn take(&mut self, test: &str, outcome: Outcome) {
        match outcome {
            Outcome::Passed => self.passed.push(test.to_owned()),
            Outcome::Failed => self.failed.push(test.to_owned()),
            Outcome::Skipped(why) => self.skipped.push((test.to_owned(), why)),
        }
    }

    /// Of a test that is expected to fail.
    pub(super) fn take_listed(&mut self, test: &str, reason: &str, outcome: Outcome) {
        match outcome {
            Outcome::Passed => self.mended.push(test.to_owned()),
            Outcome::Failed => self.listed.push((test.to_owned(), reason.to_owned())),
            Outcome::Skipped(why) => self.skipped.push((test.to_owned(), why)),
        }
    }

    /// A test of which nothing was heard took the whole program along, or was never run. It is wrong of a listed
    /// one too: nobody knows whether it still fails.
    pub(super) fn missing(&mut self, wanted: &[&String]) {
        for test in wanted {
            let with_why = self.skipped.iter().chain(&self.listed).map(|(name, _)| name);
            let mut heard_of = with_why.chain(&self.passed).chain(&self.mended).chain(&self.failed);
            if !heard_of.any(|name| name == *test) {
                self.failed.push(format!("{test} (it never ended)"));
            }
        }
    }

    pub(super) fn is_wrong(&self) -> bool {
        !self.failed.is_empty() || !self.mended.is_empty() || self.passed.is_empty()
    }

    /// The counts, and by name everything that did not pass.
    pub(super) fn text(&self, runtime: &str) -> String {
        let (passed, failed) = (self.passed.len(), self.failed.len());
        let (listed, skipped) = (self.listed.len(), self.skipped.len());
        let run = passed + failed + listed + self.mended.len();
        let mut text = format!(
            "{runtime}: {run} tests run, {passed} passed, {failed} failed, {listed} do not hold, \
             {skipped} skipped\n"
        );
        let mut tell = |what: &str, test: &str, why: &str| {
            // A `String` takes everything.
            writeln!(text, "    {what:12} {test}{}{why}", if why.is_empty() { "" } else { ": " })
                .ok();
        };
        self.failed.iter().for_each(|test| tell("failed", test, ""));
        for test in &self.mended {
            tell("passes", test, "take it off tests/handlers.txt");
        }
        self.listed.iter().for_each(|(test, why)| tell("does not hold", test, why));
        self.skipped.iter().for_each(|(test, why)| tell("skipped", test, why));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_of_a_test_is_told() {
        let (mut reader, mut outcomes) = (Reader::default(), Outcomes::default());
        for line in [
            "running 5 tests",
            "test a::b ... ok",
            "c::d: skipped: no disk",
            "test c::d ... ok",
            "test e::f ... FAILED",
            "test g ... ignored, slow",
            "test result: FAILED. 2 passed",
        ] {
            if let Some((test, outcome)) = reader.take(line) {
                outcomes.take(&test, outcome);
            }
        }
        outcomes.take_listed("h", "it has no h", Outcome::Failed);
        let known = ["a::b", "c::d", "e::f", "h", "gone"].map(str::to_owned);
        outcomes.missing(&known.iter().collect::<Vec<_>>());
        let text = outcomes.text("runc");
        let counts = "runc: 4 tests run, 1 passed, 2 failed, 1 do not hold, 2 skipped";
        assert!(text.starts_with(counts), "{text}");
        for line in ["e::f", "gone (it never ended)", "c::d: no disk", "h: it has no h"] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(outcomes.is_wrong());
    }

    #[test]
    fn a_listed_test_that_passes_is_wrong() {
        let mut outcomes = Outcomes::default();
        outcomes.take("a", Outcome::Passed);
        assert!(!outcomes.is_wrong());
        outcomes.take_listed("b", "why", Outcome::Passed);
        assert!(outcomes.is_wrong() && outcomes.text("crun").contains("take it off"));
    }
}
