//! The compressed side: counting and hashing the blob, choosing and running the decompressor.

use std::fmt;
use std::io::{self, BufRead, Chain, Cursor, Read};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use model::Digest;

use crate::entry::check;
use crate::{LimitKind, UnpackError};

/// How a layer blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Told by the first bytes, whatever the media type says.
    #[default]
    Auto,
    /// A bare tar.
    None,
    /// Gzip, any number of members.
    Gzip,
    /// Zstandard, any number of frames, skippable ones included.
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto-detected",
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

impl Compression {
    /// Told by the first bytes of a blob.
    pub fn of(magic: &[u8]) -> Self {
        match magic {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or a skippable frame (RFC 8878, 3.1.2).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// The longest header of a zstd frame (RFC 8878, 3.1.1).
const MAGIC_BYTES: u64 = 18;

/// A running SHA-256.
pub struct Sha256(Context);

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha256")
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

impl Sha256 {
    pub(crate) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all of them.
    pub fn finish(self) -> Digest {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.finish().as_ref());
        Digest::from_sha256(bytes)
    }
}

/// Hashes and counts what is read through it: every piece once, when it comes to hand. Bytes are
/// never copied on their way to the decompressor.
struct Metered<R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
    /// Bytes that are at hand, and in the hash, but not used yet.
    ahead: usize,
    /// Tells a failing source from a failing decompressor.
    failed: bool,
}

impl<R: BufRead> BufRead for Metered<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.ahead == 0 {
            match self.inner.fill_buf() {
                // Not asked a second time: a source may have something else to say then.
                Ok([]) => return Ok(&[]),
                Ok(piece) => {
                    self.hash.update(piece);
                    self.ahead = piece.len();
                    self.bytes += piece.len() as u64;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed = true;
                    return Err(error);
                }
            }
        }
        // The same piece again.
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        let count = count.min(self.ahead);
        self.ahead -= count;
        self.inner.consume(count);
    }
}

impl<R: BufRead> Read for Metered<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(into)?;
        self.consume(read);
        Ok(read)
    }
}

/// The source with its first bytes, which told the compression, put back in front.
type Source<R> = Chain<Cursor<Vec<u8>>, Metered<R>>;

/// Windows up to this size are common and may be many at once: all levels of zstd up to 19.
const SMALL_WINDOW: u64 = 8 << 20;

/// Decompressors with large windows take turns by it.
#[derive(Debug, Default)]
pub struct LargeWindows(Mutex<()>);

/// How much memory a zstd frame asks for (RFC 8878, 3.1.1.1); `None` if the stream does not begin
/// with such a frame.
fn window_bytes(start: &[u8]) -> Option<u64> {
    let [0x28, 0xb5, 0x2f, 0xfd, descriptor, rest @ ..] = start else { return None };
    if descriptor & 0x20 == 0 {
        let window = u64::from(*rest.first()?);
        let base = 1_u64 << (10 + (window >> 3));
        return Some(base + base / 8 * (window & 7));
    }
    // A single segment: as much as the content.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let length = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let field = rest.get(dictionary..dictionary + length)?;
    let mut size = [0; 8];
    size[..length].copy_from_slice(field);
    let size = u64::from_le_bytes(size);
    Some(if length == 2 { size + 256 } else { size })
}

enum Decoder<R: BufRead> {
    Plain(R),
    Gzip(Box<flate2::bufread::MultiGzDecoder<R>>),
    Zstd(zstd::Decoder<'static, R>),
}

/// The blob while it is being read: yields the tar.
pub(crate) struct Blob<'w, R: BufRead> {
    decoder: Decoder<Source<R>>,
    compression: Compression,
    /// Held while the decompressor needs a lot of memory.
    _turn: Option<MutexGuard<'w, ()>>,
}

impl<'w, R: BufRead> Blob<'w, R> {
    pub(crate) fn open(
        source: R,
        compression: Compression,
        max_window: u64,
        large: &'w LargeWindows,
    ) -> Result<Self, UnpackError> {
        let hash = Sha256::new();
        let mut metered = Metered { inner: source, hash, bytes: 0, ahead: 0, failed: false };
        let mut magic = Vec::new();
        let taken = metered.by_ref().take(MAGIC_BYTES).read_to_end(&mut magic);
        taken.map_err(|source| UnpackError::Read { at: magic.len() as u64, source })?;
        let of_magic = Compression::of(&magic);
        let window = window_bytes(&magic);
        let reader = Cursor::new(magic).chain(metered);
        let compression = match compression {
            Compression::Auto => of_magic,
            Compression::None | Compression::Gzip | Compression::Zstd => compression,
        };
        let mut turn = None;
        let decoder = match compression {
            Compression::Auto | Compression::None => Decoder::Plain(reader),
            Compression::Gzip => {
                Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(reader)))
            }
            Compression::Zstd => {
                let needs = window.unwrap_or(max_window).max(SMALL_WINDOW);
                check(LimitKind::WindowBytes, needs, max_window.max(SMALL_WINDOW), "")?;
                if needs > SMALL_WINDOW {
                    turn = Some(large.0.lock().unwrap_or_else(PoisonError::into_inner));
                }
                let corrupt = |source| UnpackError::BlobCorrupt { compression, at: 0, source };
                let mut decoder = zstd::Decoder::with_buffer(reader).map_err(corrupt)?;
                // The next power of two: later frames may not need more than the first.
                let log = needs.next_power_of_two().trailing_zeros();
                decoder.window_log_max(log).map_err(corrupt)?;
                Decoder::Zstd(decoder)
            }
        };
        Ok(Self { decoder, compression, _turn: turn })
    }

    /// Fills `into`; less than its length only at the end of the blob.
    pub(crate) fn fill(&mut self, into: &mut [u8]) -> Result<usize, UnpackError> {
        let mut filled = 0;
        while filled < into.len() {
            let read = match &mut self.decoder {
                Decoder::Plain(reader) => reader.read(&mut into[filled..]),
                Decoder::Gzip(reader) => reader.read(&mut into[filled..]),
                Decoder::Zstd(reader) => reader.read(&mut into[filled..]),
            };
            match read.map_err(|source| self.fault(source))? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(filled)
    }

    pub(crate) fn compression(&self) -> Compression {
        self.compression
    }

    /// Compressed bytes taken from the source so far (the decompressor may be a buffer behind).
    pub(crate) fn bytes(&self) -> u64 {
        self.metered().bytes
    }

    /// The digest and size of the blob; right only once [`Blob::fill`] came to the end.
    pub(crate) fn finish(self) -> (Digest, u64) {
        let reader = match self.decoder {
            Decoder::Plain(reader) => reader,
            Decoder::Gzip(reader) => reader.into_inner(),
            Decoder::Zstd(reader) => reader.finish(),
        };
        let (_, metered) = reader.into_inner();
        (metered.hash.finish(), metered.bytes)
    }

    fn metered(&self) -> &Metered<R> {
        match &self.decoder {
            Decoder::Plain(reader) => reader.get_ref().1,
            Decoder::Gzip(reader) => reader.get_ref().get_ref().1,
            Decoder::Zstd(reader) => reader.get_ref().get_ref().1,
        }
    }

    fn fault(&self, source: io::Error) -> UnpackError {
        let Metered { bytes: at, failed, .. } = *self.metered();
        let compression = self.compression;
        if failed {
            UnpackError::Read { at, source }
        } else if source.kind() == io::ErrorKind::UnexpectedEof {
            UnpackError::BlobTruncated { compression, at }
        } else {
            UnpackError::BlobCorrupt { compression, at, source }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_of_a_frame_is_read_from_its_header() {
        for level in [1, 3, 19] {
            let mut encoder = zstd::Encoder::new(Vec::new(), level).unwrap();
            std::io::Write::write_all(&mut encoder, &[7; 100]).unwrap();
            let window = window_bytes(&encoder.finish().unwrap()).unwrap();
            assert!(window <= SMALL_WINDOW, "{level}: {window}");
        }
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.include_contentsize(false).unwrap();
        std::io::Write::write_all(&mut encoder, &[7; 100]).unwrap();
        assert_eq!(window_bytes(&encoder.finish().unwrap()), Some(1 << 27));
        let whole = zstd::bulk::compress(&[7; 1000], 3).unwrap();
        assert_eq!(window_bytes(&whole), Some(1000));
        assert_eq!(window_bytes(&[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]), None);
        assert_eq!(window_bytes(&[0x28, 0xb5, 0x2f, 0xfd]), None);
    }
}
