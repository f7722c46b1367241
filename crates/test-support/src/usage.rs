//! What a process has used so far, as the kernel counts it.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// Counters of one process, its threads included.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    /// User and system time, seconds.
    pub cpu_seconds: f64,
    /// Highest resident set so far, MiB.
    pub peak_mib: f64,
    /// Resident set, MiB.
    pub resident_mib: f64,
    /// Bytes it caused to be written to the disk, MiB.
    pub written_mib: f64,
}

const MIB: f64 = 1024.0 * 1024.0;
/// `USER_HZ`, which is part of the kernel's interface.
const TICKS_PER_SECOND: f64 = 100.0;

impl Used {
    /// Of a process that lives.
    ///
    /// # Errors
    /// It does not.
    pub fn of(pid: u32) -> Result<Self> {
        let read = |file: &str| {
            let path = PathBuf::from(format!("/proc/{pid}/{file}"));
            std::fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        let stat = read("stat")?;
        // The name in parentheses may hold anything.
        let fields = stat.rsplit_once(')').context("stat")?.1;
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
        let ticks: f64 = ticks.collect::<Result<Vec<_>, _>>()?.iter().sum();
        let status = read("status")?;
        let kib = |key: &str| number(&status, key).map(|kib| kib * 1024.0 / MIB);
        Ok(Self {
            cpu_seconds: ticks / TICKS_PER_SECOND,
            peak_mib: kib("VmHWM:")?,
            resident_mib: kib("VmRSS:")?,
            written_mib: number(&read("io")?, "write_bytes:")? / MIB,
        })
    }
}

fn number(text: &str, key: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let word = line.and_then(|line| line.split_whitespace().next());
    Ok(word.with_context(|| key.to_owned())?.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_something() {
        let used = Used::of(std::process::id()).unwrap();
        assert!(used.peak_mib >= used.resident_mib && used.resident_mib > 0.0, "{used:?}");
    }
}
