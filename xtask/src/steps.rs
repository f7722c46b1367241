//! Named steps with their times, and the commands they run.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

/// Runs `work`, printing its name before and its time after. The error names the step.
pub(crate) fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("\n==> {name}");
    let begun = Instant::now();
    let result = work();
    let took = begun.elapsed().as_secs_f64();
    match &result {
        Ok(_) => println!("    {name}: ok ({took:.1} s)"),
        Err(_) => println!("    {name}: FAILED ({took:.1} s)"),
    }
    result.with_context(|| format!("step `{name}` failed"))
}

/// The `cargo` that runs us, in the workspace.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

/// Runs `command` to its end with our own output; anything but success is an error.
pub(crate) fn execute(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    ensure!(status.success(), "{status}: {command:?}");
    Ok(())
}

/// Runs `command` and returns what it wrote to stdout.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {command:?}\n{stderr}", output.status);
    String::from_utf8(output.stdout).with_context(|| format!("output of {command:?}"))
}
