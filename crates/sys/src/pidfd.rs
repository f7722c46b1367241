//! Processes by handle: a pidfd never comes to mean another process.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

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
/// What `pidfd_open(2)` refuses with.
pub fn open(pid: Pid) -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
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
