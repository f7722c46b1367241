//! Waiting for what a file says.

use std::fs;
use std::mem::MaybeUninit;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};

/// Blocks until `check` finds what it wants in the text of the file at `path` (the empty text
/// while there is no file) and returns it. Looks again whenever the directory changes.
///
/// # Errors
/// `limit` passes first: the message carries the last text.
pub fn wait_for<T>(
    path: &Path,
    limit: Duration,
    mut check: impl FnMut(&str) -> Option<T>,
) -> Result<T> {
    let dir = path.parent().with_context(|| format!("{} has no directory", path.display()))?;
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).context("inotify")?;
    let events = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
    inotify::add_watch(&watch, dir, events).with_context(|| dir.display().to_string())?;
    let deadline = Instant::now() + limit;
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if let Some(found) = check(&text) {
            return Ok(found);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("{} did not come to say it within {limit:?}:\n{text}", path.display());
        }
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs())?,
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut fds = [PollFd::new(&watch, PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&left)).context("poll")?;
        drain(&watch);
    }
}

fn drain(watch: &rustix::fd::OwnedFd) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(watch, &mut buffer);
    while reader.next().is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_comes_later_is_seen() {
        let dir = std::env::temp_dir().join(format!("knarr-files-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("late");
        let writer = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                wait_for(&path, Duration::from_secs(10), |text| text.contains("here").then_some(()))
            });
            fs::write(&path, "it is here").unwrap();
            waiting.join().unwrap()
        });
        fs::remove_dir_all(&dir).unwrap();
        writer.unwrap();
    }
}
