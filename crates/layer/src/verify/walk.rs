//! Walking a tree beside its list. Nothing is followed, nothing but regular files is opened.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::expected::{Attrs, Expected, Kind, Thing};
use super::{Difference, Verified, VerifyError};
use crate::dirs::{OPAQUE_XATTR, is_whiteout, stat_in};
use crate::sum::{Sum, SumHasher};

const READ_BYTES: usize = 256 * 1024;
/// The kernel's own limit.
const XATTR_NAMES_MAX: usize = 64 * 1024;

pub(super) fn compare(root: BorrowedFd<'_>, expected: &Expected) -> Result<Verified, VerifyError> {
    let mut walk = Walk {
        root,
        expected,
        seen: BTreeSet::new(),
        found: Verified::default(),
        buffer: vec![0; READ_BYTES],
    };
    walk.directory(b"").map_err(|source| VerifyError::Root { source })?;
    let mut todo = walk.children(b"");
    while let Some(path) = todo.pop() {
        walk.found.checked += 1;
        if walk.thing(&path) {
            todo.extend(walk.children(&path));
        }
    }
    for path in expected.keys().filter(|path| !walk.seen.contains(*path)) {
        walk.found.add(path, Difference::Missing);
    }
    Ok(walk.found)
}

struct Walk<'a> {
    root: BorrowedFd<'a>,
    expected: &'a Expected,
    seen: BTreeSet<Vec<u8>>,
    found: Verified,
    buffer: Vec<u8>,
}

impl Walk<'_> {
    /// Compares the root, which has no parent to look at it from.
    fn directory(&mut self, path: &[u8]) -> Result<(), Errno> {
        let dir = self.open(path, OFlags::DIRECTORY)?;
        let stat = rustix::fs::fstat(&dir)?;
        self.seen.insert(path.to_vec());
        self.found.checked += 1;
        if let Some(thing) = self.expected.get(path)
            && let Err(difference) = self.same(thing, &stat, dir.as_fd(), b".", path)
        {
            self.found.add(path, difference);
        }
        Ok(())
    }

    /// Compares one name; true for a directory that is to be looked into.
    fn thing(&mut self, path: &[u8]) -> bool {
        let at = path.iter().rposition(|byte| *byte == b'/');
        let (above, name) = at.map_or((&[][..], path), |at| (&path[..at], &path[at + 1..]));
        let looked = self
            .open(above, OFlags::DIRECTORY)
            .and_then(|dir| stat_in(dir.as_fd(), name).map(|stat| (dir, stat)));
        let (dir, stat) = match looked {
            Ok(looked) => looked,
            Err(_) => {
                self.seen.insert(path.to_vec());
                self.found.add(path, Difference::Unreadable);
                return false;
            }
        };
        self.seen.insert(path.to_vec());
        let Some(thing) = self.expected.get(path) else {
            self.found.add(path, Difference::Extra);
            return false;
        };
        if let Err(difference) = self.same(thing, &stat, dir.as_fd(), name, path) {
            self.found.add(path, difference);
        }
        FileType::from_raw_mode(stat.st_mode).is_dir()
    }

    fn children(&mut self, path: &[u8]) -> Vec<Vec<u8>> {
        let listed = self.open(path, OFlags::DIRECTORY).and_then(|dir| {
            let mut names = Vec::new();
            for entry in Dir::read_from(dir)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if !matches!(name, b"." | b"..") {
                    let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
                    names.push([path, slash, name].concat());
                }
            }
            Ok(names)
        });
        listed.unwrap_or_else(|_| {
            self.found.add(path, Difference::Unreadable);
            Vec::new()
        })
    }

    fn open(&self, path: &[u8], more: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::RDONLY
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOATIME
            | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        rustix::fs::openat2(self.root, path, flags | more, Mode::empty(), resolve)
    }

    fn same(
        &mut self,
        thing: &Thing,
        stat: &Stat,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), Difference> {
        if !of_kind(&thing.kind, stat) {
            return Err(Difference::Kind);
        }
        if let Some(attrs) = &thing.attrs {
            same_attrs(&thing.kind, attrs, stat)?;
        }
        self.same_xattrs(thing, dir, name)?;
        match &thing.kind {
            Kind::Symlink(target) => {
                let found = rustix::fs::readlinkat(dir, name, Vec::new());
                let found = found.map_err(|_| Difference::Unreadable)?;
                if found.as_bytes() == &**target { Ok(()) } else { Err(Difference::Target) }
            }
            Kind::File { size, sum, pieces } => {
                if u64::try_from(stat.st_size) != Ok(*size) {
                    return Err(Difference::Size);
                }
                let found = self.sum(path, pieces.as_deref(), sum.hasher());
                let found = found.map_err(|_| Difference::Unreadable)?;
                if found == *sum { Ok(()) } else { Err(Difference::Content) }
            }
            Kind::Directory | Kind::Char(..) | Kind::Block(..) | Kind::Fifo | Kind::Whiteout => {
                Ok(())
            }
        }
    }

    fn sum(
        &mut self,
        path: &[u8],
        pieces: Option<&[(u64, u64)]>,
        mut hash: SumHasher,
    ) -> io::Result<Sum> {
        let mut file = File::from(self.open(path, OFlags::empty())?);
        for (offset, length) in pieces.unwrap_or(&[(0, u64::MAX)]) {
            if *offset > 0 {
                file.seek(SeekFrom::Start(*offset))?;
            }
            let mut piece = file.by_ref().take(*length);
            loop {
                let read = match piece.read(&mut self.buffer) {
                    Ok(0) => break,
                    Ok(read) => read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
                hash.update(&self.buffer[..read]);
                self.found.bytes += read as u64;
            }
        }
        Ok(hash.finish())
    }

    /// All that were set are there, and none that would change what the kernel does.
    fn same_xattrs(
        &self,
        thing: &Thing,
        dir: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<(), Difference> {
        let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        let names = match list(&path) {
            Ok(names) => names,
            Err(Errno::NOTSUP) => Vec::new(),
            Err(_) => return Err(Difference::Unreadable),
        };
        let wanted = thing.attrs.as_ref().map_or(&[][..], |attrs| &attrs.xattrs[..]);
        let of = |key: &[u8]| wanted.iter().rev().find(|(name, _)| name == key);
        for found in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let of_overlay = found.starts_with(b"trusted.overlay.");
            if of(found).is_none() && matters(found) && !of_overlay {
                return Err(Difference::Xattrs);
            }
        }
        let has = |key: &[u8], value: &[u8]| {
            let mut buffer = vec![0; value.len() + 1];
            rustix::fs::lgetxattr(&*path, key, &mut buffer)
                .is_ok_and(|length| &buffer[..length] == value)
        };
        let all = wanted.iter().all(|(key, _)| of(key).is_some_and(|(_, value)| has(key, value)));
        // Asked for by name: an overlay below us lists none of these.
        if all && thing.opaque == has(OPAQUE_XATTR.as_bytes(), b"y") {
            Ok(())
        } else {
            Err(Difference::Xattrs)
        }
    }
}

/// What the host adds by itself (labels, default ACLs) is none of the image's business.
fn matters(key: &[u8]) -> bool {
    key.starts_with(b"trusted.") || key.starts_with(b"user.") || key == b"security.capability"
}

fn list(path: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut names = vec![0; XATTR_NAMES_MAX];
    let length = rustix::fs::llistxattr(path, &mut names[..])?;
    names.truncate(length);
    Ok(names)
}

fn of_kind(kind: &Kind, stat: &Stat) -> bool {
    let found = FileType::from_raw_mode(stat.st_mode);
    let device = |major, minor| stat.st_rdev == rustix::fs::makedev(major, minor);
    match kind {
        Kind::Directory => found.is_dir(),
        Kind::File { .. } => found.is_file(),
        Kind::Symlink(_) => found.is_symlink(),
        Kind::Char(major, minor) => found.is_char_device() && device(*major, *minor),
        Kind::Block(major, minor) => found.is_block_device() && device(*major, *minor),
        Kind::Fifo => found.is_fifo(),
        Kind::Whiteout => is_whiteout(stat),
    }
}

fn same_attrs(kind: &Kind, attrs: &Attrs, stat: &Stat) -> Result<(), Difference> {
    if (stat.st_uid, stat.st_gid) != (attrs.uid, attrs.gid) {
        return Err(Difference::Owner);
    }
    if !matches!(kind, Kind::Symlink(_)) && stat.st_mode & 0o7777 != attrs.mode {
        return Err(Difference::Mode);
    }
    let (sec, nsec) = attrs.mtime;
    // Some filesystems store whole seconds, and none of them every year.
    let coarse = stat.st_mtime_nsec == 0 || i64::try_from(stat.st_mtime_nsec) == Ok(nsec);
    if i32::try_from(sec).is_ok() && (stat.st_mtime != sec || !coarse) {
        return Err(Difference::Mtime);
    }
    Ok(())
}
