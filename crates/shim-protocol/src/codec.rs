//! Frames: a length and one CBOR value.

use minicbor::{Decode, Encode};

/// The largest frame either side accepts, bytes. Launch plans are a few kilobytes.
pub const MAX_FRAME: usize = 4 << 20;

/// A frame that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The length is more than [`MAX_FRAME`].
    #[error("a frame of {0} bytes is more than the {MAX_FRAME} allowed")]
    TooLarge(usize),
    /// The bytes are not the expected message.
    #[error("a frame does not hold a known message")]
    Malformed(#[source] minicbor::decode::Error),
}

/// One message as a frame.
pub fn encode<T: Encode<()>>(message: &T) -> Vec<u8> {
    let body = minicbor::to_vec(message)
        .unwrap_or_else(|error| unreachable!("encoding to memory failed: {error}"));
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&body);
    frame
}

/// Cuts a byte stream into messages.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
}

impl FrameReader {
    /// Adds what was read from the socket.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// How many bytes wait for the rest of their message. With the number of bytes pushed it tells
    /// where in the stream a message ended, and so which files came with it.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole message, or `None` until more bytes are pushed.
    ///
    /// # Errors
    /// After an error the stream cannot be used further.
    #[expect(clippy::should_implement_trait, reason = "the kind of message is the caller's choice")]
    pub fn next<T: for<'b> Decode<'b, ()>>(&mut self) -> Result<Option<T>, CodecError> {
        let Some(header) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*header) as usize;
        if length > MAX_FRAME {
            return Err(CodecError::TooLarge(length));
        }
        let Some(body) = self.buffer.get(4..4 + length) else {
            return Ok(None);
        };
        let message = minicbor::decode(body).map_err(CodecError::Malformed)?;
        self.buffer.drain(..4 + length);
        if self.buffer.is_empty() && self.buffer.capacity() > 64 << 10 {
            // One large plan must not stay in the memory of every shim.
            self.buffer = Vec::new();
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Asked, Body, Request};
    use proptest::prelude::*;

    #[test]
    fn messages_come_out_whole_however_the_stream_is_cut() {
        let sent: Vec<Request> = (0..5)
            .map(|id| Request {
                id,
                body: Body::Kill { container: "c".repeat(64), signal: 9, all: id % 2 == 0 },
            })
            .collect();
        let bytes: Vec<u8> = sent.iter().flat_map(encode).collect();
        for step in 1..bytes.len() {
            let mut reader = FrameReader::default();
            let mut got = Vec::new();
            for chunk in bytes.chunks(step) {
                reader.push(chunk);
                while let Some(message) = reader.next::<Request>().unwrap() {
                    got.push(message);
                }
            }
            assert_eq!(got, sent);
        }
    }

    /// `docs/shim-protocol.md` shows these bytes.
    #[test]
    fn the_documented_frame_is_what_is_sent() {
        let body = Body::Kill { container: "c".to_owned(), signal: 9, all: true };
        assert_eq!(
            encode(&Request { id: 7, body }),
            [9, 0, 0, 0, 0x82, 7, 0x82, 3, 0x83, 0x61, b'c', 9, 0xf5]
        );
        assert_eq!(
            encode(&Request { id: 1, body: Body::State }),
            [5, 0, 0, 0, 0x82, 1, 0x82, 7, 0x80]
        );
    }

    /// A request of a later version is told apart from nonsense, so that it can be answered.
    #[test]
    fn an_unknown_request_keeps_its_id() {
        let mut reader = FrameReader::default();
        // Variant 99 with one field, and a field of the request nobody knows yet.
        reader.push(&[9, 0, 0, 0, 0x83, 7, 0x82, 0x18, 99, 0x81, 0x61, b'c', 9]);
        reader.push(&encode(&Request { id: 8, body: Body::State }));
        assert_eq!(reader.next::<Asked>().unwrap(), Some(Asked::Unknown { id: 7 }));
        let known = Asked::Known(Request { id: 8, body: Body::State });
        assert_eq!(reader.next::<Asked>().unwrap(), Some(known));
        reader.push(&[1, 0, 0, 0, 0xff]);
        assert!(matches!(reader.next::<Asked>(), Err(CodecError::Malformed(_))));
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_it_is_read() {
        let mut reader = FrameReader::default();
        reader.push(&u32::MAX.to_le_bytes());
        assert!(matches!(reader.next::<Request>(), Err(CodecError::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut framed = u32::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
            framed.extend(&bytes);
            let mut reader = FrameReader::default();
            reader.push(&framed);
            prop_assert!(matches!(reader.next::<Request>(), Ok(Some(_)) | Err(_)));
        }
    }
}
