//! Directories on their way in.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Why no directory to unpack into could be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make an ingest directory below {}", path.display())]
pub struct IngestError {
    pub path: PathBuf,
    #[source]
    pub source: Errno,
}

/// A fresh directory to unpack a layer into. Dropping it removes it, which takes as long as the
/// disk takes; what a crash leaves is removed at the next [`crate::Layers::open`].
#[derive(Debug)]
pub struct Ingest {
    parent: OwnedFd,
    name: CString,
    dir: OwnedFd,
    fs: OwnedFd,
    path: PathBuf,
    committed: bool,
}

pub(crate) const FS: &str = "fs";
pub(crate) const INVENTORY: &str = "inventory";
pub(crate) const SKELETON: &str = "skeleton";

pub(crate) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Ingest {
    /// `EXIST` if the name is taken.
    pub(crate) fn make(parent: BorrowedFd<'_>, path: &Path, name: &str) -> Result<Self, Errno> {
        let parent = rustix::io::fcntl_dupfd_cloexec(parent, 0)?;
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        rustix::fs::mkdirat(&parent, &name, Mode::RWXU)?;
        let made = open_made(parent.as_fd(), &name);
        let (dir, fs) = match made {
            Ok(made) => made,
            Err(errno) => {
                // Swept at the next open if it cannot go now.
                drop(layer::remove_tree(parent.as_fd(), &name));
                return Err(errno);
            }
        };
        let path = path.join(name.to_string_lossy().as_ref()).join(FS);
        Ok(Self { parent, name, dir, fs, path, committed: false })
    }

    /// The empty directory to unpack into.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.fs.as_fd()
    }

    /// Its path, for messages and for tools that need one.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A fresh file for the list of what is unpacked.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn inventory(&self) -> Result<File, IngestError> {
        self.file(INVENTORY)
    }

    /// A fresh file for what of the tar is not in the tree.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn skeleton(&self) -> Result<File, IngestError> {
        self.file(SKELETON)
    }

    fn file(&self, name: &str) -> Result<File, IngestError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, name, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(|source| IngestError { path: self.path.clone(), source })
    }

    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    pub(crate) fn name(&self) -> &CString {
        &self.name
    }

    /// The directory has moved to where it stays.
    pub(crate) fn committed(mut self) {
        self.committed = true;
    }
}

fn open_made(parent: BorrowedFd<'_>, name: &CString) -> Result<(OwnedFd, OwnedFd), Errno> {
    let dir = rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())?;
    // A layer without an entry for its root gets this mode.
    let mode = Mode::from_raw_mode(0o755);
    rustix::fs::mkdirat(&dir, FS, mode)?;
    let fs = rustix::fs::openat(&dir, FS, DIRECTORY, Mode::empty())?;
    rustix::fs::fchmod(&fs, mode)?;
    Ok((dir, fs))
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = layer::remove_tree(self.parent.as_fd(), &self.name)
        {
            let path = self.path.display();
            let cause = error.source;
            tracing::warn!(%path, %error, %cause, "an ingest stays until the next start");
        }
    }
}
