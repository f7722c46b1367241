//! Containers: started, stopped, changed and removed.

use model::ContainerId;

use super::StepError;
use crate::admission::Refusal;
use crate::files::FileError;
use crate::link::LinkError;
use crate::view::LookupError;

/// Why `StartContainer` failed. After [`StartError::Launch`] the container is EXITED.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The container.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// Its state does not allow it.
    #[error("cannot start container {container}")]
    Refused {
        /// The container.
        container: ContainerId,
        /// Why.
        source: Refusal,
    },
    /// Its spec cannot be read back or planned.
    #[error("cannot plan container {container}")]
    Plan {
        /// The container.
        container: ContainerId,
        /// Why.
        source: crate::plan::PlanFailure,
    },
    /// A file system that its mounts or its log lead to.
    #[error("cannot start container {container}")]
    Silent {
        /// The container.
        container: ContainerId,
        /// Which.
        source: FileError,
    },
    /// The shim could not launch it.
    #[error("cannot start container {container}")]
    Launch {
        /// The container.
        container: ContainerId,
        /// Why.
        source: LinkError,
    },
}

/// Why a container could not be stopped, removed, or its log reopened.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The container.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The daemon ended first; the container is as it was.
    #[error("the daemon is shutting down")]
    ShuttingDown,
    /// Its state does not allow it.
    #[error("cannot {what} container {container}")]
    Refused {
        /// `reopen the log of`, `run a command in`
        what: &'static str,
        /// The container.
        container: ContainerId,
        /// Why.
        source: Refusal,
    },
    /// The shim.
    #[error("cannot {what} container {container}")]
    Shim {
        /// What was tried.
        what: &'static str,
        /// The container.
        container: ContainerId,
        /// Why.
        source: LinkError,
    },
    /// The file system of its log.
    #[error("cannot reopen the log of container {container}")]
    Log {
        /// The container.
        container: ContainerId,
        /// Which.
        source: FileError,
    },
    /// Its spec cannot be read back or planned.
    #[error("cannot plan a command in container {container}")]
    Plan {
        /// The container.
        container: ContainerId,
        /// Why.
        source: Box<crate::plan::PlanFailure>,
    },
    /// It outlived SIGKILL.
    #[error("container {container} did not end within {seconds} s of SIGKILL")]
    StillRunning {
        /// The container.
        container: ContainerId,
        /// How long was waited.
        seconds: u64,
    },
    /// Parts could not be removed; call again.
    #[error("cannot remove container {container}")]
    Remove {
        /// The container.
        container: ContainerId,
        /// Why.
        source: Box<StepError>,
    },
}

/// Why a container's limits could not be changed. The old ones hold.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The container.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// Its state does not allow it.
    #[error("cannot change the limits of container {container}")]
    Refused {
        /// The container.
        container: ContainerId,
        /// Why.
        source: Refusal,
    },
    /// They cannot be limits, or not on this host.
    #[error("cannot change the limits of container {container}")]
    Limits {
        /// The container.
        container: ContainerId,
        /// Why.
        source: crate::plan::PlanFailure,
    },
    /// The kernel refused one.
    #[error("cannot change the limits of container {container}")]
    Apply {
        /// The container.
        container: ContainerId,
        /// Why.
        source: crate::cgroups::LimitError,
    },
    /// The spec cannot be brought up to date.
    #[error("cannot write the limits of container {container} into its spec")]
    Spec {
        /// The container.
        container: ContainerId,
        /// Why.
        source: crate::plan::PlanFailure,
    },
    /// They cannot be recorded.
    #[error("cannot record the limits of container {container}")]
    Record {
        /// The container.
        container: ContainerId,
        /// Why.
        source: store::WriteError,
    },
}
