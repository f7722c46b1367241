//! The pipeline: the calling thread reads and decompresses, a second one unpacks.

use std::io::{BufRead, Write};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use model::Digest;

use crate::apply::Applier;
use crate::blob::{Blob, LargeWindows};
use crate::chunks::{CHUNK_BYTES, Chunks, Feed, pipe};
use crate::entry::check;
use crate::inventory::Ledger;
use crate::skeleton::Skeleton;
use crate::tar::TarReader;
use crate::{Compression, LimitKind, UnpackError};

/// What a layer may ask of the node. The defaults are far above any real layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Entries in the tar, and as many directories that entries lie in without an entry of their
    /// own.
    pub entries: u64,
    /// Bytes of one name or link target. The kernel's own limit is 4095.
    pub path_bytes: u64,
    /// Bytes of names and values of all xattrs of one entry.
    pub xattr_bytes: u64,
    /// Bytes in the names of all directories that no entry names; they are kept in memory.
    pub implied_bytes: u64,
    /// Bytes of one file, holes included.
    pub file_bytes: u64,
    /// Bytes of the uncompressed tar.
    pub total_bytes: u64,
    /// Memory that a zstd stream may ask its reader for, bytes.
    pub window_bytes: u64,
    /// Uncompressed bytes per compressed byte, watched from 1 GiB on. Gzip cannot exceed 1032.
    pub compression_ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 8 << 20,
            path_bytes: 4095,
            xattr_bytes: 1 << 20,
            implied_bytes: 16 << 20,
            file_bytes: 1 << 40,
            total_bytes: 1 << 40,
            window_bytes: 32 << 20,
            compression_ratio: 1100,
        }
    }
}

/// Below this many uncompressed bytes a high ratio is harmless, and normal for empty files.
const RATIO_FLOOR: u64 = 1 << 30;

/// How to unpack.
#[derive(Debug, Clone, Default)]
pub struct UnpackOptions {
    pub limits: Limits,
    /// Shared by all layers that are unpacked at once, so that few of them need much memory.
    pub large_windows: Arc<LargeWindows>,
    /// What may be made of a layer.
    pub rights: Rights,
}

/// What whoever unpacks may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rights {
    /// Everything.
    #[default]
    Root,
    /// As an ordinary user who is root of a user namespace of his own: everything that is made is
    /// his, an empty file stands for a device, xattrs that only root may set are dropped, and the
    /// mark of opaque directories is `user.overlay.opaque`.
    Ordinary,
    /// As [`Self::Ordinary`], and the namespace has the ids that the user was given besides his own
    /// (`subuid(5)`): owners are as the layer says.
    Subordinate,
}

impl Rights {
    /// Whether files get the owners that the layer says.
    #[must_use]
    pub fn keep_owners(self) -> bool {
        match self {
            Self::Root | Self::Subordinate => true,
            Self::Ordinary => false,
        }
    }

    /// Whether devices can be made, and the xattrs be set that only root may.
    #[must_use]
    pub fn are_roots(self) -> bool {
        match self {
            Self::Root => true,
            Self::Ordinary | Self::Subordinate => false,
        }
    }

    /// The xattr that marks a directory that hides what lower layers have in it.
    #[must_use]
    pub fn opaque_xattr(self) -> &'static str {
        match self {
            Self::Root => crate::dirs::OPAQUE_XATTR,
            Self::Ordinary | Self::Subordinate => "user.overlay.opaque",
        }
    }
}

/// What one pass over a layer found out. The digests are for the caller to compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Of the blob as it was read.
    pub blob_digest: Digest,
    pub blob_bytes: u64,
    /// How the blob was compressed.
    pub compression: Compression,
    /// Of the uncompressed tar.
    pub diff_id: Digest,
    /// Content bytes written to files (holes are not).
    pub unpacked_bytes: u64,
    /// Inodes the tree needs.
    pub inodes: u64,
    /// Entries in the tar.
    pub entries: u64,
    /// Xattrs that were dropped; the crate documentation says which.
    pub dropped_xattrs: u64,
    /// Directories that no entry names, by their real paths, sorted; the empty one is the root.
    /// In an image they have the attributes that the layers below give them.
    pub implied: Vec<Vec<u8>>,
    /// The checksum of the inventory, if one was written.
    pub inventory: Option<String>,
    /// Whether there is a whole skeleton. What was written of another is of no use.
    pub skeleton: bool,
}

/// What is written while a layer is unpacked, where somebody wants it.
#[derive(Default)]
pub struct Beside<'w> {
    /// A list of what the tree holds, by which [`crate::verify`] can later tell whether it still
    /// does.
    pub inventory: Option<&'w mut (dyn Write + Send)>,
    /// What the tree does not hold of the tar, by which [`crate::Packed`] puts it together again.
    pub skeleton: Option<&'w mut (dyn Write + Send)>,
}

impl std::fmt::Debug for Beside<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { inventory, skeleton } = self;
        write!(f, "Beside({}, {})", inventory.is_some(), skeleton.is_some())
    }
}

/// Unpacks one layer into `target`, an empty directory, in a single pass over `blob`.
///
/// Blocks, reading on the calling thread and writing on one of its own, which is gone on return.
/// Reads `blob` to its end unless it fails; stop it from outside by letting `blob` return an error.
/// Nothing is synced to disk.
///
/// # Errors
/// [`UnpackError`]; the directory then holds part of the layer.
pub fn unpack(
    blob: impl BufRead,
    target: BorrowedFd<'_>,
    compression: Compression,
    options: &UnpackOptions,
    beside: Beside<'_>,
) -> Result<Unpacked, UnpackError> {
    let (limits, rights) = (&options.limits, options.rights);
    let mut blob = Blob::open(blob, compression, limits.window_bytes, &options.large_windows)?;
    let (feed, chunks) = pipe();
    let (fed, written) = std::thread::scope(|scope| {
        let worker = std::thread::Builder::new()
            .name("layer-unpack".to_owned())
            .spawn_scoped(scope, || write_tree(chunks, target, (limits, rights), beside))
            .map_err(|source| UnpackError::Thread { source })?;
        let fed = feed_chunks(&mut blob, &feed, limits);
        // The end of the stream, for the worker.
        drop(feed);
        match worker.join() {
            Ok(written) => Ok((fed, written)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    // The cause first: a broken blob makes the tar look truncated.
    fed?;
    let written = written?;
    let compression = blob.compression();
    let (blob_digest, blob_bytes) = blob.finish();
    Ok(Unpacked {
        blob_digest,
        blob_bytes,
        compression,
        diff_id: written.diff_id,
        unpacked_bytes: written.applied.bytes,
        inodes: written.applied.inodes,
        entries: written.entries,
        dropped_xattrs: written.applied.dropped_xattrs,
        implied: written.ledger.implied,
        inventory: written.ledger.inventory,
        skeleton: written.skeleton && !written.applied.replaced,
    })
}

/// Writes what a gzip or zstd stream holds, within the limits of a layer. Blocks.
///
/// # Errors
/// [`UnpackError`]; part of it may be written then.
pub fn inflate(
    from: impl BufRead,
    mut to: impl Write,
    options: &UnpackOptions,
) -> Result<(), UnpackError> {
    let limits = &options.limits;
    let auto = Compression::Auto;
    let mut blob = Blob::open(from, auto, limits.window_bytes, &options.large_windows)?;
    let (mut total, mut chunk) = (0, vec![0; CHUNK_BYTES]);
    loop {
        let filled = fill(&mut blob, &mut chunk, &mut total, limits)?;
        if filled == 0 {
            return Ok(());
        }
        to.write_all(&chunk[..filled]).map_err(|source| UnpackError::Write { source })?;
    }
}

/// Takes the next chunk, if the blob is still within its limits.
fn fill(
    blob: &mut Blob<'_, impl BufRead>,
    chunk: &mut [u8],
    total: &mut u64,
    limits: &Limits,
) -> Result<usize, UnpackError> {
    let filled = blob.fill(chunk)?;
    *total += filled as u64;
    check(LimitKind::TotalBytes, *total, limits.total_bytes, "")?;
    if *total > RATIO_FLOOR {
        let ratio = *total / blob.bytes().max(1);
        check(LimitKind::CompressionRatio, ratio, limits.compression_ratio, "")?;
    }
    Ok(filled)
}

/// Ends early, without an error, when the unpacking side has failed.
fn feed_chunks(
    blob: &mut Blob<'_, impl BufRead>,
    feed: &Feed,
    limits: &Limits,
) -> Result<(), UnpackError> {
    let mut total: u64 = 0;
    loop {
        let mut chunk = feed.empty();
        let filled = fill(blob, &mut chunk, &mut total, limits)?;
        if filled == 0 {
            return Ok(());
        }
        chunk.truncate(filled);
        let last = filled < CHUNK_BYTES;
        if !feed.send(chunk) || last {
            return Ok(());
        }
    }
}

struct Written {
    diff_id: Digest,
    entries: u64,
    applied: crate::apply::Counts,
    ledger: crate::inventory::Written,
    skeleton: bool,
}

fn write_tree(
    chunks: Chunks,
    target: BorrowedFd<'_>,
    (limits, rights): (&Limits, Rights),
    beside: Beside<'_>,
) -> Result<Written, UnpackError> {
    let Beside { inventory, skeleton } = beside;
    let skeleton = skeleton.map(|out| Skeleton::new(out)).transpose();
    let skeleton = skeleton.map_err(|source| UnpackError::Skeleton { source })?;
    let mut tar = TarReader::new(chunks, limits, skeleton);
    let ledger = Ledger::new(inventory.map(|out| out as &mut dyn Write), limits.implied_bytes);
    let mut applier = Applier::new(target, limits, ledger, rights);
    while let Some(entry) = tar.next()? {
        applier.apply(&entry, &mut tar)?;
    }
    let (diff_id, entries, skeleton) = tar.finish()?;
    let (applied, ledger) = applier.finish()?;
    Ok(Written { diff_id, entries, applied, ledger, skeleton })
}
