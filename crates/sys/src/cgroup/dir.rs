//! Directories of one hierarchy: make, look, remove.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::fs::{read_value, write_value};

/// How long [`remove`] waits for dying processes to leave.
const EMPTY_WITHIN: Duration = Duration::from_secs(2);

/// Why a cgroup could not be worked with.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} cgroup {path}")]
pub struct CgroupError {
    /// What was tried.
    pub action: &'static str,
    /// On which directory or file.
    pub path: String,
    /// Why it failed.
    pub source: io::Error,
}

pub(super) fn failed(action: &'static str, path: &str) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError { action, path, source }
}

/// What kind of hierarchy a directory is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The unified one.
    V2,
    /// A v1 hierarchy.
    V1 {
        /// It holds the `cpuset` controller, whose new directories accept no process until
        /// filled in.
        cpuset: bool,
    },
}

/// An open cgroup directory that remembers which directories had to be made for it.
#[derive(Debug)]
pub struct Cgroup {
    dir: OwnedFd,
    /// Parent and name, outermost first.
    made: Vec<(OwnedFd, String)>,
}

impl Cgroup {
    /// The directory.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Whether the directory itself was made here.
    pub fn is_new(&self) -> bool {
        !self.made.is_empty()
    }

    /// Removes what was made, innermost first. Parents that others use by now stay.
    ///
    /// # Errors
    /// When the innermost directory stays although nothing is in it any more.
    pub fn undo(self) -> io::Result<()> {
        let Self { dir, made } = self;
        drop(dir);
        for (depth, (parent, name)) in made.iter().rev().enumerate() {
            match remove_when_empty(parent.as_fd(), name) {
                Ok(()) => {}
                Err(_) if depth > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Opens the cgroup at `path`, which lies below `mountpoint`, making it and its parents when
/// missing. On v2 the controllers a parent has are enabled for its children; new v1 cpuset
/// directories get their parent's CPUs and memory nodes.
///
/// # Errors
/// [`CgroupError`]; nothing that was made is left.
pub fn make(version: Version, mountpoint: &str, path: &str) -> Result<Cgroup, CgroupError> {
    let names = components(mountpoint, path)
        .ok_or_else(|| failed("use", path)(io::ErrorKind::InvalidInput.into()))?;
    let dir = open_dir(CWD, mountpoint).map_err(failed("open", mountpoint))?;
    let mut cgroup = Cgroup { dir, made: Vec::new() };
    for name in names {
        if let Err(error) = descend(&mut cgroup, version, name) {
            // The error that matters is the first; an empty leftover harms nobody.
            cgroup.undo().ok();
            return Err(failed("make", path)(error));
        }
    }
    Ok(cgroup)
}

fn components<'a>(mountpoint: &str, path: &'a str) -> Option<Vec<&'a str>> {
    let below = Path::new(path).strip_prefix(mountpoint).ok()?;
    let names = below.components().map(|component| match component {
        Component::Normal(name) => name.to_str(),
        _ => None,
    });
    names.collect::<Option<Vec<_>>>().filter(|names| !names.is_empty())
}

fn descend(cgroup: &mut Cgroup, version: Version, name: &str) -> io::Result<()> {
    if version == Version::V2 {
        enable_controllers(cgroup.dir());
    }
    let made = match rustix::fs::mkdirat(&cgroup.dir, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(errno) => return Err(errno.into()),
    };
    let child = open_dir(&cgroup.dir, name)?;
    let parent = std::mem::replace(&mut cgroup.dir, child);
    if version == (Version::V1 { cpuset: true }) {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if read_value(&cgroup.dir, file)?.trim().is_empty() {
                let value = read_value(&parent, file)?;
                write_value(&cgroup.dir, file, value.trim().as_bytes())?;
            }
        }
    }
    if made {
        cgroup.made.push((parent, name.to_owned()));
    }
    Ok(())
}

/// Hands every controller the directory has down to its children. What cannot be handed down shows
/// when a setting that needs it is written; a setting that does not need it must not suffer.
fn enable_controllers(dir: BorrowedFd<'_>) {
    const ENABLED: &str = "cgroup.subtree_control";
    let Ok(offered) = read_value(dir, "cgroup.controllers") else { return };
    let enabled = read_value(dir, ENABLED).unwrap_or_default();
    let missing: Vec<String> = offered
        .split_whitespace()
        .filter(|controller| !enabled.split_whitespace().any(|on| on == *controller))
        .map(|controller| format!("+{controller}"))
        .collect();
    if missing.is_empty() || write_value(dir, ENABLED, missing.join(" ").as_bytes()).is_ok() {
        return;
    }
    for one in missing {
        write_value(dir, ENABLED, one.as_bytes()).ok();
    }
}

fn open_dir(at: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, path, flags, Mode::empty())?)
}

/// The processes in a cgroup and all below it, as the caller's PID namespace numbers them.
///
/// # Errors
/// [`CgroupError`]; a missing directory has no processes and is none.
pub fn pids(path: &str) -> Result<Vec<Pid>, CgroupError> {
    let mut found = Vec::new();
    match open_dir(CWD, path).and_then(|dir| collect_pids(dir.as_fd(), &mut found)) {
        Ok(()) => Ok(found),
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        Err(error) => Err(failed("read the processes of", path)(error)),
    }
}

fn collect_pids(dir: BorrowedFd<'_>, found: &mut Vec<Pid>) -> io::Result<()> {
    match read_value(dir, "cgroup.procs") {
        Ok(list) => {
            let pids = list.lines().filter_map(|line| line.parse().ok());
            found.extend(pids.filter_map(Pid::from_raw));
        }
        // A threaded v2 group lists its processes in the group above.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(error) => return Err(error),
    }
    for name in children(dir)? {
        match open_dir(dir, &name).and_then(|child| collect_pids(child.as_fd(), found)) {
            Err(error) if !is_gone(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn children(dir: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        if entry.file_type().is_dir() && name != "." && name != ".." {
            names.push(name.into_owned());
        }
    }
    Ok(names)
}

/// Missing, or removed while it was read.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// Removes a cgroup and all below it, waiting a bounded time for processes that are on their way
/// out. A missing one is success. Blocks.
///
/// # Errors
/// [`CgroupError`]: `EBUSY` when processes stay.
pub fn remove(path: &str) -> Result<(), CgroupError> {
    match remove_when_empty(CWD, path) {
        Err(error) if !is_gone(&error) => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

fn remove_when_empty(parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let deadline = Instant::now() + EMPTY_WITHIN;
    let mut pause = Duration::from_micros(100);
    loop {
        match remove_tree(parent, name) {
            // A reaped process may still be counted for a moment; on v1 nothing tells when it is
            // not any more.
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {}
            Err(error) if is_gone(&error) => return Ok(()),
            result => return result,
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn remove_tree(parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        // v1 and v2 both answer EBUSY for children and for processes alike.
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        result => return Ok(result?),
    }
    let dir = open_dir(parent, name)?;
    for child in children(dir.as_fd())? {
        remove_tree(dir.as_fd(), &child)?;
    }
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}
