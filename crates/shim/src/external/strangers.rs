//! Children that ended and were nobody's yet: a process may end before the command that has started it
//! says which it is.

use std::time::Instant;

use rustix::process::{Pid, WaitStatus};

/// Those of the commands under way.
#[derive(Debug, Default)]
pub(super) struct Strangers(Vec<Stranger>);

#[derive(Debug)]
struct Stranger {
    pid: Pid,
    status: WaitStatus,
    /// When it was reaped: from then on its number may become another's.
    at: Instant,
}

impl Strangers {
    pub(super) fn keep(&mut self, pid: Pid, status: WaitStatus, at: Instant) {
        self.0.push(Stranger { pid, status, at });
    }

    /// How this process ended, if it has.
    pub(super) fn take(&mut self, pid: Pid) -> Option<WaitStatus> {
        let index = self.0.iter().position(|stranger| stranger.pid == pid)?;
        Some(self.0.swap_remove(index).status)
    }

    /// Forgets those that no command under way can have started: what was reaped before the oldest
    /// began is nobody's. Commands may overlap for days.
    pub(super) fn forget_before(&mut self, oldest: Option<Instant>) {
        self.0.retain(|stranger| oldest.is_some_and(|oldest| stranger.at >= oldest));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::process::{WaitOptions, waitpid};

    use super::*;

    fn ended() -> (Pid, WaitStatus) {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).unwrap();
        let ended = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
        child.wait().expect_err("it is reaped");
        ended
    }

    #[test]
    fn who_ended_before_any_command_began_is_nobodys() {
        let (mut strangers, begun) = (Strangers::default(), Instant::now());
        let (first, second) = (ended(), ended());
        strangers.keep(first.0, first.1, begun);
        strangers.keep(second.0, second.1, begun + Duration::from_secs(1));
        strangers.forget_before(Some(begun));
        assert_eq!(strangers.0.len(), 2, "both may be its");
        strangers.forget_before(Some(begun + Duration::from_secs(1)));
        assert!(strangers.take(first.0).is_none(), "its number may be another's by now");
        assert_eq!(strangers.take(second.0).unwrap().exit_status(), Some(0));
        assert!(strangers.take(second.0).is_none());
        strangers.keep(first.0, first.1, begun);
        strangers.forget_before(None);
        assert!(strangers.take(first.0).is_none(), "nobody asks any more");
    }
}
