//! Containers: commands run in them, and their standard files.

use model::ContainerId;

use super::ContainerError;
use crate::link::LinkError;

/// Why `ExecSync` gave no result.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The container, or its state.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// An empty command line.
    #[error("the command to run in container {container} is empty")]
    EmptyCommand {
        /// The container.
        container: ContainerId,
    },
    /// No pipes.
    #[error("cannot make pipes for a command in container {container}")]
    Pipe {
        /// The container.
        container: ContainerId,
        /// Why.
        source: std::io::Error,
    },
    /// The shim could not start it, or died.
    #[error("cannot run `{command}` in container {container}")]
    Shim {
        /// The container.
        container: ContainerId,
        /// Its first word.
        command: String,
        /// Why.
        source: LinkError,
    },
    /// It ran longer than allowed and was killed with its descendants.
    #[error("command `{command}` in container {container} timed out after {seconds} s")]
    TimedOut {
        /// The container.
        container: ContainerId,
        /// Its first word.
        command: String,
        /// The limit.
        seconds: u64,
    },
}

/// Why nobody could be attached to a container.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The container, or its state.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// Only what it does not have was asked for.
    #[error("container {container} has no standard input to attach to")]
    NoStream {
        /// The container.
        container: ContainerId,
    },
    /// No pipes.
    #[error("cannot make pipes to attach to container {container}")]
    Pipe {
        /// The container.
        container: ContainerId,
        /// Why.
        source: std::io::Error,
    },
    /// The shim refused, or died.
    #[error("cannot attach to container {container}")]
    Shim {
        /// The container.
        container: ContainerId,
        /// Why.
        source: LinkError,
    },
}
