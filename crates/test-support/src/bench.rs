//! The frame of the programs that `cargo xtask bench` runs: what they are told, and how they say
//! what they measured.
//!
//! A line `measured`, SECTION, QUANTITY, PARAMETER, WHO, VALUES or `failed`, SECTION, WHO, WHY,
//! parted by tabs; everything else is for people.
//!
//! Told to end (Ctrl-C, SIGTERM, or whoever started it is gone) a program clears away what it has
//! begun. Killed outright it cannot: the next one does.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is the interface")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::daemon::Settings;
use crate::node::{Node, dist};
use crate::noise;
use crate::own_disk;
use crate::scratch::Scratch;

/// Set by a starter that keeps the other end of our standard input open for as long as it wants
/// us to go on.
pub const LIFELINE: &str = "KNARR_BENCH_LIFELINE";

/// Runs `work` as the whole program, with the directory of the programs to measure. Does nothing
/// for `cargo test --benches` and the like, which run it without meaning to measure.
///
/// # Errors
/// Those of the work, or there is nothing to measure.
pub fn main(work: impl AsyncFnOnce(&Path) -> Result<()>) -> Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let dist = dist().map_err(anyhow::Error::msg)?;
    Scratch::sweep_abandoned();
    let others = noise::of_others(BEFORE)?;
    println!("measured\tmachine\ttaken by others before, % of it\t\t\t{others:.3}");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the async runtime")?;
    runtime.block_on(async {
        tokio::select! {
            done = Box::pin(work(&dist)) => done,
            // What was begun is dropped here, and so cleared away.
            why = interrupted() => bail!("interrupted: {}", why?),
        }
    })
}

/// How long the machine is watched before anything of ours runs on it.
const BEFORE: Duration = Duration::from_secs(1);

async fn interrupted() -> Result<&'static str> {
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut hang_up = signal(SignalKind::hangup()).context("watch for SIGHUP")?;
    let (gone, starter_gone) = tokio::sync::oneshot::channel();
    if std::env::var_os(LIFELINE).is_some() {
        // Not a task: the runtime would wait for a read that may never end.
        std::thread::spawn(move || {
            let ended = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            // Nobody listens any more when the work is done.
            gone.send(ended.is_ok()).ok();
        });
    } else {
        std::mem::forget(gone);
    }
    Ok(tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
        _ = hang_up.recv() => "SIGHUP",
        _ = starter_gone => "whoever started it has gone",
    })
}

/// Gives a place file systems as nodes have them, unless the machine's own are to be measured.
///
/// # Errors
/// As [`own_disk::as_on_a_node`].
pub fn furnish(scratch: &Scratch) -> Result<()> {
    match std::env::var_os("KNARR_BENCH_HERE") {
        Some(_) => Ok(()),
        None => own_disk::as_on_a_node(scratch),
    }
}

/// A node on them.
///
/// # Errors
/// As [`furnish`] and [`Node::begin`].
pub fn node(dist: &Path, change: impl FnOnce(&mut Settings, &Scratch)) -> Result<Node> {
    let mut furnished = Ok(());
    let node = Node::begin(dist, |settings, scratch| {
        furnished = furnish(scratch);
        change(settings, scratch);
    })?;
    furnished.map(|()| node)
}

/// A number that the program is given by the environment.
pub fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Words, parted by commas, that the program is given by the environment.
pub fn words(name: &str) -> Vec<String> {
    let text = std::env::var(name).unwrap_or_default();
    text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// How often each is measured: `KNARR_BENCH_RUNS`.
pub fn runs(default: usize) -> usize {
    number("KNARR_BENCH_RUNS", default)
}

/// A time in the unit of the quantities named `…, ms`.
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// One quantity of one runtime. The name ends with a comma and the unit.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    section: &'static str,
    quantity: &'static str,
    at: Option<usize>,
    who: String,
    values: Vec<f64>,
}

/// What did not work, and how often.
#[derive(Debug, Clone, PartialEq)]
struct Failure {
    section: String,
    who: String,
    why: String,
    times: usize,
}

/// Everything measured so far, in the order in which it was measured first.
#[derive(Debug, Default)]
pub struct Sheet {
    rows: Vec<Row>,
    failures: Vec<Failure>,
    /// Section, who, and how often it was tried.
    tries: Vec<(String, String, usize)>,
}

/// Whoever has failed so often in a row is not asked any more: one that hangs takes as long as it is
/// given, each time.
const ENOUGH: usize = 3;

/// How often everybody has failed in a row.
#[derive(Debug, Default)]
pub struct Standing(BTreeMap<String, usize>);

impl Standing {
    /// Notes how it went. When that was once too often, so does the sheet.
    pub fn note(&mut self, sheet: &mut Sheet, section: &str, who: &str, done: bool) {
        let failed = self.0.entry(who.to_owned()).or_default();
        *failed = if done { 0 } else { *failed + 1 };
        if *failed == ENOUGH {
            let why = format!("left out of the rest after {ENOUGH} failures in a row");
            sheet.remark(section, who, &why);
        }
    }

    /// Whether it is asked again.
    pub fn is_in(&self, who: &str) -> bool {
        self.0.get(who).is_none_or(|failed| *failed < ENOUGH)
    }
}

impl Sheet {
    /// One more value.
    pub fn note(&mut self, section: &'static str, quantity: &'static str, who: &str, value: f64) {
        self.note_at(section, quantity, None, who, value);
    }

    /// One more value of what depends on a number, such as that of pods.
    pub fn note_at(
        &mut self,
        section: &'static str,
        quantity: &'static str,
        at: Option<usize>,
        who: &str,
        value: f64,
    ) {
        let known = self.rows.iter_mut().find(|row| {
            (row.section, row.quantity, row.at, row.who.as_str()) == (section, quantity, at, who)
        });
        match known {
            Some(row) => row.values.push(value),
            None => {
                let (who, values) = (who.to_owned(), vec![value]);
                self.rows.push(Row { section, quantity, at, who, values });
            }
        }
    }

    /// Something is tried that may fail.
    pub fn tries(&mut self, section: &str, who: &str) {
        let known = self.tries.iter_mut().find(|(of, by, _)| of == section && by == who);
        match known {
            Some((_, _, times)) => *times += 1,
            None => self.tries.push((section.to_owned(), who.to_owned(), 1)),
        }
    }

    /// Something did not work: said at once, and counted.
    pub fn failed(&mut self, section: &str, who: &str, why: &str) {
        self.fails(section, who, why, 1);
    }

    /// What a reader must know beside the failures that were counted.
    pub fn remark(&mut self, section: &str, who: &str, why: &str) {
        self.fails(section, who, why, 0);
    }

    fn fails(&mut self, section: &str, who: &str, why: &str, times: usize) {
        let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
        eprintln!("{section}: {who}: {why}");
        let same = |one: &&mut Failure| one.section == section && one.who == who && one.why == why;
        match self.failures.iter_mut().find(same) {
            Some(known) => known.times += times,
            None => {
                let (section, who) = (section.to_owned(), who.to_owned());
                self.failures.push(Failure { section, who, why, times });
            }
        }
    }

    /// How often this runtime failed.
    pub fn failures_of(&self, who: &str) -> usize {
        self.failures.iter().filter(|one| one.who == who).map(|one| one.times).sum()
    }

    /// Says all of it.
    pub fn print(&self) {
        for row in &self.rows {
            println!("{}", row.line());
        }
        for failure in &self.failures {
            println!("{}", self.line(failure));
        }
    }

    fn line(&self, failure: &Failure) -> String {
        let Failure { section, who, why, times } = failure;
        let tries = self.tries.iter().find(|(of, by, _)| of == section && by == who);
        match tries {
            Some((_, _, tries)) if *times > 0 => {
                format!("failed\t{section}\t{who}\t{times} of {tries} failed: {why}")
            }
            _ => format!("failed\t{section}\t{who}\t{why}"),
        }
    }
}

impl Row {
    fn line(&self) -> String {
        let Self { section, quantity, at, who, values } = self;
        let at = at.map(|at| at.to_string()).unwrap_or_default();
        let values: Vec<String> = values.iter().map(|value| format!("{value:.3}")).collect();
        format!("measured\t{section}\t{quantity}\t{at}\t{who}\t{}", values.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_one_quantity_come_together() {
        let mut sheet = Sheet::default();
        sheet.note("pods", "start, ms", "a", 1.0);
        sheet.note_at("pods", "start, ms", Some(10), "a", 7.0);
        sheet.note("pods", "start, ms", "b", 3.0);
        sheet.note("pods", "start, ms", "a", 2.0);
        let lines: Vec<String> = sheet.rows.iter().map(Row::line).collect();
        let want = [
            "measured\tpods\tstart, ms\t\ta\t1.000 2.000",
            "measured\tpods\tstart, ms\t10\ta\t7.000",
            "measured\tpods\tstart, ms\t\tb\t3.000",
        ];
        assert_eq!(lines, want);
    }

    #[test]
    fn equal_failures_are_one_line_that_counts_them() {
        let mut sheet = Sheet::default();
        let mut standing = Standing::default();
        for number in 0..7 {
            assert_eq!(standing.is_in("hangs"), number < 5, "{number}");
            if standing.is_in("hangs") {
                sheet.tries("oci", "hangs");
                let done = number == 1;
                if !done {
                    sheet.failed("oci", "hangs", "did not end\nwithin 10 s");
                }
                standing.note(&mut sheet, "oci", "hangs", done);
            }
        }
        let lines: Vec<String> = sheet.failures.iter().map(|one| sheet.line(one)).collect();
        let want = [
            "failed\toci\thangs\t4 of 5 failed: did not end within 10 s",
            "failed\toci\thangs\tleft out of the rest after 3 failures in a row",
        ];
        assert_eq!(lines, want);
        assert_eq!((sheet.failures_of("hangs"), sheet.failures_of("knarr")), (4, 0));
    }
}
