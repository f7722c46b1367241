//! Entries become files. Every name is created, replaced or removed relative to a directory that
//! [`crate::dirs`] opened inside the root; the last component is never followed.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, Stat};
use rustix::io::Errno;

use crate::attrs::{self, XattrsSet, syscall};
use crate::dirs::{DirFault, Dirs, LayerDir, is_whiteout, stat_in};
use crate::entry::{Entry, Kind, Sparse, check};
use crate::error::printable;
use crate::inventory::{Ledger, Made, Written};
use crate::path::{LayerPath, Role};
use crate::remove::remove_tree;
use crate::sum::SumHasher;
use crate::tar::TarReader;
use crate::{LimitKind, Limits, Rights, UnpackError};

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    pub(crate) dropped_xattrs: u64,
    /// Content that was written is gone again: from the tree the tar cannot be had any more.
    pub(crate) replaced: bool,
}

pub(crate) struct Applier<'r> {
    dirs: Dirs<'r>,
    counts: Counts,
    removed: u64,
    /// How many directories may be made that no entry names.
    max_implied: u64,
}

const OWNER_ONLY: Mode = Mode::RUSR.union(Mode::WUSR);

/// So many bytes of one file go to the device in one piece. The device works on them while the
/// processor unpacks what follows, and whoever makes the layer durable has little left to wait for.
const WRITE_OUT_BYTES: u64 = 8 << 20;
/// A file, or the end of one, with less waits for the kernel, which writes many small ones at once.
const WRITE_OUT_LEAST: u64 = 256 << 10;

impl<'r> Applier<'r> {
    pub(crate) fn new(
        root: BorrowedFd<'r>,
        limits: &Limits,
        ledger: Ledger<'r>,
        rights: Rights,
    ) -> Self {
        // The root itself.
        let counts = Counts { inodes: 1, ..Counts::default() };
        Self {
            dirs: Dirs::new(root, ledger, rights),
            counts,
            removed: 0,
            max_implied: limits.entries,
        }
    }

    pub(crate) fn apply(
        &mut self,
        entry: &Entry,
        tar: &mut TarReader<'_>,
    ) -> Result<(), UnpackError> {
        // One long name can ask for two thousand directories.
        check(LimitKind::Entries, self.dirs.created(), self.max_implied, &entry.name)?;
        match entry.path.role() {
            None => Err(UnpackError::BadWhiteout { name: entry.name.clone() }),
            Some(Role::AufsLeftover) => Ok(()),
            Some(Role::Opaque(dir)) => self
                .dirs
                .ensure(&dir)
                .and_then(|_| self.dirs.make_opaque(&dir))
                .map_err(|fault| dir_fault(entry, fault)),
            Some(Role::Whiteout(path)) => self.whiteout(entry, &path),
            Some(Role::Plain) => self.plain(entry, tar),
        }
    }

    /// Puts the mtimes of all directories right and ends the inventory.
    pub(crate) fn finish(mut self) -> Result<(Counts, Written), UnpackError> {
        self.dirs.forget().map_err(|fault| unplaced("a directory".to_owned(), fault))?;
        let made = self.counts.inodes + self.dirs.created();
        let counts = Counts { inodes: made.saturating_sub(self.removed), ..self.counts };
        let written = self.dirs.ledger.finish();
        Ok((counts, written.map_err(|source| UnpackError::Inventory { source })?))
    }

    fn plain(&mut self, entry: &Entry, tar: &mut TarReader<'_>) -> Result<(), UnpackError> {
        if entry.path.is_root() && !matches!(entry.kind, Kind::Directory) {
            return Err(UnpackError::RootReplaced { name: entry.name.clone() });
        }
        match &entry.kind {
            Kind::Directory => self.directory(entry),
            Kind::File { holes, .. } => self.file(entry, holes.as_ref(), tar),
            Kind::Symlink(target) => {
                let made = Made::Symlink(target);
                self.named(entry, &made, |dir, name| rustix::fs::symlinkat(&**target, dir, name))
            }
            Kind::HardLink(target, raw) => self.hard_link(entry, target, raw),
            Kind::Char(major, minor) => {
                self.node(entry, FileType::CharacterDevice, rustix::fs::makedev(*major, *minor))
            }
            Kind::Block(major, minor) => {
                self.node(entry, FileType::BlockDevice, rustix::fs::makedev(*major, *minor))
            }
            Kind::Fifo => self.node(entry, FileType::Fifo, 0),
        }
    }

    fn file(
        &mut self,
        entry: &Entry,
        holes: Option<&Sparse>,
        tar: &mut TarReader<'_>,
    ) -> Result<(), UnpackError> {
        let (dir, file) = self.place(entry, "create", |dir, name| {
            rustix::fs::openat(dir, name, attrs::NEW_FILE, attrs::first_mode(entry))
        })?;
        let mut hash = self.dirs.ledger.hasher();
        let (_, name) = entry.path.split();
        tar.goes_to(&dir.real(name), holes.map(|sparse| &*sparse.pieces))?;
        match holes {
            None => self.write(entry, &file, 0, u64::MAX, tar, hash.as_mut())?,
            Some(sparse) => {
                rustix::fs::ftruncate(&file, sparse.size)
                    .map_err(|source| syscall(entry, "set the size of", source))?;
                for piece in &sparse.pieces {
                    self.write(entry, &file, piece.offset, piece.length, tar, hash.as_mut())?;
                }
            }
        }
        let xattrs = attrs::set_on_open(file.as_fd(), entry, self.dirs.rights)?;
        attrs::set_mtime(file.as_fd(), entry)?;
        self.counts.inodes += 1;
        let size = holes.map_or_else(|| entry.data(), |sparse| sparse.size);
        let pieces = holes.map(|sparse| &*sparse.pieces);
        let sum = hash.unwrap_or_default().finish();
        self.note(entry, &dir, &Made::File { size, sum, pieces }, &xattrs)
    }

    /// Writes down what an entry made in `dir`.
    fn note(
        &mut self,
        entry: &Entry,
        dir: &LayerDir,
        made: &Made<'_>,
        xattrs: &XattrsSet,
    ) -> Result<(), UnpackError> {
        self.counts.dropped_xattrs += xattrs.dropped;
        let (_, name) = entry.path.split();
        let noted = self.dirs.ledger.made(&dir.real(name), made, &entry.attrs, &xattrs.set);
        noted.map_err(|source| UnpackError::Inventory { source })
    }

    /// Writes at most `length` bytes of the entry's content.
    fn write(
        &mut self,
        entry: &Entry,
        file: &OwnedFd,
        mut offset: u64,
        mut length: u64,
        tar: &mut TarReader<'_>,
        mut hash: Option<&mut SumHasher>,
    ) -> Result<(), UnpackError> {
        let mut kept_back = offset;
        while let Some(piece) = tar.content(length)? {
            let written = match rustix::io::pwrite(file, piece, offset) {
                Ok(0) => return Err(syscall(entry, "write", Errno::IO)),
                Ok(written) => written,
                Err(Errno::INTR) => 0,
                Err(source) => return Err(syscall(entry, "write", source)),
            };
            if let Some(hash) = &mut hash {
                hash.update(&piece[..written]);
            }
            tar.consume(written);
            offset += written as u64;
            length -= written as u64;
            self.counts.bytes += written as u64;
            if offset - kept_back >= WRITE_OUT_BYTES {
                write_out(entry, file, kept_back, offset)?;
                kept_back = offset;
            }
        }
        if offset - kept_back >= WRITE_OUT_LEAST {
            write_out(entry, file, kept_back, offset)?;
        }
        Ok(())
    }

    fn directory(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        let mut opaque = false;
        if !entry.path.is_root() {
            opaque = self.make_directory(entry)?;
        }
        let dir = self.dirs.get(&entry.path).map_err(|fault| dir_fault(entry, fault))?;
        let xattrs = attrs::set_on_open(dir.fd(), entry, self.dirs.rights)?;
        self.counts.dropped_xattrs += xattrs.dropped;
        dir.set_mtime(entry.attrs.mtime);
        let ledger = &mut self.dirs.ledger;
        ledger
            .made(dir.real_path(), &Made::Directory, &entry.attrs, &xattrs.set)
            .map_err(|source| UnpackError::Inventory { source })?;
        if opaque {
            self.dirs.make_opaque(&entry.path).map_err(|fault| dir_fault(entry, fault))?;
        }
        Ok(())
    }

    /// Gives whether it takes the place of a whiteout.
    fn make_directory(&mut self, entry: &Entry) -> Result<bool, UnpackError> {
        let (parent, name) = self.parent(&entry.path, entry)?;
        let make = |parent: &LayerDir| {
            rustix::fs::mkdirat(parent.fd(), &*name, attrs::first_mode(entry) | Mode::RWXU)
        };
        let mut of_whiteout = false;
        match make(&parent) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let there = stat_in(parent.fd(), &name)
                    .map_err(|source| syscall(entry, "look at", source))?;
                if FileType::from_raw_mode(there.st_mode).is_dir() {
                    return Ok(false);
                }
                of_whiteout = is_whiteout(&there);
                let parent = self.clear(entry)?;
                make(&parent).map_err(|source| syscall(entry, "create", source))?;
            }
            Err(source) => return Err(syscall(entry, "create", source)),
        }
        self.counts.inodes += 1;
        Ok(of_whiteout)
    }

    fn node(&mut self, entry: &Entry, kind: FileType, dev: u64) -> Result<(), UnpackError> {
        let made = match kind {
            FileType::CharacterDevice => Made::Char(dev),
            FileType::BlockDevice => Made::Block(dev),
            _ => Made::Fifo,
        };
        if !self.dirs.rights.are_roots() && kind != FileType::Fifo {
            return self.named(entry, &made, |dir, name| {
                rustix::fs::openat(dir, name, attrs::NEW_FILE, OWNER_ONLY).map(drop)
            });
        }
        self.named(entry, &made, |dir, name| rustix::fs::mknodat(dir, name, kind, OWNER_ONLY, dev))
    }

    fn named(
        &mut self,
        entry: &Entry,
        made: &Made<'_>,
        create: impl Fn(BorrowedFd<'_>, &[u8]) -> Result<(), Errno>,
    ) -> Result<(), UnpackError> {
        let (dir, ()) = self.place(entry, "create", create)?;
        let (_, name) = entry.path.split();
        let has_mode = !matches!(made, Made::Symlink(_));
        let xattrs = attrs::set_on_name(dir.fd(), name, entry, (has_mode, self.dirs.rights))?;
        self.counts.inodes += 1;
        self.note(entry, &dir, made, &xattrs)
    }

    fn hard_link(
        &mut self,
        entry: &Entry,
        target: &LayerPath,
        raw: &str,
    ) -> Result<(), UnpackError> {
        let missing =
            || UnpackError::LinkTargetMissing { name: entry.name.clone(), target: raw.to_owned() };
        let (above, target_name) = target.split();
        let from = match self.dirs.get(&above) {
            Ok(dir) => dir,
            Err(DirFault::Syscall(_, Errno::NOENT | Errno::NOTDIR)) => return Err(missing()),
            Err(fault) => return Err(dir_fault(entry, fault)),
        };
        let stat = match stat_in(from.fd(), target_name) {
            // What this layer takes away it does not have.
            Ok(stat) if !is_whiteout(&stat) => stat,
            Ok(_) | Err(Errno::NOENT) => return Err(missing()),
            Err(source) => return Err(syscall(entry, "look at the target of", source)),
        };
        // A link to itself would otherwise be removed before it is made.
        let (parent, name) = self.parent(&entry.path, entry)?;
        if stat_in(parent.fd(), &name).is_ok_and(|own| same_inode(&own, &stat)) {
            return Ok(());
        }
        let link = |dir: BorrowedFd<'_>, name: &[u8]| {
            rustix::fs::linkat(from.fd(), target_name, dir, name, AtFlags::empty())
        };
        let (dir, ()) = match self.place(entry, "link", link) {
            // The target lay in what the link replaced.
            Err(UnpackError::Syscall { source: Errno::NOENT, .. }) => return Err(missing()),
            placed => placed?,
        };
        let (_, name) = entry.path.split();
        let noted = self.dirs.ledger.linked(&dir.real(name), &from.real(target_name));
        noted.map_err(|source| UnpackError::Inventory { source })
    }

    fn whiteout(&mut self, entry: &Entry, path: &LayerPath) -> Result<(), UnpackError> {
        let (parent, name) = self.parent(path, entry)?;
        match stat_in(parent.fd(), &name) {
            Err(Errno::NOENT) => {
                rustix::fs::mknodat(
                    parent.fd(),
                    &*name,
                    FileType::CharacterDevice,
                    Mode::empty(),
                    0,
                )
                .map_err(|source| syscall(entry, "create a whiteout for", source))?;
                self.counts.inodes += 1;
                let noted = self.dirs.ledger.whiteout(&parent.real(&name));
                noted.map_err(|source| UnpackError::Inventory { source })
            }
            Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() => self
                .dirs
                .make_opaque(path)
                // It owes nothing to what it takes away.
                .map(|()| self.dirs.ledger.fresh(&parent.real(&name)))
                .map_err(|fault| dir_fault(entry, fault)),
            // A file of this layer hides the lower ones' already, and so does a whiteout.
            Ok(_) => Ok(()),
            Err(source) => Err(syscall(entry, "look at", source)),
        }
    }

    /// Creates the entry's name, in place of what has it.
    fn place<T>(
        &mut self,
        entry: &Entry,
        action: &'static str,
        create: impl Fn(BorrowedFd<'_>, &[u8]) -> Result<T, Errno>,
    ) -> Result<(Rc<LayerDir>, T), UnpackError> {
        let (parent, name) = self.parent(&entry.path, entry)?;
        let (parent, created) = match create(parent.fd(), &name) {
            Err(Errno::EXIST) => {
                let parent = self.clear(entry)?;
                let created = create(parent.fd(), &name);
                (parent, created)
            }
            created => (parent, created),
        };
        Ok((parent, created.map_err(|source| syscall(entry, action, source))?))
    }

    /// The directory a name goes into, ready to be changed.
    fn parent(
        &mut self,
        path: &LayerPath,
        entry: &Entry,
    ) -> Result<(Rc<LayerDir>, Vec<u8>), UnpackError> {
        let (above, name) = path.split();
        let parent = self.dirs.ensure(&above).map_err(|fault| dir_fault(entry, fault))?;
        parent.touch();
        Ok((parent, name.to_vec()))
    }

    /// Removes what has the entry's name.
    fn clear(&mut self, entry: &Entry) -> Result<Rc<LayerDir>, UnpackError> {
        // Open directories may be the one that goes, lie below it or have come through a link.
        self.dirs.forget().map_err(|fault| dir_fault(entry, fault))?;
        let (parent, name) = self.parent(&entry.path, entry)?;
        let unusable = |_| UnpackError::BadName {
            name: entry.name.clone(),
            what: "name: it contains a NUL byte",
        };
        let stat = stat_in(parent.fd(), &name);
        self.counts.replaced |=
            stat.is_ok_and(|stat| match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => true,
                FileType::RegularFile => stat.st_size > 0,
                _ => false,
            });
        let name = CString::new(name).map_err(unusable)?;
        let removed = remove_tree(parent.fd(), &name)
            .map_err(|error| syscall(entry, "replace what was called", error.source))?;
        self.removed += removed;
        let noted = self.dirs.ledger.gone(&parent.real(name.to_bytes()));
        noted.map_err(|source| UnpackError::Inventory { source })?;
        Ok(parent)
    }
}

/// Has the device take a part of a file.
fn write_out(entry: &Entry, file: &OwnedFd, from: u64, to: u64) -> Result<(), UnpackError> {
    sys::writeback::start(file.as_fd(), from, to - from).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        syscall(entry, "write out", errno)
    })
}

fn same_inode(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

fn dir_fault(entry: &Entry, fault: DirFault) -> UnpackError {
    unplaced(entry.name.clone(), fault)
}

fn unplaced(name: String, fault: DirFault) -> UnpackError {
    match fault {
        DirFault::Syscall(action, source) => UnpackError::Syscall { name, action, source },
        DirFault::NotDirectory(parent) => {
            UnpackError::ParentNotDirectory { name, parent: printable(parent.bytes()) }
        }
        DirFault::TooManyLinks => UnpackError::TooManyLinks { name },
        DirFault::Inventory(source) => UnpackError::Inventory { source },
        DirFault::TooManyImplied(allowed) => {
            UnpackError::Limit { limit: LimitKind::ImpliedBytes, allowed, entry: Some(name) }
        }
    }
}
