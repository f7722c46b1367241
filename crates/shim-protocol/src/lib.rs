//! Messages between the daemon and a pod's shim, and their codec.
//!
//! The daemon asks, the shim answers; events flow back on the same connection. The shim never
//! dials anybody. Files are handed over with `SCM_RIGHTS`, attached to the first byte of the
//! frame they belong to.
//!
//! A frame is a `u32` little-endian length (at most [`MAX_FRAME`]) and one CBOR value:
//! [`Request`] towards the shim, [`FromShim`] back. `docs/shim-protocol.md` is byte-exact.
//!
//! Never here: sockets, async, launch plans (they travel as opaque bytes).
//!
//! Compatibility rule: indices are never reused; new fields are `Option`s; a daemon talks to
//! shims older than itself, so it must do without what [`Hello`] does not promise.
#![forbid(unsafe_code)]

mod codec;
mod exit_file;
mod files;
mod message;

pub use codec::{CodecError, FrameReader, MAX_FRAME, encode};
pub use exit_file::{ExitFileError, is_reserved_exit_file, reserved_exit_file};
pub use files::{FrameFiles, MAX_FILES, TooManyFiles};
pub use message::{
    Asked, AttachEnd, Body, ContainerSnapshot, Event, Exit, Failure, FailureKind, FromShim, Hello,
    ImagePlace, Phase, Places, PodReady, PodSetup, Request, Response, RuntimeKind, RuntimeProgram,
    StartAttach, StartContainer, StartExec, StartExternal, Started, StateReport, Sysctl, Warning,
};

/// The protocol version this build speaks.
pub const VERSION: u32 = 3;
