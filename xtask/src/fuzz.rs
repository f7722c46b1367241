//! `cargo xtask fuzz`: the targets of `fuzz/` on the pinned toolchain. LLVM's coverage pass is all that
//! libFuzzer needs; only the sanitizers are nightly's, and safe Rust has little for them to find.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::dist::host_triple;
use crate::steps::{cargo, execute, step};

/// What tells the fuzzer which way an input took.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// What to fuzz, and for how long.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Which target; all of them, one after the other, if none is named.
    target: Option<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let all = targets(root)?;
    let chosen: Vec<String> = match &options.target {
        None => all,
        Some(target) if all.contains(target) => vec![target.clone()],
        Some(target) => bail!("there is no fuzz target `{target}`; there are {}", all.join(", ")),
    };
    fuzz(root, &chosen, options.seconds)
}

/// Every target for a moment, from whatever earlier runs have found.
pub(crate) fn briefly(root: &Path) -> Result<()> {
    fuzz(root, &targets(root)?, 3)
}

fn fuzz(root: &Path, targets: &[String], seconds: u64) -> Result<()> {
    let programs = step("build the fuzz targets", || build(root))?;
    for target in targets {
        step(&format!("fuzz {target}"), || attack(root, &programs.join(target), target, seconds))?;
    }
    Ok(())
}

/// Names of the targets: each is a file.
fn targets(root: &Path) -> Result<Vec<String>> {
    let dir = root.join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        let path = entry.with_context(|| dir.display().to_string())?.path();
        names.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Builds all of them; the directory they are in. Naming a target keeps the flags away from build
/// scripts.
fn build(root: &Path) -> Result<PathBuf> {
    let host = host_triple(root)?;
    let dir = root.join("target/fuzz");
    let mut build = cargo(root);
    build.env("RUSTFLAGS", COVERAGE).args(["build", "--release", "--locked", "--manifest-path"]);
    build.arg(root.join("fuzz/Cargo.toml")).args(["--target", &host, "--target-dir"]).arg(&dir);
    execute(&mut build)?;
    Ok(dir.join(host).join("release"))
}

/// Runs one; an input that breaks it is kept.
fn attack(root: &Path, program: &Path, target: &str, seconds: u64) -> Result<()> {
    let corpus = root.join("fuzz/corpus").join(target);
    let found = root.join("fuzz/artifacts").join(target);
    for dir in [&corpus, &found] {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    let output = Command::new(program)
        .arg(&corpus)
        .arg(format!("-artifact_prefix={}/", found.display()))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={}", longest(target)))
        // From the first moment any length: what is short is often refused at once.
        .args(["-len_control=0", "-timeout=20", "-rss_limit_mb=1024", "-print_final_stats=1"])
        .stdin(Stdio::null())
        .output()
        .with_context(|| program.display().to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprintln!("{said}");
    }
    ensure!(
        output.status.success(),
        "{}: an input breaks `{target}`; it is in {}: `{} FILE` repeats it",
        output.status,
        found.display(),
        program.display()
    );
    let last = said.lines().find(|line| line.contains("DONE")).unwrap_or_default();
    println!("    {}", last.trim());
    Ok(())
}

/// The longest input, in bytes.
fn longest(target: &str) -> usize {
    match target {
        // Some headers of tar, of 512 bytes each.
        "layer" => 16384,
        // Each byte is an entry.
        "whiteouts" => 64,
        _ => 4096,
    }
}
