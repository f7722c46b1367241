//! `cargo xtask test --handler NAME`: the tests of pods once more, with another OCI runtime behind them.
//!
//! What does not hold under a runtime is listed in `tests/handlers.txt`, each test with its reason. Those are
//! run too: one that passes has to be taken off the list.

mod list;
mod outcomes;
pub(crate) mod runtimes;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use test_support::installed;

use self::list::{List, Version};
use self::outcomes::{Outcome, Outcomes};
use crate::dist;
use crate::steps::{cargo, output, step};

/// The runtime that is knarr's own.
const BUILT_IN: &str = "built-in";

/// Every runtime that is to be had without being built.
const ALL: [&str; 5] = [BUILT_IN, "runc", "crun", "runsc", "knarr-oci"];

/// Beginnings of the names of tests that are about pods, whoever runs them.
const POD_TESTS: &[&str] = &[
    "containers::",
    "devices::",
    "exec::",
    "image_volumes::",
    "lifecycle::",
    "logs::",
    "lost_shims::",
    "mounts::",
    "network::",
    "oom::",
    "pods::",
    "privileges::",
    "resources::",
    "restart::",
    "security::",
    "sessions::",
    "stats::",
    "streamed::",
    "users::",
];

/// What every change is tried with: a pod's life under each runtime, in a few minutes.
const BRIEFLY: &[&str] = &["lifecycle::"];

/// Which runtimes, and with what.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Run the tests of pods under this runtime, and nothing else: `built-in`, `runc`, `crun`, `runsc`,
    /// `knarr-oci`, `youki`, or `all`; can be given again.
    #[arg(long = "handler", value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Take runtimes from this directory rather than the host's.
    #[arg(long, value_name = "DIR", requires = "names")]
    runtimes: Vec<PathBuf>,
    /// Only tests whose names contain this; can be given again.
    #[arg(long, value_name = "NAME", requires = "names")]
    tests: Vec<String>,
}

/// Runs the tests of pods under the runtimes that were asked for.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let mut names: Vec<&str> = Vec::new();
    for name in options.names.iter().map(String::as_str) {
        if name == "all" { names.extend(ALL) } else { names.push(name) }
    }
    let bench = Bench {
        dist: dist::given_or_built(root)?,
        runtimes: runtimes::dirs(root, &options.runtimes)?,
        program: program(root)?,
        list: List::read(root)?,
    };
    let contains = |test: &str| {
        options.tests.is_empty() || options.tests.iter().any(|part| test.contains(part))
    };
    let tests: Vec<_> = bench.tests(POD_TESTS)?.into_iter().filter(|test| contains(test)).collect();
    bench.all(&names, &tests)
}

/// The part of [`run`] that everybody runs. `dist` has the programs.
pub(crate) fn briefly(root: &Path) -> Result<()> {
    let bench = Bench {
        dist: dist::dist_dir(root),
        runtimes: runtimes::dirs(root, &[])?,
        program: program(root)?,
        list: List::read(root)?,
    };
    bench.all(&["runc", "crun", "runsc"], &bench.tests(BRIEFLY)?)
}

/// The program of the ring-2 tests.
fn program(root: &Path) -> Result<PathBuf> {
    step("test program", || {
        let words = ["test", "--no-run", "--message-format", "json", "--workspace"];
        let text = output(cargo(root).args(words).args(["--test", "node"]))?;
        let messages =
            text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let mut programs =
            messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
        programs.next().context("cargo made no test program `node`")
    })
}

/// Everything that tests run with.
struct Bench {
    dist: PathBuf,
    /// Directories of runtimes, separated by colons.
    runtimes: String,
    program: PathBuf,
    list: List,
}

impl Bench {
    /// The tests whose names begin so.
    fn tests(&self, beginnings: &[&str]) -> Result<Vec<String>> {
        let text = output(Command::new(&self.program).args(["--list", "--format", "terse"]))?;
        let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
        let tests = names.filter(|name| beginnings.iter().any(|one| name.starts_with(one)));
        let tests: Vec<_> = tests.map(str::to_owned).collect();
        for test in self.list.tests() {
            ensure!(
                text.contains(&format!("{test}: test")),
                "{} names a test that does not exist: {test}",
                list::FILE
            );
        }
        Ok(tests)
    }

    fn all(&self, names: &[&str], tests: &[String]) -> Result<()> {
        ensure!(!tests.is_empty(), "there is no such test");
        let mut told = BTreeMap::new();
        for name in names {
            let outcomes = step(&format!("pods under {name}"), || self.under(name, tests))?;
            told.insert(*name, outcomes);
        }
        println!();
        for (name, outcomes) in &told {
            print!("{}", outcomes.text(name));
        }
        let wrong = told.values().filter(|outcomes| outcomes.is_wrong()).count();
        ensure!(wrong == 0, "{wrong} of {} runtimes are not as they should be", told.len());
        Ok(())
    }

    /// One runtime: what has to hold first, then what is listed.
    fn under(&self, runtime: &str, tests: &[String]) -> Result<Outcomes> {
        let version = self.version(runtime)?;
        let of_list = |test: &&String| self.list.reason(runtime, version, test).is_some();
        let (listed, wanted): (Vec<&String>, Vec<&String>) = tests.iter().partition(of_list);
        let mut all = Outcomes::default();
        self.harness(runtime, &wanted, true, |test, outcome| all.take(test, outcome))?;
        self.harness(runtime, &listed, false, |test, outcome| {
            let reason = self.list.reason(runtime, version, test).unwrap_or_default();
            all.take_listed(test, reason, outcome);
        })?;
        all.missing(&wanted);
        all.missing(&listed);
        Ok(all)
    }

    /// The version of a runtime of the host; none of our own.
    fn version(&self, runtime: &str) -> Result<Option<Version>> {
        if [BUILT_IN, "knarr-oci"].contains(&runtime) {
            return Ok(None);
        }
        let program = installed::find(runtime, self.runtimes.as_ref());
        let program = program.map_err(anyhow::Error::msg)?;
        let said = installed::says_it_is(&program)?;
        println!("{}: {}", program.display(), said.lines().next().unwrap_or_default());
        Ok(installed::version_in(&said))
    }

    /// Runs some tests, and tells how each ended.
    fn harness(
        &self,
        runtime: &str,
        tests: &[&String],
        show: bool,
        mut tell: impl FnMut(&str, Outcome),
    ) -> Result<()> {
        if tests.is_empty() {
            return Ok(());
        }
        let handler = if runtime == BUILT_IN { "" } else { runtime };
        // The harness speaks on stdout, a test that skips itself on stderr.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 2>&1"])
            .arg(&self.program)
            .arg("--exact")
            .args(tests)
            .env("KNARR_DIST", &self.dist)
            .env("KNARR_TEST_HANDLER", handler)
            .env("KNARR_RUNTIMES", &self.runtimes)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| self.program.display().to_string())?;
        let stdout = child.stdout.take().context("no output of the tests")?;
        let mut reader = outcomes::Reader::default();
        for line in BufReader::new(stdout).lines() {
            let line = line.context("read what the tests say")?;
            if show {
                println!("{line}");
            }
            if let Some((test, outcome)) = reader.take(&line) {
                tell(&test, outcome);
            }
        }
        child.wait().context("wait for the tests")?;
        Ok(())
    }
}
