//! Waiting for a change of the configuration directory, be it there or not.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// What a wait ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    /// Something was written, moved or removed.
    Changed,
    /// Nothing happened for as long as was asked.
    Elapsed,
    /// The waiter is to end.
    Stopped,
}

/// Watches made anew for every wait: they then fit whatever directories there are. Made before
/// the directory is read, so that no change falls between reading and waiting.
#[derive(Debug)]
pub(crate) struct Watch(OwnedFd);

impl Watch {
    /// Watches `dir` with its subdirectories, and what is above it: the nearest directory that
    /// exists, and the one above that, where a new one would be moved to.
    pub(crate) fn arm(dir: &Path) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mut above = dir.ancestors().skip_while(|path| !add(&fd, path));
        if above.next() == Some(dir) {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    add(&fd, &entry.path());
                }
            }
        }
        if let Some(parent) = above.next() {
            add(&fd, parent);
        }
        Ok(Self(fd))
    }

    /// Waits for a change, or for `stop` to become readable or be closed.
    pub(crate) fn wait(&self, stop: &OwnedFd, limit: Duration) -> Woken {
        let woken = wait(Some(&self.0), stop, limit);
        if woken != Woken::Changed {
            return woken;
        }
        // A file is rarely written in one step: look when a moment has passed without more.
        for _ in 0..SETTLE_AT_MOST {
            self.clear();
            match wait(Some(&self.0), stop, SETTLE) {
                Woken::Changed => {}
                Woken::Elapsed => break,
                Woken::Stopped => return Woken::Stopped,
            }
        }
        Woken::Changed
    }

    /// Forgets the events; an overflow is a change like any other.
    fn clear(&self) {
        let mut buffer = [0_u8; 4096];
        while rustix::io::read(&self.0, &mut buffer).is_ok_and(|len| len > 0) {}
    }
}

const SETTLE: Duration = Duration::from_millis(20);
const SETTLE_AT_MOST: u32 = 20;

/// Waits without a watch.
pub(crate) fn pause(stop: &OwnedFd, limit: Duration) -> Woken {
    wait(None, stop, limit)
}

fn wait(watch: Option<&OwnedFd>, stop: &OwnedFd, limit: Duration) -> Woken {
    let limit = Timespec::try_from(limit).ok();
    let mut fds = vec![PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN)];
    fds.extend(watch.map(|watch| PollFd::new(watch, PollFlags::IN)));
    match poll(&mut fds, limit.as_ref()) {
        Ok(0) => Woken::Elapsed,
        Ok(_) if !fds[0].revents().is_empty() => Woken::Stopped,
        // A wait that cannot be waited out is a reason to look.
        Ok(_) | Err(_) => Woken::Changed,
    }
}

/// False when there is no such directory. A file system that cannot be watched is looked at from
/// time to time all the same.
fn add(fd: &OwnedFd, dir: &Path) -> bool {
    let flags = WatchFlags::CREATE
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR;
    inotify::add_watch(fd, dir, flags).is_ok()
}
