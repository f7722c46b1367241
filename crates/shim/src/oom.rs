//! Whose the OOM killer's victims were. The kernel counts them per cgroup and names none: a child
//! that was killed hours ago must not be taken for the reason of an end by another hand, and the
//! shell around a child that has just been killed must be.
//!
//! So the count is looked at a moment after each visit. If the first process lives on then, the
//! victims were others.

use std::time::{Duration, Instant};

use rustix::process::Pid;
use shim_protocol::Exit;
use sys::cgroup::OomWatch;

use crate::tools::Tools;

const SIGKILL: i32 = 9;

/// How soon after a visit is looked: on v1 the word comes before the kill, and on v2 one look is
/// enough for many reports.
const LOOK_AFTER: Duration = Duration::from_millis(200);

/// A first process that reports a child's SIGKILL as its own exit code does so at once.
const REPORTED_WITHIN: Duration = Duration::from_secs(10);

/// What is known of one container that runs.
#[derive(Debug)]
pub(crate) struct Oom {
    /// Absent where nothing counts memory.
    watch: Option<(OomWatch, u64)>,
    /// Victims that were not the first process.
    others: u64,
    /// When the last of them was noticed.
    last_other: Option<Instant>,
    /// When to look.
    look_at: Option<Instant>,
    /// The first process was sent SIGKILL on somebody's request while it lived.
    sent_kill: bool,
}

impl Oom {
    /// For a container that has just been started; `before` kills were counted until then. The
    /// number is that of the watch in the poller.
    pub(crate) fn new(watch: Option<(OomWatch, u64)>, before: u64) -> Self {
        Self { watch, others: before, last_other: None, look_at: None, sent_kill: false }
    }

    pub(crate) fn watch(&self) -> Option<&OomWatch> {
        self.watch.as_ref().map(|(watch, _)| watch)
    }

    pub(crate) fn take_watch(&mut self) -> Option<OomWatch> {
        self.watch.take().map(|(watch, _)| watch)
    }

    pub(crate) fn has(&self, number: u64) -> bool {
        self.watch.as_ref().is_some_and(|(_, own)| *own == number)
    }

    /// The OOM killer comes or has been: look soon.
    pub(crate) fn visited(&mut self) {
        self.look_at = Some(Instant::now() + LOOK_AFTER);
    }

    /// When to look.
    pub(crate) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// Looks: `kills` are counted, and the first process is `first`. True when the next visit is to
    /// be waited for.
    pub(crate) fn look(&mut self, first: Pid, kills: u64) -> bool {
        if kills > self.others {
            if sys::process::is_dying(first) {
                // It may be the victim: its end tells.
                self.look_at = Some(Instant::now() + LOOK_AFTER);
                return false;
            }
            self.others = kills;
            self.last_other = Some(Instant::now());
        }
        self.look_at = None;
        if let Some(watch) = self.watch() {
            watch.acknowledge();
        }
        true
    }

    /// Waits for the next visit.
    pub(crate) fn watch_again(&self, tools: &Tools) {
        if let Some((watch, number)) = &self.watch {
            tools.watch_oom(watch, *number);
        }
    }

    /// The first process is about to be sent SIGKILL on request: if it has not been killed
    /// already, that is what ends it.
    pub(crate) fn kill_requested(&mut self, first: Pid, kills: u64) {
        if !sys::process::is_dying(first) {
            self.others = self.others.max(kills);
            self.sent_kill = true;
        }
    }

    /// Whether the OOM killer ended the container, `kills` being counted at the end.
    pub(crate) fn ended(&self, exit: &Exit, kills: u64) -> bool {
        match exit.signal {
            Some(SIGKILL) => !self.sent_kill && kills > self.others,
            Some(_other) => false,
            None => {
                let lately = |at: Instant| at.elapsed() < REPORTED_WITHIN;
                let one_died = kills > self.others || self.last_other.is_some_and(lately);
                exit.code == 128 + SIGKILL && one_died
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(signal: Option<i32>, code: i32) -> Exit {
        Exit { code, signal, ..Exit::default() }
    }

    fn killed() -> Exit {
        exit(Some(SIGKILL), 137)
    }

    fn own() -> Pid {
        rustix::process::getpid()
    }

    #[test]
    fn a_first_process_that_the_oom_killer_ended_is_known() {
        let oom = Oom::new(None, 2);
        assert!(oom.ended(&killed(), 3));
        assert!(!oom.ended(&killed(), 2), "somebody else's SIGKILL");
        assert!(!oom.ended(&exit(Some(15), 143), 3), "another signal");
    }

    #[test]
    fn a_child_killed_earlier_does_not_explain_a_later_end() {
        let mut oom = Oom::new(None, 0);
        oom.visited();
        assert!(oom.look_at().is_some());
        assert!(oom.look(own(), 1), "the first process lives on");
        assert!(oom.look_at().is_none());
        assert!(!oom.ended(&killed(), 1));
        assert!(oom.ended(&killed(), 2), "and then it is the victim");
    }

    #[test]
    fn a_requested_kill_is_not_the_oom_killers() {
        let mut oom = Oom::new(None, 0);
        oom.kill_requested(own(), 1);
        assert!(!oom.ended(&killed(), 1));
    }

    #[test]
    fn a_shell_reports_its_childs_death_and_others_do_not() {
        let mut oom = Oom::new(None, 0);
        assert!(oom.ended(&exit(None, 137), 1), "noticed at the end");
        assert!(oom.look(own(), 1));
        assert!(oom.ended(&exit(None, 137), 1), "noticed before");
        assert!(!oom.ended(&exit(None, 0), 1), "it went on and ended well");
        assert!(!oom.ended(&exit(None, 1), 1), "it ended for a reason of its own");
        assert!(!Oom::new(None, 0).ended(&exit(None, 137), 0));
    }
}
