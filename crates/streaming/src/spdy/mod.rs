//! SPDY/3.1 as clients of Kubernetes speak it. No IO: bytes in, events and bytes out.
//!
//! There is no flow control: the peers send no WINDOW_UPDATE and heed none. Whoever drives an
//! endpoint holds a peer back by not reading from its connection.

mod dictionary;
pub(crate) mod frame;
pub(crate) mod headers;
#[cfg(test)]
mod tests;

use bytes::BytesMut;

use self::frame::{Frame, FrameDecoder, GoAwayStatus, MAX_DATA_LENGTH, ResetStatus};
use self::headers::{Deflater, Headers, Inflater};
use crate::wire::{Event, Role, Sink, StreamId, WireError};

/// Ids have 31 bits.
const LAST_ID: u32 = u32::MAX >> 1;

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Endpoint {
    frames: FrameDecoder,
    /// `None` once no more streams are taken: it is the largest part of an idle session.
    inflater: Option<Inflater>,
    deflater: Deflater,
    /// Odd for clients, even for servers.
    next_id: u32,
    /// The least id the peer may open next.
    peer_next_id: u32,
}

impl Endpoint {
    pub(crate) fn new(role: Role) -> Self {
        let (next_id, peer_next_id) = match role {
            Role::Client => (1, 2),
            Role::Server => (2, 1),
        };
        Self {
            frames: FrameDecoder::new(),
            inflater: Some(Inflater::new()),
            deflater: Deflater::default(),
            next_id,
            peer_next_id,
        }
    }

    /// Takes what came from the peer. Answers it calls for are appended to `out`.
    ///
    /// # Errors
    /// [`WireError`] ends the connection: what follows cannot be read.
    pub(crate) fn receive(
        &mut self,
        mut input: &[u8],
        out: &mut BytesMut,
        sink: &mut Sink<'_>,
    ) -> Result<(), WireError> {
        let mut held = Vec::new();
        while let Some(frame) = self.frames.next(&mut input, &mut held)? {
            self.frame(&frame, out, sink)?;
        }
        Ok(())
    }

    fn frame(
        &mut self,
        frame: &Frame<'_>,
        out: &mut BytesMut,
        sink: &mut Sink<'_>,
    ) -> Result<(), WireError> {
        match *frame {
            Frame::Data { id, bytes, fin } => {
                if !bytes.is_empty() {
                    sink(Event::Data { id, bytes });
                }
                ended(id, fin, sink);
            }
            Frame::SynStream { id, fin, block } => self.opened(id, fin, block, out, sink)?,
            Frame::SynReply { id, fin, block } => {
                self.inflate(block)?;
                sink(Event::Replied { id });
                ended(id, fin, sink);
            }
            // Nobody uses later headers, but they belong to the compressed stream.
            Frame::Headers { id, fin, block } => {
                self.inflate(block)?;
                ended(id, fin, sink);
            }
            Frame::RstStream { id } => sink(Event::Reset { id }),
            // The others are echoes of ours.
            Frame::Ping { id } if id % 2 == self.peer_next_id % 2 => frame::ping(id, out),
            Frame::Ping { .. } => {}
            Frame::GoAway => sink(Event::GoingAway),
        }
        Ok(())
    }

    fn opened(
        &mut self,
        id: StreamId,
        fin: bool,
        block: &[u8],
        out: &mut BytesMut,
        sink: &mut Sink<'_>,
    ) -> Result<(), WireError> {
        let Some(headers) = self.inflate(block)? else {
            frame::rst_stream(id, ResetStatus::Cancel, out);
            return Ok(());
        };
        let in_order = id.0 >= self.peer_next_id && id.0 % 2 == self.peer_next_id % 2;
        if !in_order {
            frame::rst_stream(id, ResetStatus::ProtocolError, out);
            return Ok(());
        }
        self.peer_next_id = id.0.saturating_add(2);
        sink(Event::Opened { id, headers });
        ended(id, fin, sink);
        Ok(())
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Option<Headers>, WireError> {
        let Some(inflater) = &mut self.inflater else { return Ok(None) };
        Headers::parse(&inflater.inflate(block)?).map(Some)
    }

    /// From now on every stream that the peer opens is refused. Frees what reading headers needs.
    pub(crate) fn refuse_streams(&mut self) {
        self.inflater = None;
    }

    /// Opens a stream; `None` if all ids are used.
    pub(crate) fn open(&mut self, headers: &Headers, out: &mut BytesMut) -> Option<StreamId> {
        let id = StreamId(self.next_id);
        if id.0 > LAST_ID {
            return None;
        }
        self.next_id += 2;
        let mut block = BytesMut::new();
        self.deflater.deflate(&headers.block(), &mut block);
        frame::syn_stream(id, false, &block, out);
        Some(id)
    }

    /// Accepts a stream. The peer drops what it has for a stream that was not accepted.
    pub(crate) fn reply(&mut self, id: StreamId, out: &mut BytesMut) {
        let mut block = BytesMut::new();
        self.deflater.deflate(&Headers::default().block(), &mut block);
        frame::syn_reply(id, &block, out);
    }

    /// Sends bytes.
    pub(crate) fn data(id: StreamId, bytes: &[u8], out: &mut BytesMut) {
        for piece in bytes.chunks(MAX_DATA_LENGTH) {
            frame::data(id, false, piece, out);
        }
    }

    /// Ends our direction of a stream.
    pub(crate) fn finish(id: StreamId, out: &mut BytesMut) {
        frame::data(id, true, &[], out);
    }

    /// Gives a stream up.
    pub(crate) fn reset(id: StreamId, out: &mut BytesMut) {
        frame::rst_stream(id, ResetStatus::Cancel, out);
    }

    /// Says that no more streams are taken, before the connection is closed.
    pub(crate) fn go_away(&self, broken: bool, out: &mut BytesMut) {
        let status = if broken { GoAwayStatus::ProtocolError } else { GoAwayStatus::Ok };
        frame::go_away(StreamId(self.peer_next_id.saturating_sub(2)), status, out);
    }
}

fn ended(id: StreamId, fin: bool, sink: &mut Sink<'_>) {
    if fin {
        sink(Event::Ended { id });
    }
}
