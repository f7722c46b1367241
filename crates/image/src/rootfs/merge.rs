//! One unpacked layer onto a tree of those below it, as overlayfs would show both. What the layer has
//! is moved. The tree is an image's, and so full of links that lead anywhere: they are followed only
//! where the image means it, and only inside.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use layer::Rights;
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{name}`")]
pub struct MergeError {
    /// What was to be done.
    pub action: &'static str,
    /// In the image.
    pub name: String,
    /// Why not.
    pub source: Errno,
}

/// Merges the directory `from`, a layer, into the directory `to`. `implied` are the layer's
/// directories that it does not name itself: below it they are as the tree has them.
pub(super) fn merge(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    implied: Vec<Vec<u8>>,
    rights: Rights,
) -> Result<(), MergeError> {
    let merger = Merger { root: to, implied: implied.into_iter().collect(), rights };
    merger.directory(from, to, &[], merger.implied.contains(&Vec::new()))
}

struct Merger<'r> {
    root: BorrowedFd<'r>,
    implied: HashSet<Vec<u8>>,
    rights: Rights,
}

impl Merger<'_> {
    /// Everything in one directory, then its own attributes unless it keeps those it has.
    fn directory(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        path: &[u8],
        keeps: bool,
    ) -> Result<(), MergeError> {
        let look = |dir: BorrowedFd<'_>| {
            rustix::fs::fstat(dir).map_err(|errno| failed("look at", path, errno))
        };
        // Before anything is moved out of one and into the other.
        let (of_layer, before) = (look(from)?, look(to)?);
        for name in names(from).map_err(|errno| failed("list", path, errno))? {
            let mut below = path.to_vec();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(name.to_bytes());
            self.entry(from, to, &name, &below)?;
        }
        if keeps {
            return set_times(to, &before).map_err(|errno| failed("set the times of", path, errno));
        }
        self.copy_attributes(from, to, &of_layer)
            .map_err(|errno| failed("set the attributes of", path, errno))
    }

    fn entry(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CString,
        path: &[u8],
    ) -> Result<(), MergeError> {
        let fail = |action| move |errno| failed(action, path, errno);
        let new = look(from, name).map_err(fail("look at"))?;
        let Some(new) = new else { return Ok(()) };
        let old = look(to, name).map_err(fail("look at"))?;
        if is_whiteout(&new) {
            return self.remove(to, name, path, old.as_ref());
        }
        if !is_directory(&new) {
            if old.as_ref().is_some_and(is_directory) {
                self.remove(to, name, path, old.as_ref())?;
            }
            return rustix::fs::renameat(from, name, to, name).map_err(fail("move"));
        }
        let new_dir = open(from, name).map_err(fail("open"))?;
        let implied = self.implied.contains(path);
        if self.is_opaque(&new_dir) {
            self.remove(to, name, path, old.as_ref())?;
        } else {
            match &old {
                Some(old) if is_directory(old) => {
                    let old_dir = open(to, name).map_err(fail("open"))?;
                    return self.directory(new_dir.as_fd(), old_dir.as_fd(), path, implied);
                }
                Some(old) if is_link(old) && implied => {
                    if let Some(led_to) = self.follow(path).map_err(fail("follow"))? {
                        return self.directory(new_dir.as_fd(), led_to.as_fd(), path, true);
                    }
                    self.remove(to, name, path, Some(old))?;
                }
                Some(_) => self.remove(to, name, path, old.as_ref())?,
                None => {}
            }
        }
        rustix::fs::mkdirat(to, name, Mode::RWXU).map_err(fail("make"))?;
        let made = open(to, name).map_err(fail("open"))?;
        self.directory(new_dir.as_fd(), made.as_fd(), path, false)
    }

    /// Where a link of the tree leads, if that is a directory of the tree.
    fn follow(&self, path: &[u8]) -> Result<Option<OwnedFd>, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(self.root, path, flags, Mode::empty(), resolve) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn remove(
        &self,
        dir: BorrowedFd<'_>,
        name: &CString,
        path: &[u8],
        old: Option<&Stat>,
    ) -> Result<(), MergeError> {
        if old.is_none() {
            return Ok(());
        }
        let removed = layer::remove_tree(dir, name);
        removed.map(drop).map_err(|error| failed("remove", path, error.source))
    }

    fn is_opaque(&self, dir: &OwnedFd) -> bool {
        let mut value = [0; 2];
        let read = rustix::fs::fgetxattr(dir, self.rights.opaque_xattr(), &mut value);
        read == Ok(1) && value[0] == b'y'
    }

    /// Owner, mode, times and xattrs of a directory, but for the marks of overlayfs.
    fn copy_attributes(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        stat: &Stat,
    ) -> Result<(), Errno> {
        if self.rights.keep_owners() {
            let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            rustix::fs::fchown(to, Some(owner.0), Some(owner.1))?;
        }
        rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
        let keys = xattrs(from)?;
        for key in xattrs(to)?.iter().filter(|key| !keys.contains(key)) {
            rustix::fs::fremovexattr(to, key.as_c_str())?;
        }
        for key in keys {
            let length = rustix::fs::fgetxattr(from, key.as_c_str(), &mut [0_u8; 0])?;
            let mut value = vec![0; length];
            let length = rustix::fs::fgetxattr(from, key.as_c_str(), &mut value[..])?;
            let flags = XattrFlags::empty();
            rustix::fs::fsetxattr(to, key.as_c_str(), &value[..length], flags)?;
        }
        set_times(to, stat)
    }
}

/// Those that are an image's to have.
fn xattrs(dir: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let length = match rustix::fs::flistxattr(dir, &mut [0_u8; 0]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    };
    let mut list = vec![0_u8; length];
    let length = rustix::fs::flistxattr(dir, &mut list[..])?;
    let marks = [&b"trusted.overlay."[..], b"user.overlay.", b"security.selinux"];
    let keys = list[..length].split(|byte| *byte == 0).filter(|key| !key.is_empty());
    let own = keys.filter(|key| !marks.iter().any(|mark| key.starts_with(mark)));
    Ok(own.filter_map(|key| CString::new(key).ok()).collect())
}

fn set_times(dir: BorrowedFd<'_>, stat: &Stat) -> Result<(), Errno> {
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    rustix::fs::futimens(dir, &times)
}

fn names(dir: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

fn look(dir: BorrowedFd<'_>, name: &CString) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(dir, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn open(dir: BorrowedFd<'_>, name: &CString) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name.as_c_str(), flags, Mode::empty())
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn is_link(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
}

/// Overlayfs's: a character device 0:0.
fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn failed(action: &'static str, path: &[u8], source: Errno) -> MergeError {
    MergeError { action, name: format!("/{}", String::from_utf8_lossy(path)), source }
}
