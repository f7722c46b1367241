//! Waiting for what a file says, and for a directory to be empty.

use std::fs;
use std::mem::MaybeUninit;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
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
    let events = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
    let mut text = String::new();
    let found = watch(dir, events, limit, || {
        text = fs::read_to_string(path).unwrap_or_default();
        check(&text)
    })?;
    found.with_context(|| format!("{} did not come to say it:\n{text}", path.display()))
}

/// Blocks until the directory `dir` is empty, or `limit` has passed; the names that are left.
///
/// # Errors
/// The directory cannot be watched.
pub fn wait_until_empty(dir: &Path, limit: Duration) -> Result<Vec<String>> {
    let events = WatchFlags::DELETE | WatchFlags::MOVED_FROM;
    let mut names = Vec::new();
    watch(dir, events, limit, || {
        names = fs::read_dir(dir)
            .map(|entries| entries.flatten().filter_map(|e| e.file_name().into_string().ok()))
            .map(Iterator::collect)
            .unwrap_or_default();
        names.is_empty().then_some(())
    })?;
    Ok(names)
}

/// Calls `check` now and after each event in `dir` until it finds something; `None` when `limit`
/// has passed.
fn watch<T>(
    dir: &Path,
    events: WatchFlags,
    limit: Duration,
    mut check: impl FnMut() -> Option<T>,
) -> Result<Option<T>> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).context("inotify")?;
    inotify::add_watch(&watch, dir, events).with_context(|| dir.display().to_string())?;
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = check() {
            return Ok(Some(found));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
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
