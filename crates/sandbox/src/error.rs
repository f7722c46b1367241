//! Why an operation failed. One enum per operation; `cri-server` maps each to a gRPC code.

mod command;
mod container;
mod create;
mod pod;

pub use command::{AttachError, ExecError};
pub use container::{ContainerError, StartError, UpdateError};
pub use create::CreateError;
pub use pod::{RunError, StepError, StopPodError, TeardownError};

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Transparent errors repeat their source's words.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
