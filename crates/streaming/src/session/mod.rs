//! Sessions: what happens on a connection once its protocol is agreed.

mod forward;
mod pair;
mod process;
mod resize;
pub(crate) mod status;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
pub(crate) use model::chain;
use tokio::sync::watch;

pub(crate) use self::forward::Forwarding;
pub(crate) use self::pair::exchange;
pub(crate) use self::process::{ProcessSession, Version};
pub(crate) use self::{forward::Arrival as ForwardArrival, process::Arrival as ProcessArrival};
use crate::backend::{AttachRequest, Backend, ExecRequest, PortForwardRequest};
use crate::wire::{End, Io, Limits, Mux, Timeouts, Wire, drive};

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Process(ProcessRequest),
    PortForward(PortForwardRequest),
}

/// What a session with a process is to begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProcessRequest {
    Exec(ExecRequest),
    Attach(AttachRequest),
}

/// How patient sessions are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) timeouts: Timeouts,
    /// For a client to open its streams.
    pub(crate) streams: Duration,
    /// For somebody who keeps an ended process's output open.
    pub(crate) drain: Duration,
    /// For the other direction of a forwarded connection whose one direction has ended.
    pub(crate) half_open: Duration,
}

/// What every session of a server has in common.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) patience: Patience,
    /// Turns true when the server stops: sessions are to end now, in good order.
    pub(crate) stopping: watch::Receiver<bool>,
}

impl Context {
    /// Waits until the server stops.
    pub(crate) async fn stopped(&self) {
        let mut stopping = self.stopping.clone();
        // A server that is gone stops as well.
        let _gone = stopping.wait_for(|stopping| *stopping).await.is_err();
    }
}

/// A process's streams have little in them; back-pressure is what keeps the client slow.
pub(crate) const PROCESS_LIMITS: Limits = Limits {
    stream_buffer: 64 * 1024,
    total_buffer: 256 * 1024,
    streams: 16,
    outlives_reset: false,
};
/// A connection that nobody reads must not hold up the others for a while.
pub(crate) const FORWARD_LIMITS: Limits = Limits {
    stream_buffer: 256 * 1024,
    total_buffer: 16 * 1024 * 1024,
    streams: 4096,
    outlives_reset: false,
};

/// A session of one connection.
pub(crate) enum Session {
    Process(ProcessSession),
    Forward(Forwarding),
}

impl Session {
    /// Runs it to its end on a connection whose handshake is done.
    pub(crate) async fn run(self, wire: Wire, io: impl Io, early: Bytes, context: &Context) -> End {
        let timeouts = context.patience.timeouts;
        match self {
            Self::Process(mut session) => {
                let mux = Mux::new(wire, PROCESS_LIMITS);
                session.begin(&mux);
                let work = Box::pin(session.run(&mux, context));
                let (end, ()) = tokio::join!(drive(&mux, io, early, timeouts), work);
                end
            }
            Self::Forward(mut session) => {
                let mux = Mux::new(wire, FORWARD_LIMITS);
                session.begin(&mux);
                let work = Box::pin(session.run(&mux, context));
                let (end, ()) = tokio::join!(drive(&mux, io, early, timeouts), work);
                end
            }
        }
    }
}
