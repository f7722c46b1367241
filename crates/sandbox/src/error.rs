//! Why an operation failed. One enum per operation; `cri-server` maps each to a gRPC code.

mod command;
mod container;
mod create;
mod pod;

pub use command::{AttachError, ExecError};
pub use container::{ContainerError, StartError, UpdateError};
pub use create::CreateError;
pub use model::chain;
pub use pod::{RunError, StepError, StopPodError, TeardownError};
