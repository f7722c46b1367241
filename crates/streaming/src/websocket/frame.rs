//! WebSocket frames (RFC 6455, section 5), out of any pieces of bytes. No IO.
//!
//! A message's bytes are handed on as they come, so a message may have any length and none is held.

use bytes::BytesMut;

use crate::wire::{Role, WireError};

/// The longest payload of a control frame.
const MAX_CONTROL: usize = 125;
/// The longest head of a frame: two bytes, a length of eight, a mask of four.
const MAX_HEAD: usize = 14;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;

/// A frame's meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    fn of(number: u8) -> Result<Self, WireError> {
        match number {
            0 => Ok(Self::Continuation),
            1 => Ok(Self::Text),
            2 => Ok(Self::Binary),
            8 => Ok(Self::Close),
            9 => Ok(Self::Ping),
            10 => Ok(Self::Pong),
            _ => Err(WireError::WebSocket("a reserved opcode")),
        }
    }

    fn is_control(self) -> bool {
        match self {
            Self::Close | Self::Ping | Self::Pong => true,
            Self::Continuation | Self::Text | Self::Binary => false,
        }
    }
}

/// Why a connection is closed. RFC 6455, 7.4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum CloseCode {
    Normal = 1000,
    ProtocolError = 1002,
}

/// A control frame, or some bytes of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// Bytes of a message, maybe none; `first` and `last` tell its limits.
    Message {
        bytes: &'a [u8],
        first: bool,
        last: bool,
    },
    Ping(&'a [u8]),
    Pong,
    Close,
}

#[derive(Debug)]
enum State {
    Head { have: usize, bytes: [u8; MAX_HEAD] },
    Payload { head: Head, done: usize },
    Control { head: Head, have: usize, bytes: [u8; MAX_CONTROL] },
}

#[derive(Debug, Clone, Copy)]
struct Head {
    opcode: Opcode,
    fin: bool,
    mask: [u8; 4],
    length: usize,
}

const BETWEEN: State = State::Head { have: 0, bytes: [0; MAX_HEAD] };

/// Cuts a byte stream into pieces of messages.
#[derive(Debug)]
pub(crate) struct FrameDecoder {
    state: State,
    role: Role,
    /// A message has begun and not ended.
    within: bool,
    /// No byte of the message was handed on yet.
    first: bool,
}

impl FrameDecoder {
    pub(crate) fn new(role: Role) -> Self {
        Self { state: BETWEEN, role, within: false, first: false }
    }

    /// Takes some of `input` from its front, unmasks it there, and gives the next piece, or `None`
    /// once all is taken. A control frame's payload is put together in `held`.
    pub(crate) fn next<'f, 'i: 'f>(
        &mut self,
        input: &mut &'i mut [u8],
        held: &'f mut [u8; MAX_CONTROL],
    ) -> Result<Option<Piece<'f>>, WireError> {
        loop {
            match &mut self.state {
                State::Head { have, bytes } => {
                    let Some(head) = read_head(input, have, bytes, self.role)? else {
                        return Ok(None);
                    };
                    self.state = self.begin(head)?;
                }
                State::Control { head, have, bytes } => {
                    let taken = take(input, head.length - *have);
                    bytes[*have..*have + taken.len()].copy_from_slice(taken);
                    *have += taken.len();
                    if *have < head.length {
                        return Ok(None);
                    }
                    let head = *head;
                    *held = *bytes;
                    self.state = BETWEEN;
                    let payload = &mut held[..head.length];
                    unmask(payload, head.mask, 0);
                    return Ok(Some(match head.opcode {
                        Opcode::Ping => Piece::Ping(payload),
                        Opcode::Close => Piece::Close,
                        Opcode::Pong | Opcode::Continuation | Opcode::Text | Opcode::Binary => {
                            Piece::Pong
                        }
                    }));
                }
                State::Payload { head, done } => {
                    if input.is_empty() && *done < head.length {
                        return Ok(None);
                    }
                    let bytes = take(input, head.length - *done);
                    unmask(bytes, head.mask, *done);
                    *done += bytes.len();
                    let ended = *done == head.length;
                    let last = ended && head.fin;
                    if ended {
                        self.state = BETWEEN;
                    }
                    self.within = !last;
                    let first = std::mem::take(&mut self.first);
                    return Ok(Some(Piece::Message { bytes, first, last }));
                }
            }
        }
    }

    fn begin(&mut self, head: Head) -> Result<State, WireError> {
        if head.opcode.is_control() {
            if !head.fin || head.length > MAX_CONTROL {
                return Err(WireError::WebSocket("a control frame in pieces or too long"));
            }
            return Ok(State::Control { head, have: 0, bytes: [0; MAX_CONTROL] });
        }
        let continues = head.opcode == Opcode::Continuation;
        if continues != self.within {
            return Err(WireError::WebSocket("a continuation out of place, or none in its place"));
        }
        self.first |= !continues;
        Ok(State::Payload { head, done: 0 })
    }
}

fn take<'i>(input: &mut &'i mut [u8], at_most: usize) -> &'i mut [u8] {
    let all = std::mem::take(input);
    let at = at_most.min(all.len());
    let (taken, rest) = all.split_at_mut(at);
    *input = rest;
    taken
}

/// `None` if the head is not whole yet.
fn read_head(
    input: &mut &mut [u8],
    have: &mut usize,
    bytes: &mut [u8; MAX_HEAD],
    role: Role,
) -> Result<Option<Head>, WireError> {
    loop {
        let (more_length, mask) = match (*have, bytes[1] & !MASKED) {
            (0 | 1, _) => (0, 0),
            (_, 126) => (2, usize::from(bytes[1] >> 7) * 4),
            (_, 127) => (8, usize::from(bytes[1] >> 7) * 4),
            (_, _) => (0, usize::from(bytes[1] >> 7) * 4),
        };
        let want = 2 + more_length + mask;
        if *have >= 2 && *have == want {
            return parse_head(&bytes[..want], role).map(Some);
        }
        let taken = take(input, want - *have);
        if taken.is_empty() {
            return Ok(None);
        }
        bytes[*have..*have + taken.len()].copy_from_slice(taken);
        *have += taken.len();
    }
}

fn parse_head(bytes: &[u8], role: Role) -> Result<Head, WireError> {
    let [start, second, rest @ ..] = bytes else {
        return Err(WireError::WebSocket("no head"));
    };
    if start & RESERVED != 0 {
        return Err(WireError::WebSocket("reserved bits set"));
    }
    let masked = second & MASKED != 0;
    // RFC 6455, 5.1: clients mask, servers do not.
    if masked != (role == Role::Server) {
        return Err(WireError::WebSocket("the mask of the other side"));
    }
    let opcode = Opcode::of(start & OPCODE)?;
    let (length, mask) = match second & !MASKED {
        short @ 0..=125 => (u64::from(short), rest),
        126 => {
            let (length, mask) = rest.split_first_chunk::<2>().unwrap_or((&[0; 2], &[]));
            (u64::from(u16::from_be_bytes(*length)), mask)
        }
        127.. => {
            let (length, mask) = rest.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
            (u64::from_be_bytes(*length), mask)
        }
    };
    if length > u64::MAX >> 1 {
        return Err(WireError::WebSocket("a length of more than 63 bits"));
    }
    Ok(Head {
        opcode,
        fin: start & FIN != 0,
        mask: mask.first_chunk::<4>().copied().unwrap_or_default(),
        length: usize::try_from(length).map_err(|_| WireError::WebSocket("too long a length"))?,
    })
}

/// Masks or unmasks: `at` is the place of `bytes` within the frame's payload.
fn unmask(bytes: &mut [u8], mask: [u8; 4], at: usize) {
    if mask == [0; 4] {
        return;
    }
    let mut turned = mask;
    turned.rotate_left(at % 4);
    let [a, b, c, d] = turned;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(turned.into_iter().cycle()) {
        *byte ^= key;
    }
}

/// Appends a frame that is a whole message of `prefix` and `bytes`. Clients give a fresh mask.
pub(crate) fn write(
    opcode: Opcode,
    mask: Option<[u8; 4]>,
    prefix: &[u8],
    bytes: &[u8],
    out: &mut BytesMut,
) {
    let length = prefix.len() + bytes.len();
    let masked = if mask.is_some() { MASKED } else { 0 };
    out.extend_from_slice(&[FIN | opcode as u8]);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..=125), _) => out.extend_from_slice(&[masked | short]),
        (_, Ok(medium)) => {
            out.extend_from_slice(&[masked | 126]);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        (_, Err(_)) => {
            out.extend_from_slice(&[masked | 127]);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask.unwrap_or_default()[..if mask.is_some() { 4 } else { 0 }]);
    let start = out.len();
    out.extend_from_slice(prefix);
    out.extend_from_slice(bytes);
    if let Some(mask) = mask {
        unmask(&mut out[start..], mask, 0);
    }
}
