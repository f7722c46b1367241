//! Copying a directory tree as it is: what a mount over an image's directory begins with.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RawDir, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

/// How deep directories may nest; paths of the kernel's own limit fit.
const MAX_DEPTH: u32 = 2048;

/// Copies everything below `from` into the empty directory `to`, and gives `to` the mode and owner
/// of `from`. Every step is relative to an open directory and follows no symlink. Blocks.
///
/// # Errors
/// The first of the file systems'; what was copied by then stays.
pub fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let to = open_dir(to, c".")?;
    copy_directory(&open_dir(from, c".")?, &to, 0)
}

fn open_dir(at: impl AsFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

fn copy_directory(from: &OwnedFd, to: &OwnedFd, depth: u32) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::from_raw_os_error(libc::ELOOP));
    }
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(from, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(from, to, name, depth)?;
        }
    }
    let stat = rustix::fs::fstat(from)?;
    let (uid, gid) = owner(&stat);
    rustix::fs::fchown(to, Some(uid), Some(gid))?;
    rustix::fs::fchmod(to, mode(&stat))?;
    copy_attributes(from, to)?;
    Ok(rustix::fs::futimens(to, &times(&stat))?)
}

fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &std::ffi::CStr, depth: u32) -> io::Result<()> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind.is_dir() {
        rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
        return copy_directory(&open_dir(from, name)?, &open_dir(to, name)?, depth + 1);
    }
    let (uid, gid) = owner(&stat);
    if kind.is_file() {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut source = File::from(rustix::fs::openat(from, name, flags, Mode::empty())?);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode_now = Mode::from_raw_mode(0o600);
        let mut target = File::from(rustix::fs::openat(to, name, flags, mode_now)?);
        io::copy(&mut source, &mut target)?;
        rustix::fs::fchown(&target, Some(uid), Some(gid))?;
        rustix::fs::fchmod(&target, mode(&stat))?;
        copy_attributes(&source, &target)?;
        return Ok(rustix::fs::futimens(&target, &times(&stat))?);
    }
    if kind.is_symlink() {
        let target = rustix::fs::readlinkat(from, name, Vec::new())?;
        rustix::fs::symlinkat(target.as_c_str(), to, name)?;
    } else if kind.is_socket() {
        // A socket without its listener is nothing.
        return Ok(());
    } else {
        rustix::fs::mknodat(to, name, kind, mode(&stat), stat.st_rdev)?;
    }
    rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(rustix::fs::utimensat(to, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// The longest list and the longest value the kernel has.
const XATTR_MAX: usize = 65_536;

/// Capabilities of programs, access control lists, what users have put there. Not what is about the
/// place and not the file: labels of SELinux, marks of overlayfs. Where the target's file system
/// has no such attributes they are lost, as with any copy.
fn copy_attributes(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let mut list = Vec::with_capacity(XATTR_MAX);
    match rustix::fs::flistxattr(&from, spare_capacity(&mut list)) {
        Ok(_) => {}
        Err(Errno::NOTSUP) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    }
    for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name == b"security.selinux" || name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let mut value = Vec::with_capacity(XATTR_MAX);
        match rustix::fs::fgetxattr(&from, name, spare_capacity(&mut value)) {
            Ok(_) => {}
            // Taken away meanwhile, or not for everybody to see.
            Err(Errno::NODATA | Errno::NOTSUP) => continue,
            Err(errno) => return Err(errno.into()),
        }
        match rustix::fs::fsetxattr(&to, name, &value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn owner(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds: i64, nanos: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanos).unwrap_or_default(),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_tree_is_copied_with_modes_and_links() {
        let from = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        fs::create_dir(from.path().join("d")).unwrap();
        fs::write(from.path().join("d/f"), "text").unwrap();
        fs::set_permissions(from.path().join("d/f"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("/etc/shadow", from.path().join("l")).unwrap();
        let attribute = |dir: &std::path::Path| {
            let mut value = Vec::with_capacity(16);
            let path = dir.join("d/f");
            rustix::fs::getxattr(path, "user.note", spare_capacity(&mut value)).map(|_| value)
        };
        let set = rustix::fs::setxattr(
            from.path().join("d/f"),
            "user.note",
            b"kept",
            XattrFlags::empty(),
        );
        fs::set_permissions(from.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let open = |path| crate::fs::open_dir(path).unwrap();
        copy_tree(open(from.path()).as_fd(), open(to.path()).as_fd()).unwrap();
        assert_eq!(fs::read_to_string(to.path().join("d/f")).unwrap(), "text");
        if set.is_ok() {
            assert_eq!(attribute(to.path()).unwrap(), b"kept");
        }
        let mode =
            |path: &std::path::Path| fs::symlink_metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&to.path().join("d/f")) & 0o7777, 0o640);
        assert_eq!(mode(to.path()) & 0o7777, 0o711);
        assert_eq!(fs::read_link(to.path().join("l")).unwrap().to_str(), Some("/etc/shadow"));
    }
}
