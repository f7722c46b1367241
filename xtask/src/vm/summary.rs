//! What the machines' consoles said of tests, for the end.

/// Tests and checks by how they ended.
#[derive(Debug, Default)]
pub(super) struct Summary {
    part: String,
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
    /// How many of those the harness has not called ok.
    ignored: usize,
}

impl Summary {
    /// Takes note of a console's line: the test harness's, a script's, or one of no concern.
    pub(super) fn take(&mut self, line: &str) {
        let line = line.trim_start();
        if let Some(part) = line.strip_prefix("=== ") {
            if !part.contains(": ") {
                part.clone_into(&mut self.part);
            }
        } else if let Some(name) = line.strip_prefix("FAIL ") {
            self.failed.push(format!("{}: {name}", self.part));
        } else if line.starts_with("ok   ") {
            self.passed += 1;
        } else if let Some((test, why)) = line.split_once(": skipped: ") {
            self.skipped.push(format!("{}: {}: {why}", self.part, test));
        } else if let Some((test, how)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
        {
            match how.split([' ', ',']).next() {
                Some("ok") => self.passed += 1,
                Some("FAILED") => self.failed.push(format!("{}: {test}", self.part)),
                Some("ignored") => {
                    let why = how.strip_prefix("ignored, ").unwrap_or("ignored");
                    self.skipped.push(format!("{}: {test}: {why}", self.part));
                    self.ignored += 1;
                }
                _ => {}
            }
        }
    }

    /// A skipped test says so and then that it is ok.
    fn passed(&self) -> usize {
        self.passed.saturating_sub(self.skipped.len() - self.ignored)
    }

    /// How many tests were run or skipped.
    pub(super) fn seen(&self) -> usize {
        self.passed() + self.failed.len() + self.skipped.len()
    }

    pub(super) fn text(&self) -> String {
        let passed = self.passed();
        let (failed, skipped) = (self.failed.len(), self.skipped.len());
        let run = passed + failed;
        let list = |title: &str, names: &[String]| {
            names.iter().map(|name| format!("\n    {title} {name}")).collect::<String>()
        };
        format!(
            "{run} tests run, {passed} passed, {failed} failed, {skipped} skipped{}{}",
            list("failed ", &self.failed),
            list("skipped", &self.skipped)
        )
    }

    /// Prints it.
    pub(super) fn print(&self) {
        println!("\n{}", self.text());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_counted_and_named() {
        let mut summary = Summary::default();
        for line in [
            "=== node",
            "test a::b ... ok",
            "c::d: skipped: no disk",
            "test c::d ... ok",
            "test e::f ... FAILED",
            "test g ... ignored, slow",
            "ok   the daemon answers",
            "FAIL stats",
            "test result: FAILED. 2 passed",
            "=== node: FAILED",
        ] {
            summary.take(line);
        }
        let text = summary.text();
        assert!(text.starts_with("4 tests run, 2 passed, 2 failed, 2 skipped"), "{text}");
        assert_eq!(summary.seen(), 6);
        for name in ["node: e::f", "node: stats", "node: c::d: no disk", "node: g: slow"] {
            assert!(text.contains(name), "{name} in {text}");
        }
    }
}
