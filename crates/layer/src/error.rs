//! Why a layer was not unpacked. Offsets are bytes from the start of the stream they name.

use std::fmt;
use std::io;

use rustix::io::Errno;
use tar_core::parse::ParseError;

use crate::Compression;

/// Why unpacking stopped. The target directory then holds an unusable part of the layer.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The blob's reader failed: a network or disk fault, not the image's.
    #[error("reading the layer blob failed after {at} bytes")]
    Read { at: u64, source: io::Error },
    /// The compressed stream ends in the middle.
    #[error("the {compression} layer blob is truncated: it ends after {at} bytes")]
    BlobTruncated { compression: Compression, at: u64 },
    /// The compressed stream is invalid, or something else follows it.
    #[error("the {compression} layer blob is corrupt before byte {at}")]
    BlobCorrupt { compression: Compression, at: u64, source: io::Error },
    /// The tar ends inside a header or inside an entry's content.
    #[error("the layer tar is truncated: it ends at byte {at} inside {inside}")]
    TarTruncated { at: u64, inside: String },
    /// A header that is no tar header (bad checksum, bad number) or breaks a parser limit.
    #[error("the layer tar has an invalid header at byte {at}")]
    Header { at: u64, source: ParseError },
    /// Something other than zeros follows the end of the archive.
    #[error("the layer tar has data after its end, near byte {at}")]
    TrailingData { at: u64 },
    /// An entry type that has no meaning in a layer.
    #[error("entry `{name}` has the unsupported type {kind:#04x}")]
    UnsupportedType { name: String, kind: u8 },
    /// A PAX record whose value is no number where one is needed.
    #[error("entry `{name}` has an invalid PAX record {key}={value}")]
    Pax { name: String, key: &'static str, value: String },
    /// A sparse map that contradicts itself or the entry.
    #[error("entry `{name}` has an invalid sparse map: {reason}")]
    Sparse { name: String, reason: &'static str },
    /// A user or group id the kernel cannot store.
    #[error("entry `{name}` has the {field} {value}, which is out of range")]
    IdOutOfRange { name: String, field: &'static str, value: u64 },
    /// A name that no file can have (empty link target, NUL byte).
    #[error("entry `{name}` has an unusable {what}")]
    BadName { name: String, what: &'static str },
    /// `..` leads out of the layer.
    #[error("entry `{name}` climbs out of the layer")]
    Climbs { name: String },
    /// The target of a hard link leads out of the layer.
    #[error("hard link `{name}` to `{target}` climbs out of the layer")]
    LinkClimbs { name: String, target: String },
    /// A hard link to something this layer does not have.
    #[error("hard link `{name}` points to `{target}`, which the layer does not have")]
    LinkTargetMissing { name: String, target: String },
    /// A whiteout without a name, of `.` or `..`, or used as a directory.
    #[error("entry `{name}` is no valid whiteout")]
    BadWhiteout { name: String },
    /// The layer root can only be a directory.
    #[error("entry `{name}` would replace the layer root by something that is no directory")]
    RootReplaced { name: String },
    /// A parent of the entry exists and is not a directory.
    #[error("entry `{name}` lies below `{parent}`, which is not a directory")]
    ParentNotDirectory { name: String, parent: String },
    /// Parents lead through too many symbolic links.
    #[error("entry `{name}` lies behind too many symbolic links")]
    TooManyLinks { name: String },
    /// An xattr that must not be lost could not be set.
    #[error("setting xattr {xattr} on `{name}` failed")]
    Xattr { name: String, xattr: String, source: Errno },
    /// Any other system call.
    #[error("cannot {action} `{name}`")]
    Syscall { name: String, action: &'static str, source: Errno },
    /// A configured limit was exceeded.
    #[error("the layer exceeds the limit of {allowed} {limit}{}", At(entry.as_deref()))]
    Limit { limit: LimitKind, allowed: u64, entry: Option<String> },
    /// The list of what the layer holds cannot be written.
    #[error("cannot write the inventory of the layer")]
    Inventory { source: io::Error },
    /// What of the tar is not in the tree cannot be written.
    #[error("cannot write the skeleton of the layer")]
    Skeleton { source: io::Error },
    /// What was decompressed cannot be written.
    #[error("cannot write what was decompressed")]
    Write { source: io::Error },
    /// The unpacking thread could not be started.
    #[error("cannot start the unpack thread")]
    Thread { source: io::Error },
}

struct At<'a>(Option<&'a str>);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |entry| write!(f, " at entry `{entry}`"))
    }
}

/// Which of [`crate::Limits`] was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitKind {
    /// Entries in one layer.
    Entries,
    /// Bytes of an entry's name or link target.
    PathBytes,
    /// Bytes of all xattrs of one entry.
    XattrBytes,
    /// Bytes of headers before one entry.
    HeaderBytes,
    /// Bytes in the names of directories that no entry names.
    ImpliedBytes,
    /// Bytes of one file, holes included.
    FileBytes,
    /// Uncompressed bytes of the layer.
    TotalBytes,
    /// Memory that a zstd stream asks its reader for.
    WindowBytes,
    /// Uncompressed bytes per compressed byte.
    CompressionRatio,
}

impl fmt::Display for LimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Entries => "entries",
            Self::PathBytes => "bytes in a path",
            Self::XattrBytes => "xattr bytes on one entry",
            Self::HeaderBytes => "header bytes for one entry",
            Self::ImpliedBytes => "bytes in names of directories without an entry",
            Self::FileBytes => "bytes in one file",
            Self::TotalBytes => "uncompressed bytes",
            Self::WindowBytes => "bytes of zstd window",
            Self::CompressionRatio => "uncompressed bytes per compressed byte",
        })
    }
}

/// A name out of the tar, made safe for a log line.
pub(crate) fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_debug().collect()
}
