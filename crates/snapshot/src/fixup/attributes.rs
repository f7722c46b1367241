//! Owner, mode, times and xattrs of a directory, taken from one tree and given to another.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, i64),
    /// Sorted; without the overlay's own.
    xattrs: Xattrs,
}

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

impl Attributes {
    pub(super) fn of(dir: BorrowedFd<'_>) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(dir)?;
        Ok(Self::new(&stat, xattrs(dir)?))
    }

    fn new(stat: &Stat, xattrs: Xattrs) -> Self {
        let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or_default();
        Self {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (stat.st_mtime, nanoseconds),
            xattrs,
        }
    }

    /// All but the mtime, which the next name made in the directory changes.
    pub(super) fn give(&self, dir: BorrowedFd<'_>) -> Result<(), Errno> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        rustix::fs::fchown(dir, Some(uid), Some(gid))?;
        rustix::fs::fchmod(dir, Mode::from_raw_mode(self.mode))?;
        self.xattrs.iter().try_for_each(|(key, value)| {
            rustix::fs::fsetxattr(dir, key.as_slice(), value, XattrFlags::empty())
        })
    }

    pub(super) fn give_mtime(&self, dir: BorrowedFd<'_>) -> Result<(), Errno> {
        let time = Timespec { tv_sec: self.mtime.0, tv_nsec: self.mtime.1 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::futimens(dir, &times)
    }
}

fn xattrs(dir: BorrowedFd<'_>) -> Result<Xattrs, Errno> {
    let mut names = vec![0; 64 * 1024];
    let length = match rustix::fs::flistxattr(dir, &mut names) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(errno) => return Err(errno),
    };
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| is_the_images(name)) {
        let mut value = vec![0; 64 * 1024];
        let length = rustix::fs::fgetxattr(dir, name, &mut value)?;
        value.truncate(length);
        found.push((name.to_vec(), value));
    }
    found.sort();
    Ok(found)
}

/// Labels of the host and markers of the overlay are made anew where they belong.
fn is_the_images(name: &[u8]) -> bool {
    let is = |prefix: &str| name.starts_with(prefix.as_bytes());
    let of_image = is("user.") || is("trusted.") || is("system.") || name == b"security.capability";
    of_image && !is("trusted.overlay.") && !is("user.overlay.")
}

/// Owner and mtime of what is no directory and was just made as `name`.
pub(super) fn give_to_link(stat: &Stat, dir: BorrowedFd<'_>, name: &CString) -> Result<(), Errno> {
    use rustix::fs::AtFlags;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or_default();
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// The path by which the kernel knows an open file.
pub(super) fn path_of(fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(rustix::fs::readlink(link, Vec::new())?.into_bytes())
}
