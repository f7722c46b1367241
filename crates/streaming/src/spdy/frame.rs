//! SPDY/3.1 frames, out of any pieces of bytes. No IO, no compression.
//!
//! Control frame: u16 `0x8003`, u16 type, u8 flags, u24 length. Data frame: u32 stream id with the
//! top bit 0, u8 flags, u24 length. Big endian. Data is handed on as it comes and never held, so a
//! data frame may have any length; of control frames only those with a meaning here are held.

use bytes::BytesMut;

use super::headers::MAX_BLOCK;
use crate::wire::{StreamId, WireError};

/// On a frame that is its sender's last of this stream.
pub(crate) const FLAG_FIN: u8 = 0x01;
/// The longest control frame that is held. Header blocks are what can be long; compressing makes the
/// longest of them longer by less than a half.
pub(crate) const MAX_CONTROL_LENGTH: usize = MAX_BLOCK + MAX_BLOCK / 2;
/// The longest payload of a data frame: its length has 24 bits.
pub(crate) const MAX_DATA_LENGTH: usize = (1 << 24) - 1;

const VERSION: u16 = 3;
const CONTROL: u8 = 0x80;
const HEAD: usize = 8;
const SETTINGS: u16 = 4;

/// Why a stream was reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum ResetStatus {
    /// The frame that names the stream makes no sense.
    ProtocolError = 1,
    /// The sender does not want it (any more).
    Cancel = 5,
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum GoAwayStatus {
    /// As planned.
    Ok = 0,
    /// The peer broke the rules.
    ProtocolError = 1,
}

/// A frame, or a piece of a data frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// The peer opens a stream.
    SynStream { id: StreamId, fin: bool, block: &'a [u8] },
    /// The peer accepts our stream.
    SynReply { id: StreamId, fin: bool, block: &'a [u8] },
    /// The peer gives a stream up.
    RstStream { id: StreamId },
    /// To be echoed, or an echo.
    Ping { id: u32 },
    /// The peer takes no more streams.
    GoAway,
    /// More headers of a stream.
    Headers { id: StreamId, fin: bool, block: &'a [u8] },
    /// Some bytes of a stream; `fin` comes with the last piece of a frame.
    Data { id: StreamId, bytes: &'a [u8], fin: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    SynStream,
    SynReply,
    RstStream,
    Ping,
    GoAway,
    Headers,
}

impl Kind {
    /// `None`: SETTINGS and WINDOW_UPDATE, which nobody of the field heeds, and what is unknown.
    fn of(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::SynStream),
            2 => Some(Self::SynReply),
            3 => Some(Self::RstStream),
            6 => Some(Self::Ping),
            7 => Some(Self::GoAway),
            8 => Some(Self::Headers),
            _ => None,
        }
    }

    fn number(self) -> u16 {
        match self {
            Self::SynStream => 1,
            Self::SynReply => 2,
            Self::RstStream => 3,
            Self::Ping => 6,
            Self::GoAway => 7,
            Self::Headers => 8,
        }
    }

    /// Bytes before the header block, or the whole length.
    fn fixed(self) -> usize {
        match self {
            Self::SynStream => 10,
            Self::SynReply | Self::Headers | Self::Ping => 4,
            Self::RstStream | Self::GoAway => 8,
        }
    }

    fn has_block(self) -> bool {
        match self {
            Self::SynStream | Self::SynReply | Self::Headers => true,
            Self::RstStream | Self::Ping | Self::GoAway => false,
        }
    }
}

#[derive(Debug)]
enum State {
    /// Between frames, or within the first 8 bytes of one.
    Head { have: usize, bytes: [u8; HEAD] },
    /// Within a control frame that is held.
    Control { kind: Kind, flags: u8, length: usize, body: Vec<u8> },
    /// Within a data frame.
    Data { id: StreamId, fin: bool, left: usize },
    /// Within a control frame without meaning.
    Skip { left: usize },
}

const BETWEEN: State = State::Head { have: 0, bytes: [0; HEAD] };

/// Cuts a byte stream into frames.
#[derive(Debug)]
pub(crate) struct FrameDecoder(State);

impl FrameDecoder {
    pub(crate) fn new() -> Self {
        Self(BETWEEN)
    }

    /// Takes some of `input` from its front and gives the next frame, or `None` once all is taken.
    /// A control frame that came in pieces is put together in `held`.
    pub(crate) fn next<'f, 'i: 'f>(
        &mut self,
        input: &mut &'i [u8],
        held: &'f mut Vec<u8>,
    ) -> Result<Option<Frame<'f>>, WireError> {
        loop {
            match &mut self.0 {
                State::Head { have, bytes } => {
                    let taken = take(input, HEAD - *have);
                    bytes[*have..*have + taken.len()].copy_from_slice(taken);
                    *have += taken.len();
                    if *have < HEAD {
                        return Ok(None);
                    }
                    self.0 = begin(*bytes)?;
                }
                State::Skip { left } => {
                    *left -= take(input, *left).len();
                    if *left > 0 {
                        return Ok(None);
                    }
                    self.0 = BETWEEN;
                }
                State::Data { id, fin, left } => {
                    let bytes = take(input, *left);
                    *left -= bytes.len();
                    let (id, fin, ended) = (*id, *fin, *left == 0);
                    if ended {
                        self.0 = BETWEEN;
                    }
                    if bytes.is_empty() && !(ended && fin) {
                        if ended {
                            continue;
                        }
                        return Ok(None);
                    }
                    return Ok(Some(Frame::Data { id, bytes, fin: ended && fin }));
                }
                State::Control { kind, flags, length, body } => {
                    body.extend_from_slice(take(input, *length - body.len()));
                    if body.len() < *length {
                        return Ok(None);
                    }
                    let (kind, flags) = (*kind, *flags);
                    *held = std::mem::take(body);
                    self.0 = BETWEEN;
                    return Ok(Some(control(kind, flags, held)));
                }
            }
        }
    }
}

fn take<'a>(input: &mut &'a [u8], at_most: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(at_most.min(input.len()));
    *input = rest;
    taken
}

fn begin(head: [u8; HEAD]) -> Result<State, WireError> {
    let [a, b, c, d, flags, x, y, z] = head;
    let length = u32::from_be_bytes([0, x, y, z]) as usize;
    if a & CONTROL == 0 {
        let id = StreamId(u32::from_be_bytes([a, b, c, d]));
        return Ok(State::Data { id, fin: flags & FLAG_FIN != 0, left: length });
    }
    let version = u16::from_be_bytes([a & !CONTROL, b]);
    if version != VERSION {
        return Err(WireError::Version(version));
    }
    let Some(kind) = Kind::of(u16::from_be_bytes([c, d])) else {
        return Ok(State::Skip { left: length });
    };
    let fits = if kind.has_block() { length >= kind.fixed() } else { length == kind.fixed() };
    if !fits || length > MAX_CONTROL_LENGTH {
        return Err(WireError::FrameLength { kind: kind.number(), length });
    }
    Ok(State::Control { kind, flags, length, body: Vec::new() })
}

/// The length was checked when the frame began.
fn control(kind: Kind, flags: u8, body: &[u8]) -> Frame<'_> {
    let (first, _) = body.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
    let number = u32::from_be_bytes(*first);
    // The top bit is reserved.
    let id = StreamId(number & (u32::MAX >> 1));
    let fin = flags & FLAG_FIN != 0;
    let block = body.get(kind.fixed()..).unwrap_or_default();
    match kind {
        Kind::SynStream => Frame::SynStream { id, fin, block },
        Kind::SynReply => Frame::SynReply { id, fin, block },
        Kind::Headers => Frame::Headers { id, fin, block },
        Kind::RstStream => Frame::RstStream { id },
        Kind::Ping => Frame::Ping { id: number },
        Kind::GoAway => Frame::GoAway,
    }
}

fn head(kind: Kind, flags: u8, length: usize, out: &mut BytesMut) {
    out.extend_from_slice(&[CONTROL, 3]);
    out.extend_from_slice(&kind.number().to_be_bytes());
    tail(flags, length, out);
}

/// Flags and length. Whoever writes a frame keeps its length below 2²⁴.
fn tail(flags: u8, length: usize, out: &mut BytesMut) {
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&[flags, length[1], length[2], length[3]]);
}

fn fin_flag(fin: bool) -> u8 {
    if fin { FLAG_FIN } else { 0 }
}

/// Opens a stream, of the highest priority and without an associated one.
pub(crate) fn syn_stream(id: StreamId, fin: bool, block: &[u8], out: &mut BytesMut) {
    head(Kind::SynStream, fin_flag(fin), 10 + block.len(), out);
    out.extend_from_slice(&id.0.to_be_bytes());
    out.extend_from_slice(&[0; 6]);
    out.extend_from_slice(block);
}

/// Accepts a stream.
pub(crate) fn syn_reply(id: StreamId, block: &[u8], out: &mut BytesMut) {
    head(Kind::SynReply, 0, 4 + block.len(), out);
    out.extend_from_slice(&id.0.to_be_bytes());
    out.extend_from_slice(block);
}

/// Gives a stream up, or refuses it.
pub(crate) fn rst_stream(id: StreamId, status: ResetStatus, out: &mut BytesMut) {
    head(Kind::RstStream, 0, 8, out);
    out.extend_from_slice(&id.0.to_be_bytes());
    out.extend_from_slice(&(status as u32).to_be_bytes());
}

/// Asks for an echo, or is one.
pub(crate) fn ping(id: u32, out: &mut BytesMut) {
    head(Kind::Ping, 0, 4, out);
    out.extend_from_slice(&id.to_be_bytes());
}

/// Says nothing: SETTINGS without any.
pub(crate) fn no_settings(out: &mut BytesMut) {
    out.extend_from_slice(&[CONTROL, 3]);
    out.extend_from_slice(&SETTINGS.to_be_bytes());
    tail(0, 4, out);
    out.extend_from_slice(&[0; 4]);
}

/// Takes no more streams after `last`.
pub(crate) fn go_away(last: StreamId, status: GoAwayStatus, out: &mut BytesMut) {
    head(Kind::GoAway, 0, 8, out);
    out.extend_from_slice(&last.0.to_be_bytes());
    out.extend_from_slice(&(status as u32).to_be_bytes());
}

/// Bytes of a stream, at most [`MAX_DATA_LENGTH`] of them.
pub(crate) fn data(id: StreamId, fin: bool, bytes: &[u8], out: &mut BytesMut) {
    out.extend_from_slice(&id.0.to_be_bytes());
    tail(fin_flag(fin), bytes.len(), out);
    out.extend_from_slice(bytes);
}
