//! Streaming: exec, attach and port-forward for every client that speaks SPDY/3.1 or WebSocket.
//!
//! [`Server`] serves what was asked for by [`Urls`]; what it needs of the runtime is a [`Backend`].
//!
//! Never here: protobuf, the shim's protocol, pods' state. The codecs (`spdy`, `websocket`) do no IO;
//! `wire` gives their streams bounded buffers and drives a connection; `session` is what happens on
//! it; `server` gets there.
#![forbid(unsafe_code)]

pub mod backend;
pub mod client;
mod connection;
mod descriptor;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod protocol;
mod random;
mod server;
mod session;
mod spdy;
#[cfg(test)]
mod tests;
mod tls;
mod websocket;
mod wire;

pub use backend::{
    AttachRequest, Backend, BackendError, BoxFuture, Ending, ExecRequest, PortForwardRequest,
    Process, ProcessControl, Streams, StreamsError, TerminalSize,
};
pub use server::{BindError, Config, Server, TooManyRequests, Urls};
pub use tls::{ClientTls, TlsError, TlsFiles};
