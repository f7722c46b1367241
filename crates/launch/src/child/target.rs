//! Where a mount goes: resolved in the new root, made when missing, never outside, never by way of
//! `/proc`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use sys::fs::{Missing, Symlinks};

use crate::error::{LaunchError, Step};

/// `PROC_SUPER_MAGIC`.
const PROC_MAGIC: i64 = 0x9fa0;

/// Finds or makes the target of a mount whose source is a directory or not.
pub(super) fn resolve(root: BorrowedFd<'_>, path: &str, directory: bool) -> io::Result<OwnedFd> {
    let missing = if directory { Missing::Directory } else { Missing::File };
    let target = sys::fs::find_or_make_in_root(root, path, missing)?;
    // A symlink of the image that leads into /proc would put a mount where kernel files are
    // expected. A plan that means to mount there says so.
    if !names_proc(path) && is_proc(target.as_fd())? {
        return Err(io::Error::from_raw_os_error(libc::EXDEV));
    }
    Ok(target)
}

/// Finds or makes the target of `proc` and `sysfs`: a real directory at just this path. Kernel files
/// are looked for there later, so nobody else may have a say in where "there" is.
pub(super) fn resolve_real(root: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let open = || sys::fs::open_in_root(root, path, flags, Symlinks::Refuse);
    match open() {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            sys::fs::mkdir_all_in_root(root, path)?;
            open()
        }
        result => result,
    }
}

/// Why nothing can be mounted at a path, in words that callers look for.
pub(super) fn error(path: &str, error: io::Error) -> LaunchError {
    let link = matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR));
    let what = if link && matches!(path, "/proc" | "/sys") {
        format!("{path}, which must be mounted on ordinary directory")
    } else {
        path.to_owned()
    };
    LaunchError::new(Step::MountTarget, what, error)
}

fn names_proc(path: &str) -> bool {
    path.trim_start_matches('/').split('/').next() == Some("proc")
}

fn is_proc(file: impl AsFd) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(file)?.f_type == PROC_MAGIC)
}
