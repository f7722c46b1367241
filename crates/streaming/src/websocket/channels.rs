//! Channels: a message's first byte says which stream the rest belongs to.
//!
//! `channel.k8s.io` and its successors. The `base64.` variants carry texts: an ASCII digit and
//! base64. From v5 on a client's message of 255 and a channel's number ends that channel; servers send
//! none: clients know no such channel.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;

use super::frame::{CloseCode, Opcode};
use super::link::{Link, Received};
use crate::wire::{Event, Role, Sink, StreamId, WireError};

/// In v5, in place of a channel's number.
const CLOSE_CHANNEL: u8 = 255;

/// How bytes are put into messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Binary,
    Base64,
}

/// What a message that has begun is about.
#[derive(Debug, Clone, Copy)]
enum About {
    /// Its first byte has not come yet.
    Unknown,
    Channel(StreamId),
    /// The end of the channel whose number comes next.
    End,
    /// Nothing that is known; the rest is skipped.
    Nothing,
}

/// One end of a connection of channels.
#[derive(Debug)]
pub(crate) struct Channels {
    link: Link,
    codec: Codec,
}

#[derive(Debug)]
struct Codec {
    encoding: Encoding,
    can_close: bool,
    about: About,
    base64: Base64,
}

impl Channels {
    /// `can_close`: v5 and later.
    pub(crate) fn new(role: Role, encoding: Encoding, can_close: bool) -> Self {
        let base64 = Base64::default();
        let codec = Codec { encoding, can_close, about: About::Unknown, base64 };
        Self { link: Link::new(role), codec }
    }

    pub(crate) fn receive(
        &mut self,
        input: &mut [u8],
        out: &mut BytesMut,
        sink: &mut Sink<'_>,
    ) -> Result<(), WireError> {
        let codec = &mut self.codec;
        self.link.receive(input, out, &mut |received, _| match received {
            Received::Message { bytes, first, last } => codec.message(bytes, first, last, sink),
            Received::Closed => {
                sink(Event::Closed);
                Ok(())
            }
        })
    }

    pub(crate) fn data(&self, id: StreamId, bytes: &[u8], out: &mut BytesMut) {
        let channel = u8::try_from(id.0).unwrap_or(CLOSE_CHANNEL);
        match self.codec.encoding {
            Encoding::Binary => self.link.write(Opcode::Binary, &[channel], bytes, out),
            Encoding::Base64 => {
                let text = STANDARD.encode(bytes);
                let digit = b'0'.saturating_add(channel);
                self.link.write(Opcode::Text, &[digit], text.as_bytes(), out);
            }
        }
    }

    /// Only clients have a word for it, and only since v5.
    pub(crate) fn finish(&self, id: StreamId, out: &mut BytesMut) {
        if self.codec.can_close && self.link.role() == Role::Client {
            let channel = u8::try_from(id.0).unwrap_or(CLOSE_CHANNEL);
            self.link.write(Opcode::Binary, &[CLOSE_CHANNEL], &[channel], out);
        }
    }

    pub(crate) fn pong(&self, out: &mut BytesMut) {
        self.link.pong(out);
    }

    pub(crate) fn goodbye(&mut self, broken: bool, out: &mut BytesMut) {
        self.link.close(if broken { CloseCode::ProtocolError } else { CloseCode::Normal }, out);
    }
}

impl Codec {
    fn message(
        &mut self,
        mut bytes: &[u8],
        first: bool,
        last: bool,
        sink: &mut Sink<'_>,
    ) -> Result<(), WireError> {
        if first {
            self.about = About::Unknown;
            self.base64 = Base64::default();
        }
        if let (About::Unknown, [number, rest @ ..]) = (self.about, bytes) {
            self.about = self.about(*number);
            bytes = rest;
        }
        match (self.about, self.encoding) {
            (About::Unknown | About::Nothing, _) => Ok(()),
            (About::End, _) => {
                if let [channel, ..] = bytes {
                    sink(Event::Ended { id: StreamId(u32::from(*channel)) });
                    self.about = About::Nothing;
                }
                Ok(())
            }
            (About::Channel(id), Encoding::Binary) => {
                if !bytes.is_empty() {
                    sink(Event::Data { id, bytes });
                }
                Ok(())
            }
            (About::Channel(id), Encoding::Base64) => {
                let plain = self.base64.decode(bytes, last)?;
                if !plain.is_empty() {
                    sink(Event::Data { id, bytes: &plain });
                }
                Ok(())
            }
        }
    }

    fn about(&self, number: u8) -> About {
        match self.encoding {
            Encoding::Binary if self.can_close && number == CLOSE_CHANNEL => About::End,
            Encoding::Binary => About::Channel(StreamId(u32::from(number))),
            Encoding::Base64 => match number.checked_sub(b'0') {
                Some(channel) => About::Channel(StreamId(u32::from(channel))),
                None => About::Nothing,
            },
        }
    }
}

/// Decodes base64 that comes in pieces: four characters are three bytes.
#[derive(Debug, Default)]
struct Base64 {
    group: Vec<u8>,
    /// Padding has come; nothing may follow.
    ended: bool,
}

impl Base64 {
    fn decode(&mut self, text: &[u8], last: bool) -> Result<Vec<u8>, WireError> {
        if self.ended && !text.is_empty() {
            return Err(WireError::Base64);
        }
        self.group.extend_from_slice(text);
        let whole = self.group.len() / 4 * 4;
        if last && whole != self.group.len() {
            return Err(WireError::Base64);
        }
        let (groups, rest) = self.group.split_at(whole);
        self.ended = groups.ends_with(b"=");
        if self.ended && !rest.is_empty() {
            return Err(WireError::Base64);
        }
        let plain = STANDARD.decode(groups).map_err(|_| WireError::Base64)?;
        self.group = rest.to_vec();
        Ok(plain)
    }
}
