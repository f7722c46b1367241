//! The writable half of a container's root filesystem.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use layer::RemoveTreeError;
use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;

use crate::ingest::DIRECTORY;
use crate::usage::of_tree;

/// Why a container's directories could not be made, measured or removed.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    #[error("cannot {action} {}", path.display())]
    Directory { action: &'static str, path: PathBuf, source: io::Error },
    /// It can be tried again.
    #[error("cannot remove {}", path.display())]
    Remove { path: PathBuf, source: RemoveTreeError },
}

/// `upper/` and `work/` in a container's directory, as overlayfs wants them: siblings on one
/// filesystem. Nothing in them is ever synced: a container does not survive a power cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRoot {
    pub upper: PathBuf,
    pub work: PathBuf,
}

/// One of the two directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// What the container has written.
    Upper,
    /// Where overlayfs works.
    Work,
}

impl Half {
    fn name(self) -> &'static CStr {
        match self {
            Self::Upper => c"upper",
            Self::Work => c"work",
        }
    }
}

impl ContainerRoot {
    /// Makes both directories below `dir`, which is made too if need be. Existing ones stay as
    /// they are. The container's `/` has mode 0755 and belongs to `owner`, a user and a group.
    ///
    /// # Errors
    /// [`RootError::Directory`].
    pub fn prepare(dir: &Path, owner: Option<(u32, u32)>) -> Result<Self, RootError> {
        let root = Self { upper: dir.join("upper"), work: dir.join("work") };
        std::fs::create_dir_all(dir).map_err(fault("make", dir))?;
        make(&root.upper, Mode::from_raw_mode(0o755), owner)?;
        make(&root.work, Mode::RWXU, None)?;
        Ok(root)
    }

    /// As [`ContainerRoot::prepare`], with the owner and mode of `/` taken from the topmost layer
    /// of the image: overlayfs shows those of the upper directory. `on_host` maps the owner, user and
    /// group, as the container's user namespace does; an owner that does not exist there stays as
    /// it is, and is nobody in the container.
    ///
    /// # Errors
    /// [`RootError::Directory`].
    pub fn prepare_over(
        dir: &Path,
        topmost: &Path,
        on_host: impl FnOnce((u32, u32)) -> Option<(u32, u32)>,
    ) -> Result<Self, RootError> {
        let look = |errno: Errno| fault("look at", topmost)(errno.into());
        let stat = rustix::fs::lstat(topmost).map_err(look)?;
        let root = Self { upper: dir.join("upper"), work: dir.join("work") };
        std::fs::create_dir_all(dir).map_err(fault("make", dir))?;
        let owner = (stat.st_uid, stat.st_gid);
        let owner = on_host(owner).unwrap_or(owner);
        make(&root.upper, Mode::from_raw_mode(stat.st_mode), Some(owner))?;
        make(&root.work, Mode::RWXU, None)?;
        Ok(root)
    }

    /// Allocated bytes and inodes of what the container wrote; (0, 0) if there is no upper
    /// directory. Blocks for as long as walking it takes.
    ///
    /// # Errors
    /// [`RootError::Directory`] if it cannot be read; what vanishes while it is read is no error.
    pub fn usage(dir: &Path) -> Result<(u64, u64), RootError> {
        let upper = dir.join("upper");
        let measured = match rustix::fs::open(&upper, DIRECTORY, Mode::empty()) {
            Ok(root) => of_tree(root),
            Err(Errno::NOENT) => Ok((0, 0)),
            Err(errno) => Err(errno),
        };
        measured.map_err(|errno| fault("measure", &upper)(errno.into()))
    }

    /// Removes one of the directories, whatever state it is in; `dir` itself stays. Success if it is not there.
    /// Both may go at the same time: a file system that discards what it frees waits for its disk at each
    /// directory.
    ///
    /// # Errors
    /// [`RootError::Remove`].
    pub fn remove(dir: &Path, half: Half) -> Result<(), RootError> {
        let parent: OwnedFd = match rustix::fs::open(dir, DIRECTORY, Mode::empty()) {
            Ok(parent) => parent,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(fault("open", dir)(errno.into())),
        };
        let path = || dir.join(half.name().to_string_lossy().as_ref());
        layer::remove_tree(parent.as_fd(), half.name())
            .map(drop)
            .map_err(|source| RootError::Remove { path: path(), source })
    }
}

/// Makes one directory with exactly this mode, whatever the umask.
fn make(path: &Path, mode: Mode, owner: Option<(u32, u32)>) -> Result<(), RootError> {
    let fault = |errno: Errno| fault("make", path)(errno.into());
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) => {}
        Err(Errno::EXIST) if path.is_dir() => return Ok(()),
        Err(errno) => return Err(fault(errno)),
    }
    if let Some((uid, gid)) = owner {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chown(path, Some(uid), Some(gid)).map_err(fault)?;
    }
    rustix::fs::chmod(path, mode).map_err(fault)
}

fn fault(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RootError {
    let path = path.to_path_buf();
    move |source| RootError::Directory { action, path, source }
}
