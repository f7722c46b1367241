//! The process between the launcher and a child in a user namespace: it does what only the
//! launcher's privileges allow, gives them up by entering the namespace, makes the child there as a
//! child of the launcher, hands it over and ends.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sys::namespace::{self, Kind};
use sys::process::NewNamespaces;

use super::{EXIT_FAILED, Job};
use crate::error::{At, LaunchError, Step};
use crate::report::Reporter;

/// What a relay needs, borrowed from the launcher's memory.
#[derive(Debug)]
pub(crate) struct Relay<'a> {
    /// The child's work.
    pub(crate) job: &'a Job<'a>,
    pub(crate) user: BorrowedFd<'a>,
    /// The PID namespace the child is born into, unless it is a new one or the launcher's.
    pub(crate) pidns: Option<BorrowedFd<'a>>,
    /// Joined while every namespace of the host may be.
    pub(crate) joins: &'a [(Kind, OwnedFd)],
    /// Made with the child; they belong to the user namespace.
    pub(crate) namespaces: NewNamespaces,
    /// The unified cgroup the child is born into. The relay itself never counts in there.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// To the launcher, besides the child's own.
    pub(crate) reporter: Reporter<'a>,
}

impl Relay<'_> {
    /// Does it all; returns an exit status.
    pub(crate) fn run(&self) -> i32 {
        match self.steps() {
            Ok(()) => 0,
            Err(error) => {
                self.reporter.failed(&error);
                EXIT_FAILED
            }
        }
    }

    fn steps(&self) -> Result<(), LaunchError> {
        self.job.use_privileges()?;
        for (kind, namespace) in self.joins {
            namespace::enter(namespace.as_fd(), *kind).at(Step::Namespace, kind.name())?;
        }
        if let Some(pidns) = self.pidns {
            namespace::enter(pidns, Kind::Pid).at(Step::Namespace, "pid")?;
        }
        namespace::enter(self.user, Kind::User).at(Step::Namespace, "user")?;
        // SAFETY: a clone of a process with one thread, this one has one too and makes no other.
        let child =
            unsafe { sys::process::clone_sibling(self.namespaces, self.cgroup, || self.job.run()) }
                .at(Step::Clone, "")?;
        self.reporter.born(&child).at(Step::Channel, "").inspect_err(|_| {
            // The launcher reaps it with other orphans.
            sys::pidfd::kill(child.pidfd.as_fd()).ok();
        })
    }
}
