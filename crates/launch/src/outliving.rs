//! Children that outlive SIGKILL, because they wait in the kernel for a file system that does not answer.
//! Nobody waits for them: what was made for them goes once they have ended, whenever that is.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use sys::process::Child;

use crate::cgroup::Made;

/// How long a child that was killed is waited for. Usually it is gone before the call has returned.
pub(crate) const DIES_WITHIN: Duration = Duration::from_secs(5);

/// Those of one launcher.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outliving(Rc<RefCell<Vec<(Child, Made)>>>);

impl Outliving {
    /// Kills and reaps a child and removes what was made for it, now or later.
    pub(crate) fn end(&self, child: Child, mut made: Made) {
        // The child is ours and not reaped, so the handle is good.
        sys::pidfd::kill(child.pidfd.as_fd()).ok();
        if has_ended(&child, DIES_WITHIN) {
            sys::pidfd::wait(child.pidfd.as_fd()).ok();
            made.undo();
        } else {
            self.0.borrow_mut().push((child, made));
        }
    }

    /// Removes what was made for those that have ended meanwhile.
    pub(crate) fn see_off(&self) {
        self.0.borrow_mut().retain_mut(|(child, made)| {
            let ended = has_ended(child, Duration::ZERO);
            if ended {
                // An error is that it was reaped, as any child of its parent may be.
                sys::pidfd::try_wait(child.pidfd.as_fd()).ok();
                made.undo();
            }
            !ended
        });
    }

    /// How many still live.
    pub(crate) fn count(&self) -> usize {
        self.0.borrow().len()
    }
}

pub(crate) fn has_ended(child: &Child, limit: Duration) -> bool {
    sys::pidfd::wait_ended(child.pidfd.as_fd(), limit).unwrap_or_default()
}
