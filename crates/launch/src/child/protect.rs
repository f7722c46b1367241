//! Masked and read-only paths. Both are looked up in the new root; what is not there needs no
//! protection.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sys::mount::{ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, Change, FsContext};

fn find(root: BorrowedFd<'_>, path: &str) -> io::Result<Option<OwnedFd>> {
    match sys::fs::find_in_root(root, path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Binds a path onto itself, read-only with everything below it.
pub(super) fn make_read_only(root: BorrowedFd<'_>, path: &str) -> io::Result<()> {
    let Some(target) = find(root, path)? else { return Ok(()) };
    let copy = sys::mount::clone_tree(&target, c"", true)?;
    sys::mount::change(&copy, true, Change { set: ATTR_RDONLY, ..Change::default() })?;
    sys::mount::attach(copy.as_fd(), target.as_fd())
}

/// What masks are made of: one mount of each kind, copied for every further path.
#[derive(Debug)]
pub(super) struct Masks<'a> {
    /// The host's `/dev/null`, detached.
    null: Option<&'a OwnedFd>,
    null_used: bool,
    empty: Option<OwnedFd>,
    /// SELinux label of the container's files.
    label: Option<&'a str>,
}

impl<'a> Masks<'a> {
    pub(super) fn new(null: Option<&'a OwnedFd>, label: Option<&'a str>) -> Self {
        Self { null, null_used: false, empty: None, label }
    }

    /// Hides a file behind `/dev/null`, a directory behind an empty read-only tmpfs.
    pub(super) fn mask(&mut self, root: BorrowedFd<'_>, path: &str) -> io::Result<()> {
        let Some(target) = find(root, path)? else { return Ok(()) };
        if sys::fs::is_dir(target.as_fd())? {
            self.mask_directory(target.as_fd())
        } else {
            self.mask_file(target.as_fd())
        }
    }

    fn mask_file(&mut self, target: BorrowedFd<'_>) -> io::Result<()> {
        let null = self.null.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        // A detached mount of another namespace cannot be copied, but once attached it can.
        if self.null_used {
            let copy = sys::mount::clone_tree(null, c"", false)?;
            return sys::mount::attach(copy.as_fd(), target);
        }
        self.null_used = true;
        sys::mount::attach(null.as_fd(), target)
    }

    fn mask_directory(&mut self, target: BorrowedFd<'_>) -> io::Result<()> {
        if let Some(empty) = &self.empty {
            let copy = sys::mount::clone_tree(empty, c"", false)?;
            return sys::mount::attach(copy.as_fd(), target);
        }
        let context = FsContext::open("tmpfs")?;
        context.set("mode", "755")?;
        context.label(self.label)?;
        let empty = context.mount(ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC)?;
        sys::mount::attach(empty.as_fd(), target)?;
        self.empty = Some(empty);
        Ok(())
    }
}
