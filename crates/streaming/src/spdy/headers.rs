//! SPDY header blocks: pairs of texts, compressed in one zlib stream per direction that lives as long
//! as the connection.

use std::fmt;

use bytes::BytesMut;
use flate2::{Decompress, FlushDecompress, Status};

use super::dictionary::{DICTIONARY, DICTIONARY_ADLER32};
use crate::wire::WireError;

/// More headers than this are an attack.
pub(crate) const MAX_HEADERS: usize = 1000;
/// What a block may inflate to: no name and no value is longer. As much as an HTTP request may have:
/// a connection may open thousands of streams, and each of them brings a block.
pub(crate) const MAX_BLOCK: usize = 16 * 1024;

/// Headers of one stream: names in lower case, each once.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(Vec<(String, Vec<u8>)>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.0.iter().map(|(name, value)| (name, String::from_utf8_lossy(value)));
        f.debug_map().entries(pairs).finish()
    }
}

impl Headers {
    /// Names are given in lower case.
    pub(crate) fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.as_bytes().to_vec());
        Self(pairs.into_iter().map(owned).collect())
    }

    /// The first of a header's values (several are joined with NUL).
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        let first = value.split(|byte| *byte == 0).next()?;
        std::str::from_utf8(first).ok()
    }

    /// The block before compression.
    pub(crate) fn block(&self) -> Vec<u8> {
        let mut block = Vec::new();
        let number = |n: usize, block: &mut Vec<u8>| match u32::try_from(n) {
            Ok(n) => block.extend_from_slice(&n.to_be_bytes()),
            Err(_) => block.extend_from_slice(&[0xff; 4]),
        };
        number(self.0.len(), &mut block);
        for (name, value) in &self.0 {
            number(name.len(), &mut block);
            block.extend_from_slice(name.as_bytes());
            number(value.len(), &mut block);
            block.extend_from_slice(value);
        }
        block
    }

    /// Reads an inflated block.
    pub(crate) fn parse(mut block: &[u8]) -> Result<Self, WireError> {
        let count = number(&mut block)?;
        if count > MAX_HEADERS {
            return Err(WireError::Headers("more than 1000 headers"));
        }
        // Not by `count`: nothing is allocated that the peer has not sent.
        let mut pairs: Vec<(String, Vec<u8>)> = Vec::new();
        for _ in 0..count {
            let name = field(&mut block)?;
            let sane = |byte: &u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase();
            if name.is_empty() || !name.iter().all(sane) {
                return Err(WireError::Headers("a name that is empty or not in lower case"));
            }
            let name = String::from_utf8_lossy(name).into_owned();
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(WireError::Headers("the same name twice"));
            }
            pairs.push((name, field(&mut block)?.to_vec()));
        }
        if !block.is_empty() {
            return Err(WireError::Headers("bytes after the last header"));
        }
        Ok(Self(pairs))
    }
}

fn number(block: &mut &[u8]) -> Result<usize, WireError> {
    let (bytes, rest) = block.split_first_chunk::<4>().ok_or(TRUNCATED)?;
    *block = rest;
    usize::try_from(u32::from_be_bytes(*bytes)).map_err(|_| TRUNCATED)
}

fn field<'a>(block: &mut &'a [u8]) -> Result<&'a [u8], WireError> {
    let length = number(block)?;
    let (field, rest) = block.split_at_checked(length).ok_or(TRUNCATED)?;
    *block = rest;
    Ok(field)
}

const TRUNCATED: WireError = WireError::Headers("an end within a header");

/// The peer's direction.
pub(crate) struct Inflater(Decompress);

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").field("in", &self.0.total_in()).finish_non_exhaustive()
    }
}

impl Inflater {
    pub(crate) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// Inflates one block, to no more than [`MAX_BLOCK`].
    pub(crate) fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, WireError> {
        let mut plain = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let (read, written) = (self.0.total_in(), self.0.total_out());
            let step = self.0.decompress(block, &mut piece, FlushDecompress::Sync);
            let taken = usize::try_from(self.0.total_in() - read).unwrap_or(usize::MAX);
            let made = usize::try_from(self.0.total_out() - written).unwrap_or(usize::MAX);
            block = block.get(taken..).unwrap_or_default();
            plain.extend_from_slice(piece.get(..made).unwrap_or_default());
            if plain.len() > MAX_BLOCK {
                return Err(WireError::Headers("more than 16 KiB in one block"));
            }
            match step {
                Ok(Status::StreamEnd) => {
                    return Err(WireError::Headers("an end of the compressed stream"));
                }
                // All is taken and nothing is left to hand out.
                Ok(Status::Ok | Status::BufError) if block.is_empty() && made < piece.len() => {
                    return Ok(plain);
                }
                Ok(Status::Ok | Status::BufError) if taken == 0 && made == 0 => {
                    return Err(WireError::Headers("bytes that do not inflate"));
                }
                Ok(Status::Ok | Status::BufError) => {}
                Err(error) if error.needs_dictionary() == Some(DICTIONARY_ADLER32) => {
                    let set = self.0.set_dictionary(DICTIONARY);
                    set.map_err(|_| WireError::Headers("bytes that do not inflate"))?;
                }
                Err(_) => return Err(WireError::Headers("bytes that do not inflate")),
            }
        }
    }
}

/// Our direction. It writes valid zlib without compressing: what we send is empty replies and a few
/// words, and a compressor would hold a quarter of a megabyte per connection for them.
#[derive(Debug, Default)]
pub(crate) struct Deflater {
    begun: bool,
}

/// Deflate with a 32 KiB window and a preset dictionary; `(0x78 << 8 | 0x20) % 31 == 0`.
const ZLIB_HEADER: [u8; 2] = [0x78, 0x20];
/// A stored block that is not the last one.
const STORED: u8 = 0;
/// What a sync flush ends with: some inflaters hold back the data until they see it.
const FLUSH: [u8; 5] = [STORED, 0, 0, 0xff, 0xff];

impl Deflater {
    /// Appends the compressed form of `block`.
    pub(crate) fn deflate(&mut self, block: &[u8], out: &mut BytesMut) {
        if !self.begun {
            self.begun = true;
            out.extend_from_slice(&ZLIB_HEADER);
            out.extend_from_slice(&DICTIONARY_ADLER32.to_be_bytes());
        }
        for piece in block.chunks(usize::from(u16::MAX)) {
            let length = u16::try_from(piece.len()).unwrap_or(u16::MAX);
            out.extend_from_slice(&[STORED]);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&(!length).to_le_bytes());
            out.extend_from_slice(piece);
        }
        out.extend_from_slice(&FLUSH);
    }
}
