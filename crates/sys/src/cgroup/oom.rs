//! The OOM killer's visits to a cgroup: how many processes it has ended, and being told at once.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::EventfdFlags;
use rustix::fs::{CWD, Mode, OFlags};

use super::dir::Version;
use crate::fs::{read_value, write_value};

fn file(version: Version) -> &'static str {
    match version {
        Version::V2 => "memory.events",
        Version::V1 { .. } => "memory.oom_control",
    }
}

/// How many processes of the cgroup the OOM killer has ended, whoever's limit it was; none when the
/// hierarchy has no memory controller.
pub fn oom_kills(version: Version, path: &str) -> Option<u64> {
    let text = read_value(CWD, Path::new(path).join(file(version))).ok()?;
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
    count.trim().parse().ok()
}

/// A file that becomes ready when the OOM killer comes to a cgroup: on v2 to be polled for
/// priority events, after it has killed; on v1 for input, just before.
#[derive(Debug)]
pub struct OomWatch {
    file: OwnedFd,
    version: Version,
}

impl OomWatch {
    /// Watches a cgroup from now on.
    ///
    /// # Errors
    /// The kernel's; `NotFound` without a memory controller.
    pub fn open(version: Version, path: &str) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let told = Path::new(path).join(file(version));
        let told = rustix::fs::openat(CWD, &told, flags, Mode::empty())?;
        let file = match version {
            Version::V2 => told,
            Version::V1 { .. } => {
                let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
                let event = rustix::event::eventfd(0, flags)?;
                let registration = format!("{} {}", event.as_raw_fd(), told.as_raw_fd());
                let control = Path::new(path).join("cgroup.event_control");
                write_value(CWD, control, registration.as_bytes())?;
                event
            }
        };
        let watch = Self { file, version };
        watch.acknowledge();
        Ok(watch)
    }

    /// Whether it is to be polled for priority events instead of input.
    pub fn is_priority(&self) -> bool {
        matches!(self.version, Version::V2)
    }

    /// Makes it wait for what comes next.
    pub fn acknowledge(&self) {
        let mut unread = [0; 1024];
        // What it says does not matter, and an event counter without events has nothing to say.
        match self.version {
            Version::V2 => drop(rustix::io::pread(&self.file, &mut unread, 0)),
            Version::V1 { .. } => drop(rustix::io::read(&self.file, &mut unread)),
        }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
