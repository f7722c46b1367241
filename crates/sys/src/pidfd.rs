//! Processes by handle: a pidfd never comes to mean another process.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this status.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
}

impl Ended {
    /// Exit code as a shell shows it: the status, or 128 plus the signal.
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(status) => status,
            Self::Signaled(signal) => 128 + signal,
        }
    }
}

/// A handle on the process that has `pid` now.
///
/// # Errors
/// `ESRCH` when there is none, otherwise what `pidfd_open(2)` refuses with.
pub fn open(pid: Pid) -> io::Result<OwnedFd> {
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        // Of a process that is being reaped, its number not yet given back, kernels up to 6.8 say this.
        Err(Errno::INVAL) => Err(Errno::SRCH.into()),
        opened => Ok(opened?),
    }
}

/// The number of the process in the PID namespace that the caller's `/proc` shows.
///
/// # Errors
/// `ESRCH` when it has been reaped, otherwise what reading `/proc` fails with.
pub fn pid_of(process: BorrowedFd<'_>) -> io::Result<Pid> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    // -1 stands for a process that is gone, 0 for one in a namespace that is not visible.
    let pid = pid.and_then(|pid| pid.trim().parse().ok()).filter(|pid| *pid > 0);
    pid.and_then(Pid::from_raw).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

/// Sends a signal by number. Success when the process has ended already.
///
/// # Errors
/// What `pidfd_send_signal(2)` refuses with, `EINVAL` for a number that is no signal.
pub fn signal(process: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    match crate::supervise::signal_by_pidfd(process, number) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        result => result,
    }
}

/// Sends SIGKILL. Success when the process has ended already.
///
/// # Errors
/// What `pidfd_send_signal(2)` refuses with.
pub fn kill(process: BorrowedFd<'_>) -> io::Result<()> {
    signal(process, libc::SIGKILL)
}

/// Reaps a child, waiting for its end.
///
/// # Errors
/// What `waitid(2)` refuses with.
pub fn wait(child: BorrowedFd<'_>) -> io::Result<Ended> {
    loop {
        if let Some(ended) = reap(child, WaitIdOptions::EXITED)? {
            return Ok(ended);
        }
    }
}

/// Reaps a child if it has ended.
///
/// # Errors
/// What `waitid(2)` refuses with.
pub fn try_wait(child: BorrowedFd<'_>) -> io::Result<Option<Ended>> {
    reap(child, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
}

/// Blocks until the process, which need not be a child, has ended; false when it has not within
/// `limit`. Whoever has to still reaps it.
///
/// # Errors
/// What `poll(2)` refuses with.
pub fn wait_ended(process: BorrowedFd<'_>, limit: Duration) -> io::Result<bool> {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn reap(child: BorrowedFd<'_>, options: WaitIdOptions) -> io::Result<Option<Ended>> {
    loop {
        match rustix::process::waitid(WaitId::PidFd(child), options) {
            Ok(None) => return Ok(None),
            Ok(Some(status)) => {
                let exited = status.exit_status().map(Ended::Exited);
                return Ok(exited.or_else(|| status.terminating_signal().map(Ended::Signaled)));
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_handle_knows_its_number_until_the_process_is_reaped() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).unwrap();
        let handle = open(pid).unwrap();
        assert_eq!(pid_of(handle.as_fd()).unwrap(), pid);
        child.wait().unwrap();
        assert_eq!(pid_of(handle.as_fd()).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn a_process_that_is_reaped_meanwhile_is_not_there() {
        for _ in 0..50 {
            let mut child = std::process::Command::new("true").spawn().unwrap();
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).unwrap();
            let reaped = std::thread::spawn(move || child.wait().map(drop));
            let refused = loop {
                if let Err(error) = open(pid) {
                    break error;
                }
            };
            assert_eq!(refused.raw_os_error(), Some(libc::ESRCH));
            reaped.join().unwrap().unwrap();
        }
    }
}
