//! The standard nodes and links of `/dev`, and the plan's own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dev, FileType, Gid, Mode, Uid};
use rustix::io::Errno;

use crate::error::{At, LaunchError, Step};
use crate::launcher::Launcher;
use crate::plan::{DeviceKind, DeviceNode};

/// Name, minor number; all are character devices. `tty` has major 5, the rest 1.
const STANDARD: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Fills `/dev`.
pub(super) fn standard(launcher: &Launcher, dev: BorrowedFd<'_>) -> Result<(), LaunchError> {
    for (name, major, minor) in STANDARD {
        let node = Node {
            kind: FileType::CharacterDevice,
            device: rustix::fs::makedev(major, minor),
            mode: 0o666,
            owner: (0, 0),
        };
        node.make(launcher, dev, name, &format!("/dev/{name}"))
            .at(Step::Device, &format!("/dev/{name}"))?;
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

/// Makes one of the plan's nodes.
pub(super) fn extra(
    launcher: &Launcher,
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
        Node { kind, device, mode: node.mode & 0o7777, owner: (node.uid, node.gid) }.make(
            launcher,
            parent.as_fd(),
            name,
            &node.path,
        )
    };
    make().at(Step::Device, &node.path)
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
            Err(Errno::EXIST) if self.is_at(dir, name)? => {}
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
        let mode = Mode::from_raw_mode(0o644);
        match rustix::fs::mknodat(dir, name, FileType::RegularFile, mode, 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        sys::mount::attach(source.as_fd(), self.open(dir, name)?.as_fd())
    }
}
