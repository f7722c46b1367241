//! Comparing a layer's tree with the inventory that was written when it was unpacked.

mod expected;
mod walk;

use std::fmt;
use std::io::{self, BufRead};
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::error::printable;

/// How one thing in the tree is not what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// It is gone.
    Missing,
    /// It was not there.
    Extra,
    /// It is something else: a file where a directory was, another device.
    Kind,
    /// Permission bits.
    Mode,
    /// User or group.
    Owner,
    /// Time of the last change.
    Mtime,
    /// Length of a file.
    Size,
    /// Bytes of a file.
    Content,
    /// Where a symbolic link leads.
    Target,
    /// Extended attributes, or the overlay's opaque marker.
    Xattrs,
    /// The disk does not give it.
    Unreadable,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "is missing",
            Self::Extra => "was not there",
            Self::Kind => "is of another kind",
            Self::Mode => "has another mode",
            Self::Owner => "has another owner",
            Self::Mtime => "has another modification time",
            Self::Size => "has another size",
            Self::Content => "has other content",
            Self::Target => "leads elsewhere",
            Self::Xattrs => "has other extended attributes",
            Self::Unreadable => "cannot be read",
        })
    }
}

/// One finding. Only the first difference of a path is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Path in the layer, safe to print.
    pub path: String,
    pub difference: Difference,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{} {}", self.path, self.difference)
    }
}

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verified {
    /// Things that were compared.
    pub checked: u64,
    /// Bytes of files that were read.
    pub bytes: u64,
    /// All paths that differ.
    pub different: u64,
    /// The first of them.
    pub findings: Vec<Finding>,
}

/// As many findings are told one by one.
const FINDINGS_MAX: usize = 100;

impl Verified {
    fn add(&mut self, path: &[u8], difference: Difference) {
        self.different += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { path: printable(path), difference });
        }
    }
}

/// Why a tree could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The list itself cannot be read.
    #[error("cannot read the inventory")]
    Read { source: io::Error },
    /// The list is not the one that was written.
    #[error("the inventory is damaged, first in line {line}")]
    Damaged { line: u64 },
    /// The tree's root cannot be read.
    #[error("cannot read the root of the layer")]
    Root { source: Errno },
}

/// Compares the tree below `root` with `inventory`, whose own checksum is `checksum`. Reads every
/// file: blocks for as long as the disk takes.
///
/// # Errors
/// [`VerifyError`] if there is nothing sound to compare with; what differs is no error.
pub fn verify(
    root: BorrowedFd<'_>,
    inventory: impl BufRead,
    checksum: &str,
) -> Result<Verified, VerifyError> {
    let expected = expected::read(inventory, checksum)?;
    walk::compare(root, &expected)
}
