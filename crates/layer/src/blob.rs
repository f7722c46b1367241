//! The compressed side: counting and hashing the blob, choosing and running the decompressor.

use std::fmt;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use aws_lc_rs::digest::{Context, SHA256};
use model::Digest;

use crate::UnpackError;

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
    fn of(magic: &[u8]) -> Self {
        match magic {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or a skippable frame (RFC 8878, 3.1.2).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

const MAGIC_BYTES: u64 = 4;
const BUFFER_BYTES: usize = 128 * 1024;

/// A running SHA-256.
pub(crate) struct Sha256(Context);

impl Sha256 {
    pub(crate) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.finish().as_ref());
        Digest::from_sha256(bytes)
    }
}

/// Hashes and counts what is read through it.
struct Metered<R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
    /// Tells a failing source from a failing decompressor.
    failed: bool,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.inner.read(into) {
                Ok(read) => {
                    self.hash.update(&into[..read]);
                    self.bytes += read as u64;
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed = true;
                    return Err(error);
                }
            }
        }
    }
}

/// The source with its first bytes, which told the compression, put back in front.
type Source<R> = BufReader<Chain<Cursor<Vec<u8>>, Metered<R>>>;

enum Decoder<R: BufRead> {
    Plain(R),
    Gzip(Box<flate2::bufread::MultiGzDecoder<R>>),
    Zstd(zstd::Decoder<'static, R>),
}

/// The blob while it is being read: yields the tar.
pub(crate) struct Blob<R: Read> {
    decoder: Decoder<Source<R>>,
    compression: Compression,
}

impl<R: Read> Blob<R> {
    pub(crate) fn open(source: R, compression: Compression) -> Result<Self, UnpackError> {
        let mut metered = Metered { inner: source, hash: Sha256::new(), bytes: 0, failed: false };
        let mut magic = Vec::new();
        let taken = metered.by_ref().take(MAGIC_BYTES).read_to_end(&mut magic);
        taken.map_err(|source| UnpackError::Read { at: magic.len() as u64, source })?;
        let of_magic = Compression::of(&magic);
        let reader = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(magic).chain(metered));
        let compression = match compression {
            Compression::Auto => of_magic,
            Compression::None | Compression::Gzip | Compression::Zstd => compression,
        };
        let decoder =
            match compression {
                Compression::Auto | Compression::None => Decoder::Plain(reader),
                Compression::Gzip => {
                    Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(reader)))
                }
                Compression::Zstd => {
                    Decoder::Zstd(zstd::Decoder::with_buffer(reader).map_err(|source| {
                        UnpackError::BlobCorrupt { compression, at: 0, source }
                    })?)
                }
            };
        Ok(Self { decoder, compression })
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
        let (_, metered) = reader.into_inner().into_inner();
        (metered.hash.finish(), metered.bytes)
    }

    fn metered(&self) -> &Metered<R> {
        match &self.decoder {
            Decoder::Plain(reader) => reader.get_ref().get_ref().1,
            Decoder::Gzip(reader) => reader.get_ref().get_ref().get_ref().1,
            Decoder::Zstd(reader) => reader.get_ref().get_ref().get_ref().1,
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
