//! Where a container is in its life.

use std::fmt;

/// OCI: `status` of a container's state, and runc's `paused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// Somebody makes it just now.
    Creating,
    /// Everything is there, its program has not been executed.
    Created,
    /// Its program runs.
    Running,
    /// All its processes are stopped for a while.
    Paused,
    /// Its first process has ended, or never came to be.
    Stopped,
}

impl Status {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
