//! The process behind a shim's link, and that it has ended.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Child;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::SandboxId;
use rustix::process::Pid;

use super::DIES_WITHIN;
use crate::blocking;
use crate::cgroups::ENDS_WITHIN;
use crate::record::ProcessRecord;

/// How soon one that cannot be waited for is looked at again.
const LOOKS_EVERY: Duration = Duration::from_millis(10);

/// How this daemon holds a shim.
#[derive(Debug)]
pub(super) enum ShimProcess {
    /// It started the shim, and reaps it.
    Child(Child),
    /// An earlier daemon did; init reaps it. Without a record it had ended before it was noted.
    Adopted(Option<ProcessRecord>),
}

impl ShimProcess {
    /// Returns once it has ended. It has been told to, or has lost its link: nothing is left for it
    /// to do, so it is killed as well. What fails is logged: the pod's end does not hang on it.
    pub(super) async fn end(self, sandbox: &SandboxId) {
        let ended = blocking::run(move || match self {
            Self::Child(child) => end_child(child),
            Self::Adopted(None) => Ok(()),
            Self::Adopted(Some(process)) => end_adopted(process, DIES_WITHIN),
        })
        .await;
        if let Err(error) = ended {
            tracing::warn!(%sandbox, %error, "the shim has not ended");
        }
    }
}

/// Children that outlived SIGKILL for too long. Nobody else reaps them.
static LEFT: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Ends and reaps a shim of our own, and those that could not be reaped before. Blocking.
fn end_child(mut child: Child) -> io::Result<()> {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    drop(left);
    // Killing a process that has ended already is harmless until it is waited for.
    child.kill()?;
    let ended = child_ends(&mut child);
    if ended.is_err() {
        LEFT.lock().unwrap_or_else(PoisonError::into_inner).push(child);
    }
    ended
}

fn child_ends(child: &mut Child) -> io::Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // It is not reaped, so its number is its own.
    match pid.map(sys::pidfd::open).transpose() {
        Ok(handle) => {
            handle.map_or(Ok(()), |it| await_end(it.as_fd(), child.id(), DIES_WITHIN))?;
            child.wait().map(drop)
        }
        // There may be no descriptor left, and the last ones are to come back by this.
        Err(_) => {
            let until = Instant::now() + DIES_WITHIN;
            while child.try_wait()?.is_none() {
                if Instant::now() >= until {
                    return Err(outlives(child.id(), DIES_WITHIN));
                }
                std::thread::sleep(LOOKS_EVERY);
            }
            Ok(())
        }
    }
}

/// Ends a shim that an earlier daemon started and that does not answer, if it still runs. The node waits
/// for that, so not for long: a shim may hang where SIGKILL does not reach it.
pub(crate) async fn end_shim_process(process: ProcessRecord, sandbox: &SandboxId) {
    let ended = blocking::run(move || end_adopted(process, ENDS_WITHIN)).await;
    if let Err(error) = ended {
        tracing::warn!(%sandbox, %error, "the shim has not ended");
    }
}

/// As [`end_shim_process`], with what went wrong. Blocking.
pub(crate) fn end_adopted(process: ProcessRecord, limit: Duration) -> io::Result<()> {
    let Some(pid) = Pid::from_raw(process.pid) else { return Ok(()) };
    let handle = match sys::pidfd::open(pid) {
        Ok(handle) => handle,
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    // After the handle was opened: a number that has come to mean another process has other ticks.
    if crate::host::start_ticks(process.pid) != Some(process.start_ticks) {
        return Ok(());
    }
    sys::pidfd::kill(handle.as_fd())?;
    await_end(handle.as_fd(), pid.as_raw_nonzero(), limit)
}

/// One that has been killed may hang in the kernel for as long as a file system does: its pod does not.
fn await_end(process: BorrowedFd<'_>, pid: impl Display, limit: Duration) -> io::Result<()> {
    if sys::pidfd::wait_ended(process, limit)? {
        return Ok(());
    }
    Err(outlives(pid, limit))
}

fn outlives(pid: impl Display, limit: Duration) -> io::Error {
    let why = format!("process {pid} outlives SIGKILL by {} s", limit.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn sleeper() -> (Child, ProcessRecord) {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let start_ticks = crate::host::start_ticks(pid).unwrap();
        (child, ProcessRecord { pid, start_ticks })
    }

    #[test]
    fn a_child_is_reaped_with_those_that_were_left() {
        let (earlier, first) = sleeper();
        LEFT.lock().unwrap().push(earlier);
        sys::pidfd::kill(sys::pidfd::open(Pid::from_raw(first.pid).unwrap()).unwrap().as_fd())
            .unwrap();
        let (child, second) = sleeper();
        // It may take a moment to die; each end looks once.
        end_child(child).unwrap();
        while LEFT.lock().unwrap().iter().any(|left| left.id().cast_signed() == first.pid) {
            end_child(sleeper().0).unwrap();
        }
        for process in [first, second] {
            assert_ne!(crate::host::start_ticks(process.pid), Some(process.start_ticks));
        }
    }

    #[test]
    fn an_adopted_shim_has_ended_when_the_call_returns() {
        let (mut child, process) = sleeper();
        end_adopted(process, DIES_WITHIN).unwrap();
        assert!(child.try_wait().unwrap().is_some());
        // A second call finds nobody.
        end_adopted(process, DIES_WITHIN).unwrap();
    }

    #[test]
    fn a_process_that_only_has_the_number_is_left_alone() {
        let (mut child, process) = sleeper();
        let other = ProcessRecord { start_ticks: process.start_ticks + 1, ..process };
        end_adopted(other, DIES_WITHIN).unwrap();
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
