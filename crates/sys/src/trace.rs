//! Where time goes: pieces of work, written as they end to one file that daemon, shims and the
//! children that become containers share.
//!
//! Nothing is written unless the process was told where ([`VARIABLE`], [`start`]): then a span
//! costs one look at a pointer. A line is BEGIN, END (nanoseconds of the monotonic clock, which is
//! one for all processes) and `PROCESS: NAME`, parted by tabs.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};
use rustix::time::ClockId;

/// Environment variable that names the file.
pub const VARIABLE: &str = "KNARR_TRACE";

static FILE: OnceLock<OwnedFd> = OnceLock::new();

/// Writes spans to this file from now on, at its end.
///
/// # Errors
/// The file cannot be opened.
pub fn start(path: &Path) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?;
    // Told twice, the first file stays.
    FILE.get_or_init(|| file);
    Ok(())
}

/// Writes spans if [`VARIABLE`] names a file.
///
/// # Errors
/// As for [`start`].
pub fn from_environment() -> io::Result<()> {
    std::env::var_os(VARIABLE).map_or(Ok(()), |path| start(Path::new(&path)))
}

/// What a program that is to write spans as well needs in its environment.
pub fn to_environment() -> Option<(&'static str, OsString)> {
    FILE.get()?;
    std::env::var_os(VARIABLE).map(|path| (VARIABLE, path))
}

/// A piece of work, from [`span`] until it is dropped.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct Span(Option<(&'static str, u64)>);

/// A piece of work that begins now. The name begins with the process: `shim: clone`.
pub fn span(name: &'static str) -> Span {
    Span(FILE.get().map(|_| (name, now())))
}

impl Drop for Span {
    fn drop(&mut self) {
        let (Some((name, begun)), Some(file)) = (self.0, FILE.get()) else { return };
        let mut line = String::with_capacity(96);
        if writeln!(line, "{begun}\t{}\t{name}", now()).is_ok() {
            // A full disk costs the trace a line, and its reader will see that.
            rustix::io::write(file, line.as_bytes()).ok();
        }
    }
}

fn now() -> u64 {
    let time = rustix::time::clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_written_when_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace");
        drop(span("test: before anybody listens"));
        start(&path).unwrap();
        {
            let _outer = span("test: outer");
            drop(span("test: inner"));
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
        let names: Vec<&str> = lines.iter().map(|line| line[2]).collect();
        assert_eq!(names, ["test: inner", "test: outer"]);
        let time = |line: usize, field: usize| lines[line][field].parse::<u64>().unwrap();
        assert!(time(1, 0) <= time(0, 0) && time(0, 0) <= time(0, 1) && time(0, 1) <= time(1, 1));
    }
}
