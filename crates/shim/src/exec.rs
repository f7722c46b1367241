//! Processes run inside containers on request.

use model::ContainerId;
use rustix::process::Pid;

/// One exec'd process that has not been reaped.
#[derive(Debug)]
pub(crate) struct Exec {
    /// The daemon's number for it.
    pub(crate) number: u64,
    pub(crate) pid: Pid,
    pub(crate) container: ContainerId,
    /// Nobody listens to it any more: it has got SIGHUP, and what it leaves behind is killed.
    pub(crate) hung_up: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Execs(Vec<Exec>);

impl Execs {
    pub(crate) fn get(&self, number: u64) -> Option<&Exec> {
        self.0.iter().find(|exec| exec.number == number)
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut Exec> {
        self.0.iter_mut().find(|exec| exec.number == number)
    }

    /// The hung up one with this process.
    pub(crate) fn hung_up(&self, pid: Pid) -> Option<&Exec> {
        self.0.iter().find(|exec| exec.hung_up && exec.pid == pid)
    }

    pub(crate) fn insert(&mut self, exec: Exec) {
        self.0.push(exec);
    }

    /// Takes out the one whose process was reaped.
    pub(crate) fn take_by_pid(&mut self, pid: Pid) -> Option<Exec> {
        let index = self.0.iter().position(|exec| exec.pid == pid)?;
        Some(self.0.swap_remove(index))
    }

    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.0.iter().map(|exec| exec.number).collect()
    }
}
