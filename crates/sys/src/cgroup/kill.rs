//! Ending every process of a cgroup.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::CWD;
use rustix::process::Pid;

use super::dir::{CgroupError, Version, failed, is_gone, pids};
use crate::fs::{read_value, write_value};

/// How long [`kill_all`] goes on killing what a fork bomb forks.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

/// Sends SIGKILL to every process in the cgroup and below it, those it forks meanwhile too. A
/// missing directory, or one that is removed meanwhile, is success. With v1 `freezer` says that the
/// directory is in the freezer hierarchy.
///
/// On v2 the kernel does it in one write. On v1 it takes rounds, until one finds nobody new: a
/// process that is to die forks no more. Nobody is waited for: in uninterruptible IO one may
/// outlive its SIGKILL for as long as that takes.
///
/// # Errors
/// [`CgroupError`].
pub fn kill_all(version: Version, path: &str, freezer: bool) -> Result<(), CgroupError> {
    match version {
        Version::V2 => {
            let file = Path::new(path).join("cgroup.kill");
            match write_value(CWD, &file, b"1") {
                // Somebody else may remove it in between: systemd, once a scope is empty.
                Err(error) if !is_gone(&error) => Err(failed("kill", path)(error)),
                _ => Ok(()),
            }
        }
        Version::V1 { .. } => kill_v1(path, freezer),
    }
}

fn kill_v1(path: &str, freezer: bool) -> Result<(), CgroupError> {
    let deadline = Instant::now() + KILLED_WITHIN;
    let mut killed = HashSet::new();
    loop {
        if freezer {
            freeze(path);
        }
        let living = living(path);
        if let Ok(living) = &living {
            for (_, process) in living {
                crate::supervise::signal_by_pidfd(std::os::fd::AsFd::as_fd(process), libc::SIGKILL)
                    .ok();
            }
        }
        if freezer {
            set_state(path, "THAWED");
        }
        let before = killed.len();
        killed.extend(living?.into_iter().map(|(pid, _)| pid));
        if killed.len() == before {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(failed("kill", path)(io::ErrorKind::TimedOut.into()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a process lives in the group or below it; the dead that wait to be reaped do not. A
/// missing directory has none.
///
/// # Errors
/// [`CgroupError`].
pub fn any_alive(path: &str) -> Result<bool, CgroupError> {
    Ok(pids(path)?.into_iter().any(|pid| !is_dead(pid)))
}

/// Handles on the processes of the group that are not dead yet. A pid read before its handle was
/// opened and again after it means the same process both times, or one that joined: either is ours.
fn living(path: &str) -> Result<Vec<(Pid, OwnedFd)>, CgroupError> {
    let handles: Vec<(Pid, OwnedFd)> = pids(path)?
        .into_iter()
        .filter_map(|pid| Some((pid, crate::pidfd::open(pid).ok()?)))
        .collect();
    let still = pids(path)?;
    let ours = |(pid, _): &(Pid, OwnedFd)| still.contains(pid) && !is_dead(*pid);
    Ok(handles.into_iter().filter(ours).collect())
}

/// Zombies keep their place in a v1 group until reaped.
fn is_dead(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.map_or(true, |stat| crate::process::has_ended(&stat))
}

/// Stops the group so that it cannot fork away. Best effort: without it several rounds are needed.
fn freeze(path: &str) {
    set_state(path, "FROZEN");
    for _ in 0..20 {
        let state = read_value(CWD, Path::new(path).join("freezer.state"));
        if !state.is_ok_and(|state| state.trim() == "FREEZING") {
            return;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

fn set_state(path: &str, state: &str) {
    // A group that is gone needs neither; one that cannot be frozen is still killed.
    write_value(CWD, Path::new(path).join("freezer.state"), state.as_bytes()).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As systemd does with a scope that has become empty.
    #[test]
    fn a_group_that_somebody_else_removes_meanwhile_has_ended() {
        let tops = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let Some(top) = tops.into_iter().find(|top| top.join("cgroup.controllers").exists()) else {
            eprintln!("skipped: no cgroup v2");
            return;
        };
        let group = top.join(format!("knarr-test-{}", std::process::id()));
        if std::fs::create_dir(&group).is_err() {
            eprintln!("skipped: no group can be made");
            return;
        }
        let path = group.to_str().unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    std::fs::remove_dir(&group).ok();
                }
            });
            let mut killed = Ok(());
            for _ in 0..20_000 {
                std::fs::create_dir(&group).ok();
                let once = kill_all(Version::V2, path, false);
                killed = killed.and(once);
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            killed.unwrap();
        });
        std::fs::remove_dir(&group).ok();
    }
}
