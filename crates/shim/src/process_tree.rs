//! Finding and killing a process with all its descendants, among the members of one cgroup.
//!
//! A descendant is found through its parent or, once that has died and somebody else has
//! adopted it, through its session: an exec'd process leads a session of its own.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;
use shim_protocol::{Failure, FailureKind};

use crate::failure::io_failure;

const SIGKILL: i32 = 9;

/// How long it is waited for those killed. What the kernel holds on to (a dead network file system)
/// must not hold up the pod's other affairs.
const DEAD_WITHIN: Duration = Duration::from_secs(1);

/// What `/proc/<pid>/stat` says about where a process belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kin {
    pid: Pid,
    /// Absent (0) for those from outside the PID namespace `/proc` shows.
    parent: Option<Pid>,
    session: Option<Pid>,
    /// Dead, with all its threads: `Z`, `X`.
    gone: bool,
}

/// Reads it; `None` when there is no such process.
fn kin(pid: Pid) -> io::Result<Option<Kin>> {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let file = match rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // The fields wanted come first; the name before them has at most 64 bytes.
    let mut text = [0; 256];
    match rustix::io::read(&file, &mut text) {
        Ok(length) => Ok(parse(pid, &text[..length])),
        Err(Errno::SRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// `pid (name) state ppid pgrp session …`; the name may hold anything, parentheses too.
fn parse(pid: Pid, stat: &[u8]) -> Option<Kin> {
    let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end_of_name + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let dead = matches!(fields.next()?, "Z" | "X");
    let parent = Pid::from_raw(fields.next()?.parse().ok()?);
    let session = Pid::from_raw(fields.nth(1)?.parse().ok()?);
    // A first thread that has ended is a zombie for as long as others run.
    let threads = fields.nth(13).and_then(|count| count.parse::<u32>().ok());
    Some(Kin { pid, parent, session, gone: dead && threads.is_none_or(|count| count <= 1) })
}

/// `root` and everything below it.
fn family(root: Pid, all: &[Kin]) -> HashSet<Pid> {
    let mut found = HashSet::from([root]);
    loop {
        let before = found.len();
        for kin in all {
            let related = [kin.parent, kin.session].into_iter().flatten();
            if related.into_iter().any(|pid| found.contains(&pid)) {
                found.insert(kin.pid);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// Sends SIGKILL to `root` and its descendants among `members`, and blocks until they are dead, for
/// a bounded time. A process with that signal pending cannot fork, so this ends. Whoever has to
/// reaps them.
///
/// # Errors
/// The kernel's, or that of `members`; one that does not die.
pub(crate) fn kill_family(
    root: Pid,
    mut members: impl FnMut() -> Result<Vec<Pid>, Failure>,
) -> Result<(), Failure> {
    let until = Instant::now() + DEAD_WITHIN;
    let mut signalled = HashSet::new();
    loop {
        let mut pids = members()?;
        pids.push(root);
        let mut all = Vec::new();
        for pid in pids {
            all.extend(kin(pid).map_err(|error| failed(pid, &error))?);
        }
        let family = family(root, &all);
        all.retain(|kin| !kin.gone && family.contains(&kin.pid));
        let Some(first) = all.first() else { return Ok(()) };
        if all.iter().all(|kin| signalled.contains(&kin.pid)) {
            await_death(*first, until).map_err(|error| failed(first.pid, &error))?;
        }
        for kin in all {
            if signalled.insert(kin.pid) {
                signal_if_still(kin, SIGKILL).map_err(|error| failed(kin.pid, &error))?;
            }
        }
    }
}

/// Sends a signal to `root` and its descendants among `members`, each once.
///
/// # Errors
/// The kernel's.
pub(crate) fn signal_family(root: Pid, members: Vec<Pid>, signal: i32) -> Result<(), Failure> {
    let pids: HashSet<Pid> = members.into_iter().chain([root]).collect();
    let mut all = Vec::new();
    for pid in pids {
        all.extend(kin(pid).map_err(|error| failed(pid, &error))?);
    }
    let family = family(root, &all);
    for kin in all.iter().filter(|kin| !kin.gone && family.contains(&kin.pid)) {
        signal_if_still(*kin, signal).map_err(|error| failed(kin.pid, &error))?;
    }
    Ok(())
}

/// Every process there is.
///
/// # Errors
/// The kernel's.
pub(crate) fn everybody() -> Result<Vec<Pid>, Failure> {
    let listed = std::fs::read_dir("/proc").and_then(|entries| {
        let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
        let pids = entries.filter_map(|entry| entry.map(number).transpose());
        pids.map(|number| number.map(Pid::from_raw)).collect::<io::Result<Vec<_>>>()
    });
    let pids = listed.map_err(|error| {
        io_failure(FailureKind::Internal, "cannot list the processes in /proc", &error)
    })?;
    Ok(pids.into_iter().flatten().collect())
}

/// Whether a process lives and is a child of another.
pub(crate) fn is_child_of(pid: Pid, parent: Pid) -> bool {
    matches!(kin(pid), Ok(Some(kin)) if !kin.gone && kin.parent == Some(parent))
}

/// Whether a process is of the own PID namespace; what cannot be seen is.
pub(crate) fn in_own_namespace(pid: Pid) -> bool {
    let namespace = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/pid")).ok();
    let theirs = namespace(&pid.as_raw_nonzero().to_string());
    theirs.is_none_or(|theirs| namespace("self").is_none_or(|own| own == theirs))
}

fn failed(pid: Pid, error: &io::Error) -> Failure {
    let what = format!("cannot end process {}", pid.as_raw_nonzero());
    io_failure(FailureKind::Internal, what, error)
}

/// A handle on a process, if it is still there: the number may have gone to another one since it was
/// looked at, so it is held by a pidfd and looked at again.
fn hold(seen: Kin) -> io::Result<Option<OwnedFd>> {
    let held = match sys::pidfd::open(seen.pid) {
        Ok(held) => held,
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => return Ok(None),
        Err(error) => return Err(error),
    };
    // The parent may have died meanwhile; the session stays.
    let still = kin(seen.pid)?.is_some_and(|now| now.session == seen.session);
    Ok(still.then_some(held))
}

fn signal_if_still(seen: Kin, signal: i32) -> io::Result<()> {
    hold(seen)?.map_or(Ok(()), |held| sys::pidfd::signal(held.as_fd(), signal))
}

fn await_death(seen: Kin, until: Instant) -> io::Result<()> {
    let Some(held) = hold(seen)? else { return Ok(()) };
    let left = until.saturating_duration_since(Instant::now());
    if sys::pidfd::wait_ended(held.as_fd(), left)? {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::TimedOut, "it outlives SIGKILL"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(number: i32) -> Pid {
        Pid::from_raw(number).unwrap()
    }

    #[test]
    fn a_name_full_of_parentheses_does_not_confuse() {
        let kin = parse(pid(7), b"7 (a) R 1 (b) S 3 4 5 0 -1 4194304").unwrap();
        assert_eq!(
            kin,
            Kin { pid: pid(7), parent: Some(pid(3)), session: Some(pid(5)), gone: false }
        );
        assert!(parse(pid(7), b"7 (x) Z 1 1 1").unwrap().gone);
        let with_threads = |count: &str| {
            let text = format!("7 (x) Z 1 7 7 0 -1 4227084 0 0 0 0 0 0 0 0 20 0 {count} 0 500 0");
            parse(pid(7), text.as_bytes()).unwrap()
        };
        assert!(with_threads("1").gone && !with_threads("2").gone);
        assert_eq!(parse(pid(1), b"1 (init) S 0 0 0").unwrap().parent, None);
        for torn in [&b""[..], b"7 (x", b"7 (x)", b"7 (x) S 1 1"] {
            assert_eq!(parse(pid(7), torn), None);
        }
    }

    #[test]
    fn a_family_is_children_their_children_and_adopted_ones() {
        let kin = |own, parent, session| Kin {
            pid: pid(own),
            parent: Some(pid(parent)),
            session: Some(pid(session)),
            gone: false,
        };
        let all = [
            kin(30, 20, 10),
            kin(20, 10, 10),
            kin(10, 1, 10),
            // Adopted by 1 after its parent died.
            kin(40, 1, 10),
            // Made its own session, then a child there was adopted.
            kin(50, 20, 50),
            kin(51, 1, 50),
            // Strangers.
            kin(60, 1, 1),
            kin(61, 60, 60),
        ];
        assert_eq!(family(pid(10), &all), [10, 20, 30, 40, 50, 51].map(pid).into());
    }

    #[test]
    fn everybody_is_found_and_children_until_they_have_ended() {
        let own = rustix::process::getpid();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let its = pid(child.id().cast_signed());
        let all = everybody().unwrap();
        assert!(all.contains(&own) && all.contains(&its));
        assert!(is_child_of(its, own) && !is_child_of(own, own));
        assert!(in_own_namespace(its));
        kill_family(its, everybody).unwrap();
        // Not reaped yet.
        assert!(!is_child_of(its, own));
        child.wait().unwrap();
    }

    #[test]
    fn the_own_process_is_found_in_proc() {
        let own = rustix::process::getpid();
        let kin = kin(own).unwrap().unwrap();
        assert_eq!((kin.pid, kin.gone), (own, false));
        assert_eq!(kin.parent, rustix::process::getppid());
    }
}
