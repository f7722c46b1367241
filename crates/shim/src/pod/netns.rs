//! The pin of the pod's network namespace: a file on the host with the namespace bound over it,
//! so that CNI plugins and `ip netns` find it by name.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use shim_protocol::{Failure, FailureKind};

use crate::failure::io_failure;
use crate::runtime::Runtime;

/// The calling thread's network namespace.
const OWN_NETNS: &str = "/proc/self/ns/net";

/// A pinned namespace.
#[derive(Debug)]
pub(super) struct Pin {
    path: PathBuf,
}

impl Pin {
    /// Pins the caller's network namespace at a host path.
    ///
    /// # Errors
    /// The kernel's; then nothing is left at `path`.
    pub(super) fn make(path: &str, runtime: &mut Runtime) -> Result<Self, Failure> {
        let pin = Self { path: PathBuf::from(path) };
        runtime.on_host(|| pin_here(&pin.path)).map_err(|error| {
            let what = format!("cannot pin the network namespace at {path}");
            io_failure(FailureKind::Mount, what, &error)
        })?;
        Ok(pin)
    }

    /// Takes the pin away; a missing one is success.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn release(&self, runtime: &mut Runtime) -> Result<(), Failure> {
        runtime.on_host(|| unpin_here(&self.path)).map_err(|error| {
            let what = format!("cannot release the network namespace at {}", self.path.display());
            io_failure(FailureKind::Mount, what, &error)
        })
    }
}

/// The caller's network namespace as a file.
///
/// # Errors
/// The kernel's.
pub(super) fn open_own(runtime: &mut Runtime) -> io::Result<OwnedFd> {
    runtime.on_host(|| sys::namespace::own(sys::namespace::Kind::Net))
}

fn pin_here(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // A pin left by a shim that was killed: its namespace has no other holder that matters.
    unpin_here(path)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::CLOEXEC;
    drop(rustix::fs::open(path, flags, Mode::RUSR | Mode::RGRP | Mode::ROTH)?);
    rustix::mount::mount_bind(OWN_NETNS, path).map_err(|error| {
        // The file alone is worth nothing; the mount's error is the one to tell.
        rustix::fs::unlink(path).ok();
        error.into()
    })
}

fn unpin_here(path: &Path) -> io::Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // EINVAL: a file without a mount.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match rustix::fs::unlink(path) {
        // Busy: another mount has come to hide it. The daemon, which comes by next, can reach it.
        Ok(()) | Err(Errno::NOENT | Errno::BUSY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
