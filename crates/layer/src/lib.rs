//! One untrusted image layer, as a stream of bytes, becomes one directory that overlayfs can stack.
//!
//! A single pass hashes the blob, decompresses it, hashes the tar and writes the tree; nothing is
//! read twice and nothing is kept in memory but a few chunks. The blob is hostile until its digest
//! is known, which is at the end: so no byte of it may lead outside the target directory, allocate
//! without bound or panic.
//!
//! Never here: network, async, fsync, mounts, knowledge of other layers. The caller compares the
//! digests and throws the directory away if they differ or if unpacking failed.
//!
//! # What the tree looks like
//! - Whiteouts become overlayfs's own: `.wh.name` a character device 0:0 called `name`,
//!   `.wh..wh..opq` the xattr `trusted.overlay.opaque=y` on its directory. Other `.wh..wh.*` names
//!   are leftovers of aufs and are skipped.
//! - A whiteout hides what lower layers have, never what its own layer brings (image-spec,
//!   "Whiteouts"), whichever comes first in the tar. A directory that is both whited out and
//!   brought by one layer therefore becomes opaque.
//! - A later entry replaces an earlier one of the same name; a directory over a directory merges.
//! - Directories that no entry names get mode 0755, owner 0:0, and are reported: what they are in
//!   an image only the layers below can tell.
//! - Overlayfs's xattrs (`trusted.overlay.*`, `user.overlay.*`) and the host's labels
//!   (`security.*` other than `security.capability`) are not an image's to set: they are dropped
//!   and counted. Unknown namespaces, `user.*` where the kernel allows none (links, devices) or
//!   the filesystem stores none are dropped and counted too. Every other xattr is set or is an
//!   error.
//! - A hard link keeps the attributes of its target; those in its own header are ignored.
//! - As Go's reader, which defines what layers look like in practice: a size on an entry that has
//!   no content is taken as zero, and global PAX records are ignored.
//!
//! # What can be written beside it
//! An inventory lists what the tree holds, with the hash of every file: [`verify`] compares a tree
//! with its list later on. A skeleton holds what of the tar the tree does not: with both,
//! [`Packed`] gives the tar again.
//!
//! Main types: [`unpack`], [`UnpackOptions`], [`Unpacked`], [`UnpackError`], [`verify`], [`Packed`].
//! [`remove_tree`] is shared with the crates that own the directories.
#![forbid(unsafe_code)]

mod apply;
mod attrs;
mod blob;
mod chunks;
mod dirs;
mod entry;
mod error;
mod inventory;
mod members;
mod path;
mod remove;
mod skeleton;
mod sum;
mod tar;
mod unpack;
mod verify;

pub use blob::{Compression, LargeWindows, Sha256 as Hasher};
pub use error::{LimitKind, UnpackError};
pub use members::{Member, Place, members};
pub use remove::{RemoveTreeError, remove_tree};
pub use skeleton::{Packed, RepackError};
pub use unpack::{Beside, Limits, Rights, UnpackOptions, Unpacked, inflate, unpack};
pub use verify::{Difference, Finding, Verified, VerifyError, verify};

/// The SHA-256 digest of `bytes`.
pub fn digest_of(bytes: &[u8]) -> model::Digest {
    let mut hash = blob::Sha256::new();
    hash.update(bytes);
    hash.finish()
}
