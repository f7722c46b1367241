//! Owner, mode, xattrs and times of what an entry made.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, fchmod, fchown, fsetxattr,
};
use rustix::io::Errno;

use crate::entry::{Attrs, Entry};
use crate::error::printable;
use crate::{Rights, UnpackError};

/// For an open file or directory; a directory's mtime is [`crate::dirs`]'s to set.
pub(crate) fn set_on_open(
    fd: BorrowedFd<'_>,
    entry: &Entry,
    rights: Rights,
) -> Result<XattrsSet, UnpackError> {
    let Attrs { mode, .. } = entry.attrs;
    let fault = |action| move |source| syscall(entry, action, source);
    // Most files are root's, as they were made: a look is cheaper than a change of the inode.
    let now = rustix::fs::fstat(fd).map_err(fault("look at"))?;
    // In this order: a change of owner clears setuid, setgid and security.capability.
    let (uid, gid) = owner(entry, rights);
    let owned = uid.is_none_or(|uid| uid.as_raw() == now.st_uid)
        && gid.is_none_or(|gid| gid.as_raw() == now.st_gid);
    if !owned {
        fchown(fd, uid, gid).map_err(fault("set the owner of"))?;
    }
    let mode = Mode::from_raw_mode(mode);
    if !owned || Mode::from_raw_mode(now.st_mode) != mode {
        fchmod(fd, mode).map_err(fault("set the mode of"))?;
    }
    set_xattrs(entry, true, rights, |key, value| fsetxattr(fd, key, value, XattrFlags::empty()))
}

pub(crate) fn set_mtime(fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), UnpackError> {
    rustix::fs::futimens(fd, &times(entry.attrs.mtime))
        .map_err(|source| syscall(entry, "set the mtime of", source))
}

/// For what cannot be opened without side effects: links, devices, fifos.
pub(crate) fn set_on_name(
    dir: BorrowedFd<'_>,
    name: &[u8],
    entry: &Entry,
    (has_mode, rights): (bool, Rights),
) -> Result<XattrsSet, UnpackError> {
    let fault = |action| move |source| syscall(entry, action, source);
    let (uid, gid) = owner(entry, rights);
    rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(fault("set the owner of"))?;
    if has_mode {
        // The kernel has no fchmodat without following before 6.6; the name is new and no link.
        let mode = Mode::from_raw_mode(entry.attrs.mode);
        rustix::fs::chmodat(dir, name, mode, AtFlags::empty()).map_err(fault("set the mode of"))?;
    }
    let set = if entry.attrs.xattrs.is_empty() {
        XattrsSet::default()
    } else {
        // Neither has lsetxattr a variant relative to a descriptor before 6.13.
        let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        set_xattrs(entry, false, rights, |key, value| {
            rustix::fs::lsetxattr(&*path, key, value, XattrFlags::empty())
        })?
    };
    rustix::fs::utimensat(dir, name, &times(entry.attrs.mtime), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(fault("set the mtime of"))?;
    Ok(set)
}

/// Creation flags of a regular file: never through a link, never an existing one.
pub(crate) const NEW_FILE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What a regular file or a directory is made with: what its entry says, less what a change of
/// owner takes away.
pub(crate) fn first_mode(entry: &Entry) -> Mode {
    Mode::from_raw_mode(entry.attrs.mode) & (Mode::RWXU | Mode::RWXG | Mode::RWXO)
}

fn owner(entry: &Entry, rights: Rights) -> (Option<Uid>, Option<Gid>) {
    if !rights.keep_owners() {
        return (None, None);
    }
    (Some(Uid::from_raw(entry.attrs.uid)), Some(Gid::from_raw(entry.attrs.gid)))
}

fn times(mtime: Timespec) -> Timestamps {
    Timestamps { last_access: mtime, last_modification: mtime }
}

#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// Set it or fail.
    Required,
    /// Set it if the filesystem can.
    Optional,
    Dropped,
}

/// See the crate documentation. `holds_data`: a regular file or directory.
fn fate(key: &[u8], holds_data: bool) -> Fate {
    let is = |prefix: &str| key.starts_with(prefix.as_bytes());
    if is("trusted.overlay.") || is("user.overlay.") {
        Fate::Dropped
    } else if key == b"security.capability" || is("trusted.") || is("system.") {
        Fate::Required
    } else if is("user.") && holds_data {
        Fate::Optional
    } else {
        Fate::Dropped
    }
}

/// What became of an entry's xattrs.
#[derive(Debug, Default)]
pub(crate) struct XattrsSet {
    /// Places in the entry's list of those that were set.
    pub(crate) set: Vec<usize>,
    pub(crate) dropped: u64,
}

fn set_xattrs(
    entry: &Entry,
    holds_data: bool,
    rights: Rights,
    set: impl Fn(&[u8], &[u8]) -> Result<(), Errno>,
) -> Result<XattrsSet, UnpackError> {
    let mut done = XattrsSet::default();
    for (place, (key, value)) in entry.attrs.xattrs.iter().enumerate() {
        let fate = fate(key, holds_data);
        if fate == Fate::Dropped {
            done.dropped += 1;
            continue;
        }
        match set(key, value) {
            Ok(()) => done.set.push(place),
            Err(Errno::PERM | Errno::NOTSUP | Errno::INVAL) if !rights.are_roots() => {
                done.dropped += 1;
            }
            Err(Errno::NOTSUP) if fate == Fate::Optional => done.dropped += 1,
            Err(source) => {
                let (name, xattr) = (entry.name.clone(), printable(key));
                return Err(UnpackError::Xattr { name, xattr, source });
            }
        }
    }
    Ok(done)
}

pub(crate) fn syscall(entry: &Entry, action: &'static str, source: Errno) -> UnpackError {
    UnpackError::Syscall { name: entry.name.clone(), action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_sets_only_what_is_an_images_to_set() {
        for (key, on_file, on_link) in [
            ("security.capability", Fate::Required, Fate::Required),
            ("security.selinux", Fate::Dropped, Fate::Dropped),
            ("security.ima", Fate::Dropped, Fate::Dropped),
            ("trusted.overlay.opaque", Fate::Dropped, Fate::Dropped),
            ("trusted.overlay.redirect", Fate::Dropped, Fate::Dropped),
            ("user.overlay.whiteout", Fate::Dropped, Fate::Dropped),
            ("trusted.x", Fate::Required, Fate::Required),
            ("user.x", Fate::Optional, Fate::Dropped),
            ("user.overlayed", Fate::Optional, Fate::Dropped),
            ("system.posix_acl_access", Fate::Required, Fate::Required),
            ("com.apple.provenance", Fate::Dropped, Fate::Dropped),
        ] {
            assert_eq!(fate(key.as_bytes(), true), on_file, "{key}");
            assert_eq!(fate(key.as_bytes(), false), on_link, "{key}");
        }
    }
}
