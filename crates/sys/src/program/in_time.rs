//! A program that waits in the kernel for a file system that does not answer ends by no signal, and nor can it even be
//! started there. Who runs one gives up in time and leaves a thread behind. Until that has ended nobody begins with
//! the same program again: each attempt would cost a thread.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::ExecError;

/// How long a program that was killed is waited for. Usually it is gone before the call has returned.
const DIES_WITHIN: Duration = Duration::from_secs(5);

/// How many threads each program holds that nobody waits for any more.
static LEFT_BEHIND: Mutex<BTreeMap<PathBuf, usize>> = Mutex::new(BTreeMap::new());

fn left_behind() -> MutexGuard<'static, BTreeMap<PathBuf, usize>> {
    LEFT_BEHIND.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does `work`, which bounds itself to `limit` where the kernel lets it, on a thread of its own in the caller's
/// namespaces.
pub(super) fn run<T: Send + 'static>(
    program: &Path,
    limit: Duration,
    work: impl FnOnce() -> Result<T, ExecError> + Send + 'static,
) -> Result<T, ExecError> {
    if left_behind().contains_key(program) {
        return Err(ExecError::Stuck);
    }
    let given_up = Arc::new(Mutex::new(false));
    let (tell, told) = sync_channel(1);
    let of_worker = (program.to_owned(), Arc::clone(&given_up));
    let worker = std::thread::Builder::new().name("program".to_owned()).spawn(move || {
        let outcome = work();
        // Nobody listens where it was given up.
        tell.send(outcome).unwrap_or_default();
        let (program, given_up) = of_worker;
        if *given_up.lock().unwrap_or_else(PoisonError::into_inner) {
            come_back(&program);
        }
    });
    let worker = worker.map_err(ExecError::Run)?;
    let mut outcome = told.recv_timeout(limit.saturating_add(DIES_WITHIN));
    if matches!(outcome, Err(RecvTimeoutError::Timeout)) {
        let mut given_up = given_up.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have ended in this moment.
        outcome = told.try_recv().map_err(|_| RecvTimeoutError::Timeout);
        if outcome.is_err() {
            *given_up = true;
            *left_behind().entry(program.to_owned()).or_default() += 1;
        }
    }
    match outcome {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Timeout) => Err(ExecError::Stuck),
        Err(RecvTimeoutError::Disconnected) => match worker.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => Err(ExecError::Stuck),
        },
    }
}

/// A thread that was left behind ends after all.
fn come_back(program: &Path) {
    let mut left = left_behind();
    if let Some(count) = left.get_mut(program) {
        *count -= 1;
        if *count == 0 {
            left.remove(program);
        }
    }
}

#[cfg(test)]
pub(super) fn left_by(program: &Path) -> usize {
    left_behind().get(program).copied().unwrap_or_default()
}
