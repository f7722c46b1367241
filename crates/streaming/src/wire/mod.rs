//! What goes over a connection, whatever the protocol: streams of bytes beside each other.
//!
//! A [`Wire`] turns bytes into [`Event`]s and calls into bytes, without IO. [`Mux`] keeps the
//! streams' buffers and drives a connection; [`Stream`] is one stream's handle. Sessions know only
//! those, so exec, attach and port-forward are written once for SPDY and for WebSocket.

mod drive;
mod mux;
#[cfg(test)]
mod tests;

use bytes::BytesMut;

pub(crate) use self::drive::{Io, Peer, Timeouts, drive, tcp_peer, with_scratch};
pub(crate) use self::mux::{End, Gone, Limits, Mux, Parting, Received, Stream};
use crate::spdy::{self, headers::Headers};
use crate::websocket::{Channels, Tunnel};

/// A stream of a connection: SPDY's stream id, or WebSocket's channel number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StreamId(pub(crate) u32);

/// Which end of a connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// Why a connection's bytes make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error("a SPDY control frame has version {0}, not 3")]
    Version(u16),
    #[error("a SPDY frame of type {kind} has length {length}")]
    FrameLength { kind: u16, length: usize },
    #[error("a SPDY header block has {0}")]
    Headers(&'static str),
    #[error("a WebSocket frame has {0}")]
    WebSocket(&'static str),
    #[error("a WebSocket message is not base64")]
    Base64,
}

/// What came from the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// The peer opened a stream.
    Opened { id: StreamId, headers: Headers },
    /// The peer accepted ours.
    Replied { id: StreamId },
    /// Bytes of a stream.
    Data { id: StreamId, bytes: &'a [u8] },
    /// The peer's direction of a stream has ended.
    Ended { id: StreamId },
    /// The peer gave a stream up.
    Reset { id: StreamId },
    /// The peer takes no more streams.
    GoingAway,
    /// The peer sends nothing more at all.
    Closed,
}

/// Where events go.
pub(crate) type Sink<'s> = dyn FnMut(Event<'_>) + 's;

/// One end of a connection in one of the protocols.
#[derive(Debug)]
pub(crate) enum Wire {
    Spdy(spdy::Endpoint),
    Tunnel(Tunnel),
    Channels(Channels),
}

impl Wire {
    /// Takes what came from the peer; answers it calls for are appended to `out`.
    pub(crate) fn receive(
        &mut self,
        input: &mut [u8],
        out: &mut BytesMut,
        sink: &mut Sink<'_>,
    ) -> Result<(), WireError> {
        match self {
            Self::Spdy(spdy) => spdy.receive(input, out, sink),
            Self::Tunnel(tunnel) => tunnel.receive(input, out, sink),
            Self::Channels(channels) => channels.receive(input, out, sink),
        }
    }

    fn open(&mut self, headers: &Headers, out: &mut BytesMut) -> Option<StreamId> {
        match self {
            Self::Spdy(spdy) => spdy.open(headers, out),
            Self::Tunnel(tunnel) => tunnel.spdy(out, |spdy, out| spdy.open(headers, out)),
            Self::Channels(_) => None,
        }
    }

    fn reply(&mut self, id: StreamId, out: &mut BytesMut) {
        match self {
            Self::Spdy(spdy) => spdy.reply(id, out),
            Self::Tunnel(tunnel) => tunnel.spdy(out, |spdy, out| spdy.reply(id, out)),
            Self::Channels(_) => {}
        }
    }

    fn data(&mut self, id: StreamId, bytes: &[u8], out: &mut BytesMut) {
        match self {
            Self::Spdy(_) => spdy::Endpoint::data(id, bytes, out),
            Self::Tunnel(tunnel) => {
                tunnel.spdy(out, |_, out| spdy::Endpoint::data(id, bytes, out));
            }
            Self::Channels(channels) => channels.data(id, bytes, out),
        }
    }

    fn finish(&mut self, id: StreamId, out: &mut BytesMut) {
        match self {
            Self::Spdy(_) => spdy::Endpoint::finish(id, out),
            Self::Tunnel(tunnel) => tunnel.spdy(out, |_, out| spdy::Endpoint::finish(id, out)),
            Self::Channels(channels) => channels.finish(id, out),
        }
    }

    /// WebSocket channels cannot be given up.
    fn reset(&mut self, id: StreamId, out: &mut BytesMut) {
        match self {
            Self::Spdy(_) => spdy::Endpoint::reset(id, out),
            Self::Tunnel(tunnel) => tunnel.spdy(out, |_, out| spdy::Endpoint::reset(id, out)),
            Self::Channels(_) => {}
        }
    }

    fn refuse_streams(&mut self) {
        match self {
            Self::Spdy(spdy) => spdy.refuse_streams(),
            Self::Tunnel(tunnel) => tunnel.refuse_streams(),
            Self::Channels(_) => {}
        }
    }

    /// A sign of life while nothing is read, which calls for no answer: a peer that is about to send
    /// one might wait for us to read it.
    fn heartbeat(&mut self, out: &mut BytesMut) {
        match self {
            Self::Spdy(_) => spdy::frame::no_settings(out),
            Self::Tunnel(tunnel) => tunnel.pong(out),
            Self::Channels(channels) => channels.pong(out),
        }
    }

    /// The last that is sent.
    fn goodbye(&mut self, broken: bool, out: &mut BytesMut) {
        match self {
            Self::Spdy(spdy) => spdy.go_away(broken, out),
            Self::Tunnel(tunnel) => tunnel.goodbye(broken, out),
            Self::Channels(channels) => channels.goodbye(broken, out),
        }
    }

    /// Whether the peer closes by itself once every stream has ended: SPDY clients do, and some of
    /// them lose the end of a stream if they are told to go away before that.
    fn peer_closes_first(&self) -> bool {
        match self {
            Self::Spdy(_) | Self::Tunnel(_) => true,
            Self::Channels(_) => false,
        }
    }
}
