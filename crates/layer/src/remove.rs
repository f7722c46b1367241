//! Removing a tree that a container or an image made.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, IFlags, Mode, OFlags, RawDir, RenameFlags, SeekFrom};
use rustix::io::Errno;

/// Why a tree could not be removed. What is left can be removed by another call.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{name}` while removing a tree")]
pub struct RemoveTreeError {
    /// What was tried.
    pub action: &'static str,
    /// The name in its directory.
    pub name: String,
    #[source]
    pub source: Errno,
}

/// Removes `name` in `parent` and everything below it; returns how many names were removed, 0 if
/// it does not exist. Never follows a symbolic link. Blocks for as long as the filesystem takes.
///
/// Depth costs neither stack nor file descriptors: a container can nest directories deeper than
/// any path can name, so instead of descending, non-empty directories are moved up to `name`.
///
/// # Errors
/// The first system call that fails; the tree is then partly removed.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &CStr) -> Result<u64, RemoveTreeError> {
    match unlink(parent, name, AtFlags::empty()) {
        Ok(()) => return Ok(1),
        Err(Errno::NOENT) => return Ok(0),
        Err(Errno::ISDIR) => {}
        Err(source) => return Err(fault("unlink", name, source)),
    }
    if remove_if_empty(parent, name)? {
        return Ok(1);
    }
    let mut top = Top { dir: open_dir(parent, name)?, moved: 0, removed: 0 };
    loop {
        let any = top.sweep()?;
        if remove_if_empty(parent, name)? {
            return Ok(top.removed + 1);
        }
        if !any {
            return Err(fault("remove", name, Errno::NOTEMPTY));
        }
        // What has been moved up.
        rustix::fs::seek(&top.dir, SeekFrom::Start(0))
            .map_err(|source| fault("list", name, source))?;
    }
}

struct Top {
    dir: OwnedFd,
    /// Makes the names of directories moved up unique.
    moved: u64,
    removed: u64,
}

impl Top {
    /// Removes every entry once, moving grandchildren up; false when nothing was there.
    fn sweep(&mut self) -> Result<bool, RemoveTreeError> {
        let entries = entries(self.dir.as_fd())?;
        for entry in &entries {
            match remove_file(self.dir.as_fd(), entry)? {
                Some(removed) => self.removed += removed,
                None => self.remove_directory(&entry.name)?,
            }
        }
        Ok(!entries.is_empty())
    }

    fn remove_directory(&mut self, name: &CStr) -> Result<(), RemoveTreeError> {
        // Many are empty: what was mounted over, and what overlayfs works in.
        if !remove_if_empty(self.dir.as_fd(), name)? {
            let dir = open_dir(self.dir.as_fd(), name)?;
            for entry in entries(dir.as_fd())? {
                match remove_file(dir.as_fd(), &entry)? {
                    Some(removed) => self.removed += removed,
                    None => self.lift(dir.as_fd(), &entry.name)?,
                }
            }
            unlink(self.dir.as_fd(), name, AtFlags::REMOVEDIR)
                .map_err(|source| fault("remove", name, source))?;
        }
        self.removed += 1;
        Ok(())
    }

    /// Removes a directory if it is empty, else moves it up.
    fn lift(&mut self, dir: BorrowedFd<'_>, child: &CStr) -> Result<(), RemoveTreeError> {
        if remove_if_empty(dir, child)? {
            self.removed += 1;
            return Ok(());
        }
        loop {
            self.moved += 1;
            let lifted = format!(".knarr-removed-{}", self.moved);
            let to = self.dir.as_fd();
            let attempt = || {
                rustix::fs::renameat_with(dir, child, to, lifted.as_str(), RenameFlags::NOREPLACE)
            };
            match attempt().or_else(|errno| retry_unprotected(errno, dir, child, attempt)) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(source) => return Err(fault("move", child, source)),
            }
        }
    }
}

/// Says whether the directory is gone; not if something is in it.
fn remove_if_empty(dir: BorrowedFd<'_>, name: &CStr) -> Result<bool, RemoveTreeError> {
    match unlink(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(source) => Err(fault("remove", name, source)),
    }
}

/// Says how many names went; `None` for a directory, which stays.
fn remove_file(dir: BorrowedFd<'_>, entry: &Entry) -> Result<Option<u64>, RemoveTreeError> {
    if entry.is_directory {
        return Ok(None);
    }
    match unlink(dir, &entry.name, AtFlags::empty()) {
        Ok(()) => Ok(Some(1)),
        Err(Errno::NOENT) => Ok(Some(0)),
        // Not every file system tells in its lists what is one.
        Err(Errno::ISDIR) => Ok(None),
        Err(source) => Err(fault("unlink", &entry.name, source)),
    }
}

fn unlink(dir: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<(), Errno> {
    let attempt = || rustix::fs::unlinkat(dir, name, flags);
    attempt().or_else(|errno| retry_unprotected(errno, dir, name, attempt))
}

/// A privileged container may have marked files immutable or append-only; that protects them from
/// us too until the mark is gone.
fn retry_unprotected(
    errno: Errno,
    dir: BorrowedFd<'_>,
    name: &CStr,
    attempt: impl Fn() -> Result<(), Errno>,
) -> Result<(), Errno> {
    if errno != Errno::PERM {
        return Err(errno);
    }
    unprotect(dir)?;
    // Only what may be opened without side effects can carry the mark.
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    if kind.is_file() || kind.is_dir() {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        unprotect(rustix::fs::openat(dir, name, flags, Mode::empty())?.as_fd())?;
    }
    attempt()
}

fn unprotect(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let marks = IFlags::IMMUTABLE | IFlags::APPEND;
    match rustix::fs::ioctl_getflags(fd) {
        Ok(flags) if flags.intersects(marks) => rustix::fs::ioctl_setflags(fd, flags - marks),
        Ok(_) | Err(Errno::NOTTY | Errno::NOTSUP) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn open_dir(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, RemoveTreeError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
        .map_err(|source| fault("open", name, source))
}

struct Entry {
    name: CString,
    is_directory: bool,
}

/// All of them first: some are moved into directories that are being read.
fn entries(dir: BorrowedFd<'_>) -> Result<Vec<Entry>, RemoveTreeError> {
    const AT_ONCE: usize = 8 << 10;
    let mut buffer = [MaybeUninit::uninit(); AT_ONCE];
    let mut listed = RawDir::new(dir, &mut buffer);
    let mut entries = Vec::new();
    while let Some(entry) = listed.next() {
        let entry = entry.map_err(|source| fault("list", c".", source))?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            let is_directory = entry.file_type() == FileType::Directory;
            entries.push(Entry { name: entry.file_name().to_owned(), is_directory });
        }
    }
    Ok(entries)
}

fn fault(action: &'static str, name: &CStr, source: Errno) -> RemoveTreeError {
    RemoveTreeError { action, name: crate::error::printable(name.to_bytes()), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn open(path: &std::path::Path) -> OwnedFd {
        fs::File::open(path).unwrap().into()
    }

    #[test]
    fn a_tree_deeper_than_any_path_goes_without_recursion() {
        let scratch = tempfile::tempdir().unwrap();
        let root = open(scratch.path());
        rustix::fs::mkdirat(&root, "deep", Mode::RWXU).unwrap();
        let mut dir = open(&scratch.path().join("deep"));
        for _ in 0..6000 {
            rustix::fs::mkdirat(&dir, "a", Mode::RWXU).unwrap();
            dir = rustix::fs::openat(&dir, "a", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        assert_eq!(remove_tree(root.as_fd(), c"deep").unwrap(), 6001);
        assert!(!scratch.path().join("deep").exists());
    }

    #[test]
    fn what_does_not_exist_is_removed_already() {
        let scratch = tempfile::tempdir().unwrap();
        assert_eq!(remove_tree(open(scratch.path()).as_fd(), c"nothing").unwrap(), 0);
    }

    #[test]
    fn links_out_of_the_tree_are_removed_not_followed() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir_all(scratch.path().join("keep/inner")).unwrap();
        fs::create_dir_all(scratch.path().join("gone/b/c")).unwrap();
        fs::write(scratch.path().join("gone/b/c/f"), "x").unwrap();
        fs::write(scratch.path().join("gone/.knarr-removed-1"), "x").unwrap();
        std::os::unix::fs::symlink("../../keep", scratch.path().join("gone/b/link")).unwrap();
        remove_tree(open(scratch.path()).as_fd(), c"gone").unwrap();
        assert!(scratch.path().join("keep/inner").exists());
        assert!(!scratch.path().join("gone").exists());
    }

    #[test]
    fn immutable_files_do_not_stop_it() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir_all(scratch.path().join("gone/b")).unwrap();
        fs::write(scratch.path().join("gone/b/f"), "x").unwrap();
        for path in ["gone/b/f", "gone/b"] {
            let fd = open(&scratch.path().join(path));
            let marked = rustix::fs::ioctl_getflags(&fd)
                .and_then(|flags| rustix::fs::ioctl_setflags(&fd, flags | IFlags::IMMUTABLE));
            if let Err(errno) = marked {
                eprintln!("skipped: this filesystem or user cannot mark files immutable: {errno}");
                return;
            }
        }
        remove_tree(open(scratch.path()).as_fd(), c"gone").unwrap();
        assert!(!scratch.path().join("gone").exists());
    }
}
