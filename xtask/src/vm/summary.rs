//! What the machines' consoles said of tests, for the end.

/// Tests and checks by how they ended, part by part.
#[derive(Debug, Default)]
pub(super) struct Summary(Vec<Part>);

#[derive(Debug, Default)]
struct Part {
    name: String,
    /// How many the harness or a script has called ok.
    ok: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
    /// How many of those the harness has not called ok.
    ignored: usize,
}

impl Part {
    fn take(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("FAIL ") {
            self.failed.push(name.to_owned());
        } else if line.starts_with("ok   ") {
            self.ok += 1;
        } else if let Some((test, why)) = line.split_once(": skipped: ") {
            self.skipped.push(format!("{test}: {why}"));
        } else if let Some((test, how)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
        {
            match how.split([' ', ',']).next() {
                Some("ok") => self.ok += 1,
                Some("FAILED") => self.failed.push(test.to_owned()),
                Some("ignored") => {
                    let why = how.strip_prefix("ignored, ").unwrap_or("ignored");
                    self.skipped.push(format!("{test}: {why}"));
                    self.ignored += 1;
                }
                _ => {}
            }
        }
    }

    /// A skipped test says so and then that it is ok.
    fn passed(&self) -> usize {
        self.ok.saturating_sub(self.skipped.len() - self.ignored)
    }
}

impl Summary {
    /// What is said from now on is of this part.
    pub(super) fn enter(&mut self, part: &str) {
        // A machine that is booted again goes on with the part it was at.
        let known = self.0.iter().position(|it| it.name == part);
        let fresh = || Part { name: part.to_owned(), ..Part::default() };
        let part = known.map_or_else(fresh, |index| self.0.remove(index));
        self.0.push(part);
    }

    /// Takes note of a console's line: the test harness's, a script's, or one of no concern.
    pub(super) fn take(&mut self, line: &str) {
        let line = line.trim_start();
        if let Some(part) = line.strip_prefix("=== ") {
            if !part.contains(": ") {
                self.enter(part);
            }
        } else if let Some(part) = self.0.last_mut() {
            part.take(line);
        }
    }

    fn sum(&self, of: impl Fn(&Part) -> usize) -> usize {
        self.0.iter().map(of).sum()
    }

    /// How many tests were run or skipped.
    pub(super) fn seen(&self) -> usize {
        self.sum(|part| part.passed() + part.failed.len() + part.skipped.len())
    }

    pub(super) fn text(&self) -> String {
        let (passed, failed) = (self.sum(Part::passed), self.sum(|part| part.failed.len()));
        let mut text = counts(passed, failed, self.sum(|part| part.skipped.len()));
        for part in &self.0 {
            let counts = counts(part.passed(), part.failed.len(), part.skipped.len());
            text += &format!("\n    {}: {counts}", part.name);
        }
        let mut list = |title: &str, part: &Part, names: &[String]| {
            names.iter().for_each(|name| text += &format!("\n    {title} {}: {name}", part.name));
        };
        self.0.iter().for_each(|part| list("failed ", part, &part.failed));
        self.0.iter().for_each(|part| list("skipped", part, &part.skipped));
        text
    }

    /// Prints it.
    pub(super) fn print(&self) {
        println!("\n{}", self.text());
    }
}

fn counts(passed: usize, failed: usize, skipped: usize) -> String {
    let run = passed + failed;
    format!("{run} tests run, {passed} passed, {failed} failed, {skipped} skipped")
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
            "=== launch",
            "test h ... ok",
            // After a reboot.
            "=== node",
            "ok   again",
        ] {
            summary.take(line);
        }
        let text = summary.text();
        assert!(text.starts_with("6 tests run, 4 passed, 2 failed, 2 skipped"), "{text}");
        assert_eq!(summary.seen(), 8);
        for part in ["launch: 1 tests run, 1 passed", "node: 5 tests run, 3 passed"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        for name in ["node: e::f", "node: stats", "node: c::d: no disk", "node: g: slow"] {
            assert!(text.contains(name), "{name} in {text}");
        }
    }
}
