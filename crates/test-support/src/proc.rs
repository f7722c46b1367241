//! Other processes: who they are, that they end, and what their cgroups are.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

/// One process as `/proc` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id here.
    pub pid: i32,
    /// Its parent.
    pub parent: i32,
    /// It has ended, and waits to be reaped by its parent, or for others of its PID namespace to be.
    pub zombie: bool,
    /// Its arguments, joined by spaces; empty for a zombie.
    pub cmdline: String,
    /// `/proc/<pid>/cgroup`
    pub cgroups: String,
}

/// Every process there is, except those that end while they are looked at.
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(look_at)
        .collect()
}

/// It runs no code of its own any more.
const PF_EXITING: u32 = 4;

fn look_at(pid: i32) -> Option<Process> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let cmdline = fs::read(dir.join("cmdline")).ok()?;
    let cmdline = String::from_utf8_lossy(&cmdline).replace('\0', " ").trim_end().to_owned();
    let cgroups = fs::read_to_string(dir.join("cgroup")).ok()?;
    let stat = fs::read_to_string(dir.join("stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    // Behind the process group, the session and the terminal's two.
    let flags: u32 = fields.nth(4)?.parse().ok()?;
    let zombie = state == "Z" || flags & PF_EXITING != 0;
    Some(Process { pid, parent, zombie, cmdline, cgroups })
}

/// Value of a line such as `Seccomp:` of a `status` file of `/proc`.
pub fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Memory of a process, what it shares divided by those who share it (`Pss`), KiB.
///
/// # Errors
/// The process is gone.
pub fn pss_kib(pid: i32) -> Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let rollup = fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    Ok(line.split_whitespace().next().context("no Pss")?.parse()?)
}

/// Sends a signal; a process that is gone is no error.
///
/// # Errors
/// The signal is not permitted.
pub fn signal(pid: i32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid).context("pid 0")?;
    match rustix::process::kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(e) => Err(e).with_context(|| format!("signal process {pid:?}")),
    }
}

/// Blocks until the process has ended.
///
/// # Errors
/// It has not ended within `limit`.
pub fn wait_gone(pid: i32, limit: Duration) -> Result<()> {
    ensure!(ended_within(pid, limit)?, "process {pid} still runs after {limit:?}");
    Ok(())
}

/// Blocks until the process has ended, or for so long; whether it has.
///
/// # Errors
/// The kernel does not say.
pub fn ended_within(pid: i32, limit: Duration) -> Result<bool> {
    let raw = Pid::from_raw(pid).context("pid 0")?;
    let Ok(fd) = rustix::process::pidfd_open(raw, PidfdFlags::empty()) else { return Ok(true) };
    poll_one(&fd, limit)
}

fn poll_one(fd: &impl std::os::fd::AsFd, limit: Duration) -> Result<bool> {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let limit = Timespec {
        tv_sec: i64::try_from(limit.as_secs())?,
        tv_nsec: i64::from(limit.subsec_nanos()),
    };
    let ready = rustix::event::poll(&mut fds, Some(&limit)).context("poll")?;
    Ok(ready > 0)
}
