//! Streaming: exec, attach and port-forward for every client that speaks SPDY/3.1 or WebSocket.
//!
//! Never here: protobuf, the shim's protocol, pods' state. What a session needs of the runtime is
//! the [`Backend`].
#![forbid(unsafe_code)]

pub mod backend;

pub use backend::{
    AttachRequest, Backend, BackendError, BoxFuture, Ending, ExecRequest, PortForwardRequest,
    Process, ProcessControl, Streams, StreamsError, TerminalSize,
};
