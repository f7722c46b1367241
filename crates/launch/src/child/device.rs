//! The standard nodes and links of `/dev`, and the plan's own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dev, FileType, Gid, Mode, StatxAttributes, StatxFlags, Uid};
use rustix::io::Errno;

use crate::error::{At, LaunchError, Step};
use crate::launcher::Launcher;
use crate::nodes::{Nodes, STANDARD};
use crate::plan::{DeviceKind, DeviceNode};

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Fills `/dev`, with the host's nodes if there are any given.
pub(super) fn standard(
    launcher: &Launcher,
    nodes: Option<&Nodes>,
    dev: BorrowedFd<'_>,
) -> Result<(), LaunchError> {
    for (index, (name, major, minor)) in STANDARD.into_iter().enumerate() {
        let path = format!("/dev/{name}");
        let node = Node {
            kind: FileType::CharacterDevice,
            device: rustix::fs::makedev(major, minor),
            mode: 0o666,
            owner: (0, 0),
        };
        match nodes.and_then(|nodes| nodes.standard.get(index)) {
            Some(host) => node.show(host.as_fd(), dev, name),
            None => node.make(launcher, dev, name, &path),
        }
        .at(Step::Device, &path)?;
    }
    for (name, target) in LINKS {
        link(dev, name, target).at(Step::Device, &format!("/dev/{name}"))?;
    }
    Ok(())
}

fn link(dev: BorrowedFd<'_>, name: &str, target: &str) -> io::Result<()> {
    match rustix::fs::symlinkat(target, dev, name) {
        Err(Errno::EXIST) => {
            let there = rustix::fs::readlinkat(dev, name, Vec::new());
            if there.is_ok_and(|there| there.as_bytes() == target.as_bytes()) {
                return Ok(());
            }
            rustix::fs::unlinkat(dev, name, AtFlags::empty())?;
            Ok(rustix::fs::symlinkat(target, dev, name)?)
        }
        result => Ok(result?),
    }
}

/// Makes one of the plan's nodes, or shows the host's in its place.
pub(super) fn extra(
    launcher: &Launcher,
    host: Option<&OwnedFd>,
    root: BorrowedFd<'_>,
    node: &DeviceNode,
) -> Result<(), LaunchError> {
    let make = || {
        let (parent, name) = node.path.rsplit_once('/').unwrap_or(("", &node.path));
        let parent = sys::fs::mkdir_all_in_root(root, &format!("{parent}/"))?;
        let kind = match node.kind {
            DeviceKind::Char => FileType::CharacterDevice,
            DeviceKind::Block => FileType::BlockDevice,
            DeviceKind::Fifo => FileType::Fifo,
        };
        let device = rustix::fs::makedev(node.major, node.minor);
        let made = Node { kind, device, mode: node.mode & 0o7777, owner: (node.uid, node.gid) };
        match host {
            Some(host) => made.show(host.as_fd(), parent.as_fd(), name),
            None => made.make(launcher, parent.as_fd(), name, &node.path),
        }
    };
    make().at(Step::Device, &node.path)
}

/// Whether a mount of the plan lies there, which has been put in the node's place.
fn is_mounted_on(dir: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    let stat = rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())?;
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

struct Node {
    kind: FileType,
    device: Dev,
    mode: u32,
    owner: (u32, u32),
}

impl Node {
    fn make(
        &self,
        launcher: &Launcher,
        dir: BorrowedFd<'_>,
        name: &str,
        host_path: &str,
    ) -> io::Result<()> {
        let mode = Mode::from_raw_mode(self.mode);
        match rustix::fs::mknodat(dir, name, self.kind, mode, self.device) {
            Ok(()) => {}
            // Somebody else's, maybe the host's own: as it is.
            Err(Errno::EXIST) if self.is_at(dir, name)? || is_mounted_on(dir, name)? => {
                return Ok(());
            }
            // A device cgroup or the lack of CAP_MKNOD: show the host's node.
            Err(Errno::PERM) => return self.bind(launcher, dir, name, host_path),
            Err(errno) => return Err(errno.into()),
        }
        let (uid, gid) = (Uid::from_raw(self.owner.0), Gid::from_raw(self.owner.1));
        Ok(rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn is_at(&self, dir: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        Ok(kind == self.kind && (kind.is_fifo() || stat.st_rdev == self.device))
    }

    fn open(&self, dir: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
        let flags =
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
        Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
    }

    fn bind(
        &self,
        launcher: &Launcher,
        dir: BorrowedFd<'_>,
        name: &str,
        host_path: &str,
    ) -> io::Result<()> {
        let source = crate::host::clone_from_host(launcher, host_path)?;
        let stat = rustix::fs::fstat(&source)?;
        if FileType::from_raw_mode(stat.st_mode) != self.kind || stat.st_rdev != self.device {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        self.show(source.as_fd(), dir, name)
    }

    /// Puts a detached mount of a node here.
    fn show(&self, source: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        let mode = Mode::from_raw_mode(0o644);
        match rustix::fs::mknodat(dir, name, FileType::RegularFile, mode, 0) {
            Ok(()) => {}
            Err(Errno::EXIST) if self.is_at(dir, name)? || is_mounted_on(dir, name)? => {
                return Ok(());
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        sys::mount::attach(source, self.open(dir, name)?.as_fd())
    }
}
