//! Stopping every process of a cgroup for a while.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::CWD;

use super::dir::{CgroupError, Version, failed};
use crate::fs::{read_value, write_value};

/// How long [`set_frozen`] waits for processes that cannot be stopped at once.
const WITHIN: Duration = Duration::from_secs(10);

/// Stops the processes of a cgroup and those they make, or lets them go on; `path` is a directory
/// of the unified or of the freezer hierarchy. Blocks until it is so, for a bounded time.
///
/// # Errors
/// [`CgroupError`]: `NotFound` where there is no such group or no freezer, `TimedOut` when a process
/// does not stop; the group is let go on then.
pub fn set_frozen(version: Version, path: &str, frozen: bool) -> Result<(), CgroupError> {
    let action = if frozen { "freeze" } else { "thaw" };
    ask(version, path, frozen).map_err(failed(action, path))?;
    let deadline = Instant::now() + WITHIN;
    let mut pause = Duration::from_micros(100);
    while is_frozen(version, path)? != frozen {
        if Instant::now() >= deadline {
            if frozen {
                ask(version, path, false).map_err(failed("thaw", path))?;
            }
            return Err(failed(action, path)(io::ErrorKind::TimedOut.into()));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
        // A v1 group that could not be frozen in one go stays half frozen until it is asked again.
        if matches!(version, Version::V1 { .. }) {
            ask(version, path, frozen).map_err(failed(action, path))?;
        }
    }
    Ok(())
}

/// Whether all processes of a cgroup are stopped.
///
/// # Errors
/// [`CgroupError`]: `NotFound` where there is no such group or no freezer.
pub fn is_frozen(version: Version, path: &str) -> Result<bool, CgroupError> {
    let file = match version {
        Version::V2 => "cgroup.events",
        Version::V1 { .. } => "freezer.state",
    };
    let text = read_value(CWD, Path::new(path).join(file));
    let text = text.map_err(failed("read the state of", path))?;
    Ok(match version {
        Version::V2 => text.lines().any(|line| line == "frozen 1"),
        Version::V1 { .. } => text.trim() == "FROZEN",
    })
}

fn ask(version: Version, path: &str, frozen: bool) -> io::Result<()> {
    let (file, value): (_, &[u8]) = match (version, frozen) {
        (Version::V2, true) => ("cgroup.freeze", b"1"),
        (Version::V2, false) => ("cgroup.freeze", b"0"),
        (Version::V1 { .. }, true) => ("freezer.state", b"FROZEN"),
        (Version::V1 { .. }, false) => ("freezer.state", b"THAWED"),
    };
    write_value(CWD, Path::new(path).join(file), value)
}
