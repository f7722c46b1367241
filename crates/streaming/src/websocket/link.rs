//! One end of a WebSocket connection after its handshake: messages, pings, the closing.

use bytes::BytesMut;

use super::frame::{self, CloseCode, FrameDecoder, Opcode, Piece};
use crate::random;
use crate::wire::{Role, WireError};

/// Messages in, messages out.
#[derive(Debug)]
pub(crate) struct Link {
    frames: FrameDecoder,
    role: Role,
    /// We have sent a closing frame, after which nothing may follow.
    closing: bool,
    /// The peer has.
    closed: bool,
}

/// Some bytes of a message, or the peer's closing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received<'a> {
    Message { bytes: &'a [u8], first: bool, last: bool },
    Closed,
}

impl Link {
    pub(crate) fn new(role: Role) -> Self {
        Self { frames: FrameDecoder::new(role), role, closing: false, closed: false }
    }

    /// Which end this is.
    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// Takes what came from the peer; pings are answered in `out`.
    pub(crate) fn receive(
        &mut self,
        mut input: &mut [u8],
        out: &mut BytesMut,
        sink: &mut dyn FnMut(Received<'_>, &mut BytesMut) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        let mut held = [0; _];
        // What follows the closing frame is nobody's.
        while !self.closed {
            match self.frames.next(&mut input, &mut held)? {
                None => break,
                Some(Piece::Message { bytes, first, last }) => {
                    sink(Received::Message { bytes, first, last }, out)?;
                }
                Some(Piece::Ping(payload)) => {
                    let payload = payload.to_vec();
                    self.write(Opcode::Pong, &[], &payload, out);
                }
                Some(Piece::Pong) => {}
                Some(Piece::Close) => {
                    self.closed = true;
                    self.close(CloseCode::Normal, out);
                    sink(Received::Closed, out)?;
                }
            }
        }
        Ok(())
    }

    /// Sends one message.
    pub(crate) fn write(&self, opcode: Opcode, prefix: &[u8], bytes: &[u8], out: &mut BytesMut) {
        if self.closing {
            return;
        }
        let mask = match self.role {
            Role::Client => Some(random::bytes()),
            Role::Server => None,
        };
        frame::write(opcode, mask, prefix, bytes, out);
    }

    /// A sign of life that nobody asked for. RFC 6455, 5.5.3.
    pub(crate) fn pong(&self, out: &mut BytesMut) {
        self.write(Opcode::Pong, &[], &[], out);
    }

    /// Says that nothing follows.
    pub(crate) fn close(&mut self, code: CloseCode, out: &mut BytesMut) {
        self.write(Opcode::Close, &[], &(code as u16).to_be_bytes(), out);
        self.closing = true;
    }
}
