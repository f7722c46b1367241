//! A layer's skeleton: everything of its tar that is not content of files: headers, padding, the
//! end. Together with the tree it gives the tar again, byte for byte, and so its digest.
//!
//! ```text
//! one zstd stream:
//!   knarr-skeleton 1⏎
//!   R <length u32> bytes of the tar
//!   F <length u16> real path in the tree <count u32> (<offset u64> <length u64>)…   pieces of a file
//!   E
//! behind it: bytes of the tar, u64          all numbers little endian
//! ```
//! A layer that replaces a file of its own has no skeleton: the first content is gone.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use model::Digest;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tar_core::SparseEntry;

use crate::blob::Sha256;
use crate::error::printable;
use crate::path::LayerPath;

const VERSION: &[u8] = b"knarr-skeleton 1\n";
const RAW: u8 = b'R';
const FILE: u8 = b'F';
const END: u8 = b'E';
/// Raw bytes are gathered up to this.
const RAW_BYTES: usize = 64 * 1024;
const COPY_BYTES: usize = 256 * 1024;
/// Fast, and headers shrink to a tenth all the same.
const LEVEL: i32 = 1;
/// Little memory: a header resembles the last few.
const WINDOW_LOG: u32 = 17;
/// More than [`crate::Limits`] lets through.
const PIECES_MAX: u32 = 1 << 20;

/// Writes a skeleton while the tar is read.
pub(crate) struct Skeleton<'w> {
    out: zstd::Encoder<'static, &'w mut dyn Write>,
    raw: Vec<u8>,
    tar_bytes: u64,
}

impl<'w> Skeleton<'w> {
    pub(crate) fn new(out: &'w mut dyn Write) -> io::Result<Self> {
        let mut out = zstd::Encoder::new(out, LEVEL)?;
        out.window_log(WINDOW_LOG)?;
        out.write_all(VERSION)?;
        Ok(Self { out, raw: Vec::with_capacity(RAW_BYTES), tar_bytes: 0 })
    }

    /// Bytes of the tar that are in no file.
    pub(crate) fn raw(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.tar_bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(RAW_BYTES - self.raw.len()));
            self.raw.extend_from_slice(now);
            bytes = later;
            if self.raw.len() == RAW_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Content of a file follows, in these pieces.
    pub(crate) fn file(&mut self, path: &LayerPath, pieces: &[SparseEntry]) -> io::Result<()> {
        self.flush()?;
        let path = path.bytes();
        let length = u16::try_from(path.len()).map_err(io::Error::other)?;
        let count = u32::try_from(pieces.len()).map_err(io::Error::other)?;
        self.out.write_all(&[FILE])?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(path)?;
        self.out.write_all(&count.to_le_bytes())?;
        for SparseEntry { offset, length, .. } in pieces {
            self.out.write_all(&offset.to_le_bytes())?;
            self.out.write_all(&length.to_le_bytes())?;
            self.tar_bytes += length;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.raw.is_empty() {
            return Ok(());
        }
        let length = u32::try_from(self.raw.len()).map_err(io::Error::other)?;
        self.out.write_all(&[RAW])?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&self.raw)?;
        self.raw.clear();
        Ok(())
    }

    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.out.write_all(&[END])?;
        let out = self.out.finish()?;
        out.write_all(&self.tar_bytes.to_le_bytes())?;
        out.flush()
    }
}

/// Why a tar was not put together again. What was written of it is of no use.
#[derive(Debug, thiserror::Error)]
pub enum RepackError {
    /// The skeleton cannot be read.
    #[error("cannot read the layer's skeleton")]
    Skeleton { source: io::Error },
    /// The skeleton is not what was written.
    #[error("the layer's skeleton is damaged")]
    Damaged,
    /// A file of the tree cannot be read, or is not as long as it was.
    #[error("cannot read `{path}` of the layer")]
    File { path: String, source: io::Error },
    /// The tar cannot be written.
    #[error("cannot write the layer's tar")]
    Write { source: io::Error },
}

/// A tar that is in a tree and a skeleton.
#[derive(Debug)]
pub struct Packed {
    skeleton: File,
    length: u64,
    bytes: u64,
}

impl Packed {
    /// Blocks on the disk.
    ///
    /// # Errors
    /// The skeleton is none.
    pub fn open(skeleton: File) -> Result<Self, RepackError> {
        let read = |source| RepackError::Skeleton { source };
        let length = skeleton.metadata().map_err(read)?.len();
        let length = length.checked_sub(8).ok_or(RepackError::Damaged)?;
        let mut bytes = [0; 8];
        skeleton.read_exact_at(&mut bytes, length).map_err(read)?;
        Ok(Self { skeleton, length, bytes: u64::from_le_bytes(bytes) })
    }

    /// Length of the tar.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes the tar of the tree below `root`; gives its digest, which is for the caller to
    /// compare. Blocks for as long as reading and writing take.
    ///
    /// # Errors
    /// [`RepackError`].
    pub fn write(&self, root: BorrowedFd<'_>, out: impl Write) -> Result<Digest, RepackError> {
        let read = |source| RepackError::Skeleton { source };
        let skeleton = Whole { file: &self.skeleton, at: 0, end: self.length };
        let skeleton = zstd::Decoder::with_buffer(BufReader::with_capacity(RAW_BYTES, skeleton));
        let mut skeleton = BufReader::new(skeleton.map_err(read)?);
        let mut tar = Tar { out, hash: Sha256::new(), bytes: 0 };
        let mut version = [0; VERSION.len()];
        skeleton.read_exact(&mut version).map_err(read)?;
        if version != VERSION {
            return Err(RepackError::Damaged);
        }
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let [kind] = number(&mut skeleton)?;
            match kind {
                RAW => {
                    let length = u32::from_le_bytes(number(&mut skeleton)?) as usize;
                    let raw = buffer.get_mut(..length).ok_or(RepackError::Damaged)?;
                    skeleton.read_exact(raw).map_err(read)?;
                    tar.add(raw)?;
                }
                FILE => copy(root, &mut skeleton, &mut tar, &mut buffer)?,
                END if tar.bytes == self.bytes => break,
                _ => return Err(RepackError::Damaged),
            }
        }
        tar.out.flush().map_err(|source| RepackError::Write { source })?;
        Ok(tar.hash.finish())
    }
}

/// A file from its beginning, whoever else reads it.
struct Whole<'f> {
    file: &'f File,
    at: u64,
    end: u64,
}

impl Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let most = left.min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

struct Tar<W> {
    out: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Tar<W> {
    fn add(&mut self, bytes: &[u8]) -> Result<(), RepackError> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes).map_err(|source| RepackError::Write { source })
    }
}

/// Copies the pieces of the file that the skeleton names next.
fn copy(
    root: BorrowedFd<'_>,
    skeleton: &mut impl Read,
    tar: &mut Tar<impl Write>,
    buffer: &mut [u8],
) -> Result<(), RepackError> {
    let read = |source| RepackError::Skeleton { source };
    let mut path = vec![0; usize::from(u16::from_le_bytes(number(skeleton)?))];
    skeleton.read_exact(&mut path).map_err(read)?;
    let fault = |source| RepackError::File { path: printable(&path), source };
    let file = open(root, &path).map_err(|errno| fault(errno.into()))?;
    let count = u32::from_le_bytes(number(skeleton)?);
    if count > PIECES_MAX {
        return Err(RepackError::Damaged);
    }
    for _ in 0..count {
        let mut at = u64::from_le_bytes(number(skeleton)?);
        let mut left = u64::from_le_bytes(number(skeleton)?);
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let piece = &mut buffer[..most];
            file.read_exact_at(piece, at).map_err(fault)?;
            tar.add(piece)?;
            at += most as u64;
            left -= most as u64;
        }
    }
    Ok(())
}

fn open(root: BorrowedFd<'_>, path: &[u8]) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve).map(File::from)
}

fn number<const N: usize>(skeleton: &mut impl Read) -> Result<[u8; N], RepackError> {
    let mut bytes = [0; N];
    skeleton.read_exact(&mut bytes).map_err(|source| RepackError::Skeleton { source })?;
    Ok(bytes)
}
