//! Directories of the layer being written, opened inside its root only, and their mtimes.
//!
//! Every path that the tar names is resolved by the kernel with `RESOLVE_IN_ROOT`, so a symbolic
//! link in the layer leads inside the layer, whatever it says. A few open directories are kept:
//! tars list siblings together. Writing into a directory changes its mtime; each open directory
//! remembers the one it shall have and gets it back when it is closed. It also knows its real
//! path, without links, by which the inventory calls what lies in it.

use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use crate::Rights;
use crate::inventory::Ledger;
use crate::path::LayerPath;

const KEPT_OPEN: usize = 32;
/// As many as the kernel follows.
const MAX_LINKS: usize = 40;

pub(crate) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// Why a directory could not be had; the caller knows the entry it is for.
#[derive(Debug)]
pub(crate) enum DirFault {
    Syscall(&'static str, Errno),
    /// What was done could not be written down.
    Inventory(std::io::Error),
    /// Directories without an entry of their own have longer names than allowed, in bytes.
    TooManyImplied(u64),
    NotDirectory(LayerPath),
    TooManyLinks,
}

pub(crate) struct LayerDir {
    fd: OwnedFd,
    identity: (u64, u64),
    /// Below the root, without links.
    real: LayerPath,
    /// What the directory's mtime shall be, and whether it may be another now.
    mtime: Cell<Timespec>,
    touched: Cell<bool>,
}

impl LayerDir {
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The real path of `name` in this directory.
    pub(crate) fn real(&self, name: &[u8]) -> LayerPath {
        self.real.join(name)
    }

    /// Its own real path.
    pub(crate) fn real_path(&self) -> &LayerPath {
        &self.real
    }

    /// Call before changing what is in the directory.
    pub(crate) fn touch(&self) {
        self.touched.set(true);
    }

    pub(crate) fn set_mtime(&self, mtime: Timespec) {
        self.mtime.set(mtime);
        self.touched.set(true);
    }

    /// Hides what lower layers have in this directory.
    fn make_opaque(&self, rights: Rights) -> Result<(), DirFault> {
        let mark = rights.opaque_xattr();
        rustix::fs::fsetxattr(&self.fd, mark, b"y", rustix::fs::XattrFlags::empty())
            .map_err(|errno| DirFault::Syscall("make opaque the directory of", errno))
    }

    fn settle(&self) -> Result<(), DirFault> {
        if !self.touched.replace(false) {
            return Ok(());
        }
        let mtime = self.mtime.get();
        let times = Timestamps { last_access: mtime, last_modification: mtime };
        rustix::fs::futimens(&self.fd, &times)
            .map_err(|errno| DirFault::Syscall("set the mtime of the directory of", errno))
    }
}

pub(crate) struct Dirs<'r> {
    root: BorrowedFd<'r>,
    /// The root's own path, which the kernel puts before those of the directories in it.
    root_path: Option<Vec<u8>>,
    pub(crate) ledger: Ledger<'r>,
    /// Least recently used first. Two paths may lead to one directory, which is then shared, so
    /// that it has one idea of its mtime.
    open: Vec<(LayerPath, Rc<LayerDir>)>,
    created: u64,
    pub(crate) rights: Rights,
}

impl<'r> Dirs<'r> {
    pub(crate) fn new(root: BorrowedFd<'r>, ledger: Ledger<'r>, rights: Rights) -> Self {
        let open = Vec::with_capacity(KEPT_OPEN);
        Self { root, root_path: None, ledger, open, created: 0, rights }
    }

    /// Directories made because an entry lies in them.
    pub(crate) fn created(&self) -> u64 {
        self.created
    }

    /// An existing directory; `NOENT` and `NOTDIR` come as [`DirFault::Syscall`].
    ///
    /// The handle is for use before the next call: its mtime is then no longer looked after.
    pub(crate) fn get(&mut self, path: &LayerPath) -> Result<Rc<LayerDir>, DirFault> {
        if let Some(at) = self.open.iter().rposition(|(open, _)| open == path) {
            let slot = self.open.remove(at);
            let dir = Rc::clone(&slot.1);
            self.open.push(slot);
            return Ok(dir);
        }
        let fault = |errno| DirFault::Syscall("open the directory of", errno);
        let (fd, real) = self.open_in(path).map_err(fault)?;
        let stat = rustix::fs::fstat(&fd).map_err(fault)?;
        let identity = (stat.st_dev, stat.st_ino);
        let known = self.open.iter().find(|(_, dir)| dir.identity == identity);
        let dir = match known {
            Some((_, dir)) => Rc::clone(dir),
            None => Rc::new(LayerDir {
                fd,
                identity,
                real,
                mtime: Cell::new(mtime_of(&stat)),
                touched: Cell::new(false),
            }),
        };
        if self.open.len() == KEPT_OPEN {
            self.open.remove(0).1.settle()?;
        }
        self.open.push((path.clone(), Rc::clone(&dir)));
        Ok(dir)
    }

    /// The directory, made with its parents where they are missing.
    pub(crate) fn ensure(&mut self, path: &LayerPath) -> Result<Rc<LayerDir>, DirFault> {
        match self.get(path) {
            Err(DirFault::Syscall(_, Errno::NOENT | Errno::NOTDIR)) => {}
            had => return had,
        }
        let mut path = path.clone();
        for _ in 0..MAX_LINKS {
            match self.make_missing(&path)? {
                Some(instead) => path = instead,
                None => return self.get(&path),
            }
        }
        Err(DirFault::TooManyLinks)
    }

    /// Walks down and makes what is missing. A symbolic link to nothing is followed by hand, as
    /// the kernel cannot create through it: then the path to go on with is returned.
    fn make_missing(&mut self, path: &LayerPath) -> Result<Option<LayerPath>, DirFault> {
        for (prefix, rest) in path.prefixes() {
            match self.get(&prefix) {
                Ok(_) => continue,
                Err(DirFault::Syscall(_, Errno::NOENT | Errno::NOTDIR)) => {}
                Err(fault) => return Err(fault),
            }
            let (above, name) = prefix.split();
            let parent = self.get(&above)?;
            parent.touch();
            let in_the_way = match make_dir(parent.fd(), name) {
                Ok(_) => {
                    self.created += 1;
                    self.ledger.implied(&parent.real(name))?;
                    continue;
                }
                Err(Errno::EXIST) => stat_in(parent.fd(), name),
                Err(errno) => return Err(DirFault::Syscall("make a parent directory of", errno)),
            };
            let fault = |errno| DirFault::Syscall("resolve the parents of", errno);
            let in_the_way = in_the_way.map_err(fault)?;
            if FileType::from_raw_mode(in_the_way.st_mode).is_symlink() {
                let target = rustix::fs::readlinkat(parent.fd(), name, Vec::new());
                return Ok(Some(above.follow(target.map_err(fault)?.as_bytes(), rest)));
            }
            if !is_whiteout(&in_the_way) {
                return Err(DirFault::NotDirectory(prefix));
            }
            // This layer takes the lower one's away and brings its own.
            rustix::fs::unlinkat(parent.fd(), name, AtFlags::empty()).map_err(fault)?;
            make_dir(parent.fd(), name).map_err(fault)?;
            let real = parent.real(name);
            self.ledger.gone(&real).map_err(DirFault::Inventory)?;
            self.ledger.implied(&real)?;
            self.ledger.fresh(&real);
            self.make_opaque(&prefix)?;
        }
        Ok(None)
    }

    /// Makes an existing directory opaque.
    pub(crate) fn make_opaque(&mut self, path: &LayerPath) -> Result<(), DirFault> {
        let dir = self.get(path)?;
        dir.make_opaque(self.rights)?;
        self.ledger.opaque(&dir.real).map_err(DirFault::Inventory)
    }

    /// Opens a directory; its real path is the one the kernel took.
    fn open_in(&mut self, path: &LayerPath) -> Result<(OwnedFd, LayerPath), Errno> {
        match open_resolved(self.root, path, ResolveFlags::NO_SYMLINKS) {
            Ok(fd) => return Ok((fd, path.clone())),
            Err(Errno::LOOP) => {}
            Err(errno) => return Err(errno),
        }
        let fd = open_resolved(self.root, path, ResolveFlags::empty())?;
        let root_path = match &self.root_path {
            Some(known) => known,
            None => self.root_path.insert(path_of(self.root)?),
        };
        let full = path_of(fd.as_fd())?;
        let below = full.strip_prefix(root_path.as_slice()).ok_or(Errno::XDEV)?;
        let real = LayerPath::clean(below).map_err(|_| Errno::INVAL)?;
        Ok((fd, real))
    }

    /// Closes all directories: call before one of them, or a link to one, goes away.
    pub(crate) fn forget(&mut self) -> Result<(), DirFault> {
        self.open.drain(..).try_for_each(|(_, dir)| dir.settle())
    }
}

/// Makes a directory of mode 0755 whatever the umask.
fn make_dir(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(0o755);
    rustix::fs::mkdirat(parent, name, mode)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    rustix::fs::fchmod(dir, mode)
}

fn open_resolved(
    root: BorrowedFd<'_>,
    path: &LayerPath,
    more: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let path = if path.is_root() { b"." } else { path.bytes() };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // A rename or mount anywhere on the system raced with a `..` on the way.
            Err(Errno::AGAIN) => {}
            opened => return opened,
        }
    }
}

/// The path by which the kernel knows an open directory.
fn path_of(fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(rustix::fs::readlink(link, Vec::new())?.into_bytes())
}

/// Of the name itself: links are not followed.
pub(crate) fn stat_in(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Stat, Errno> {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// Overlayfs takes a character device 0:0 as "nothing here, nor below".
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_char_device() && stat.st_rdev == 0
}

fn mtime_of(stat: &Stat) -> Timespec {
    Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or_default(),
    }
}
