//! Failures as they travel: one sentence, a kind, the kernel's error.

use std::io;

use failpoint::Point;
pub(crate) use model::chain;
use shim_protocol::{Failure, FailureKind};

/// The request makes no sense.
pub(crate) fn bad_request(message: impl Into<String>) -> Failure {
    Failure { kind: FailureKind::BadRequest, message: message.into(), errno: None }
}

/// There is no such thing.
pub(crate) fn not_found(message: impl Into<String>) -> Failure {
    Failure { kind: FailureKind::NotFound, message: message.into(), errno: None }
}

/// There is no such container.
pub(crate) fn unknown(container: &str) -> Failure {
    not_found(format!("container {container} is unknown to this shim"))
}

/// It is there already, or not in the state this needs.
pub(crate) fn wrong_state(message: impl Into<String>) -> Failure {
    Failure { kind: FailureKind::WrongState, message: message.into(), errno: None }
}

/// A step of the kernel's failed.
pub(crate) fn io_failure(
    kind: FailureKind,
    what: impl std::fmt::Display,
    cause: &io::Error,
) -> Failure {
    Failure { kind, message: format!("{what}: {cause}"), errno: cause.raw_os_error() }
}

/// For what is new: what ends something may take the last descriptors.
pub(crate) fn room() -> Result<(), Failure> {
    sys::descriptors::room().map_err(|scarce| Failure {
        kind: FailureKind::Internal,
        message: format!("the pod's shim: {}", chain(&scarce)),
        errno: Some(rustix::io::Errno::MFILE.raw_os_error()),
    })
}

/// A place before a step that can fail.
pub(crate) fn reach(point: Point) -> Result<(), Failure> {
    failpoint::reach(point)
        .map_err(|error| io_failure(FailureKind::Internal, "cannot do the next step", &error))
}

/// Says in a failure that taking back what had been done failed as well.
pub(crate) fn also(failure: &mut Failure, undo: &Failure) {
    failure.message.push_str("; undoing failed too: ");
    failure.message.push_str(&undo.message);
}
