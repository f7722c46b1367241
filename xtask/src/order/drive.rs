//! What a daemon is given to do while it is watched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use test_support::packages;

use super::list::{self, List};
use super::trace::Tracer;
use crate::bench::COMPARE;
use crate::steps::{cargo, execute, step};
use crate::{dist, elf};

/// A full node, what is asked of it each second, probes, logs, restarts: what every daemon does. Not `pods`: it
/// looks with strace, and whoever is traced cannot be twice.
const BENCHMARK: [&str; 6] = ["bench", "--quiet", "--package", "tests", "--bench", COMPARE.name];
const SECTIONS: &str = "memory,list,exec,logs,restart";
/// Calls of a kubelet's that the benchmark has no use for come behind.
const TESTS: [&str; 6] = ["test", "--quiet", "--package", "tests", "--test", "node"];
const CHOSEN: [&str; 5] = ["lifecycle::", "stats::", "images::", "--skip", "oci::"];

/// What to watch.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Run this in place of the benchmark and the tests: it drives the daemon in the directory `KNARR_DIST`.
    #[arg(last = true, value_name = "COMMAND")]
    with: Vec<String>,
}

/// Remakes the list: builds, watches, writes.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let dir = match std::env::var_os("KNARR_DIST") {
        Some(given) => PathBuf::from(given),
        None => built(root)?,
    };
    let dir = dir.canonicalize().with_context(|| dir.display().to_string())?;
    let program = dir.join("knarr");
    let image = fs::read(&program).with_context(|| program.display().to_string())?;
    let functions = elf::functions(&image).with_context(|| program.display().to_string())?;
    let mut tracer = Tracer::new(&program, functions);
    match options.with.split_first() {
        Some((command, arguments)) => {
            let mut driver = Command::new(command);
            let driver = driver.args(arguments).env("KNARR_DIST", &dir);
            step(&format!("watch {command}"), || tracer.run(driver))?;
        }
        None => usual(root, &dir, &mut tracer)?,
    }
    let list = List::of(tracer.used());
    ensure!(list.len() > 0, "no function of {} was run", program.display());
    let path = list::path(root);
    fs::write(&path, list.text()).with_context(|| path.display().to_string())?;
    println!("    {}: {} functions", path.display(), list.len());
    Ok(())
}

/// Watches the benchmark, then the tests.
fn usual(root: &Path, dir: &Path, tracer: &mut Tracer) -> Result<()> {
    step("packages", || packages::ensure(COMPARE.packages))?;
    for (what, chosen) in [(BENCHMARK, &[][..]), (TESTS, &CHOSEN[..])] {
        step(&format!("build {}", what.join(" ")), || {
            execute(driver(root, dir).args(what).arg("--no-run"))
        })?;
        step(&format!("watch {}", what.join(" ")), || {
            tracer.run(driver(root, dir).args(what).arg("--").args(chosen))
        })?;
    }
    Ok(())
}

/// A directory of fresh programs, the daemon with its symbols.
fn built(root: &Path) -> Result<PathBuf> {
    dist::run(root)?;
    let dir = root.join("target/watched");
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let others = dist::dist_dir(root);
    for (from, name) in [
        (dist::daemon_with_symbols(root)?, "knarr"),
        (others.join("knarr-shim"), "knarr-shim"),
        (others.join("knarr-oci"), "knarr-oci"),
    ] {
        fs::copy(&from, dir.join(name)).with_context(|| from.display().to_string())?;
    }
    Ok(dir)
}

fn driver(root: &Path, programs: &Path) -> Command {
    let mut driver = cargo(root);
    driver.env("KNARR_DIST", programs);
    driver.env("KNARR_BENCH_SECTIONS", SECTIONS).env("KNARR_BENCH_PODS", "30");
    driver.env("KNARR_BENCH_RUNS", "3").env("KNARR_BENCH_MEGABYTES", "64");
    driver
}
