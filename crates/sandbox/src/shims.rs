//! The shims that run, whoever has them on record. Blocking: looks at every process.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use model::SandboxId;
use rustix::process::Pid;
use sys::namespace::Kind;

use crate::host::start_ticks;
use crate::record::ProcessRecord;

/// What every shim calls itself.
pub(crate) const NAME: &str = "knarr-shim";

/// How often what a shim has started is killed: something may fork meanwhile.
const ROUNDS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// A shim of this state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) sandbox: SandboxId,
    pub(crate) process: ProcessRecord,
}

/// Every shim whose pod's state lies directly in `states`. One that ends meanwhile is none.
pub(crate) fn running(states: &Path) -> io::Result<Vec<Running>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // The kernel's own threads have no arguments, and the dead none any more.
        let Ok(arguments) = std::fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let Some(sandbox) = sandbox_of(&arguments, states) else { continue };
        if !is_on_the_host(pid) {
            continue;
        }
        let Some(start_ticks) = start_ticks(pid) else { continue };
        found.push(Running { sandbox, process: ProcessRecord { pid, start_ticks } });
    }
    Ok(found)
}

/// Ends a shim nobody knows, and before it all that it has started: whatever loses its parent there
/// becomes a child of the shim.
pub(crate) fn end_with_all(shim: ProcessRecord) -> io::Result<()> {
    for _ in 0..ROUNDS {
        if start_ticks(shim.pid) != Some(shim.start_ticks) {
            return Ok(());
        }
        let below = descendants(shim.pid)?;
        if below.is_empty() {
            break;
        }
        below.into_iter().try_for_each(kill)?;
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Kills a process, if it is still the one that was seen: so many end here that a number may be somebody
/// else's soon. One that is gone needs nothing.
fn kill(seen: ProcessRecord) -> io::Result<()> {
    let Some(Ok(handle)) = Pid::from_raw(seen.pid).map(sys::pidfd::open) else { return Ok(()) };
    // After the handle was opened.
    if start_ticks(seen.pid) == Some(seen.start_ticks) {
        sys::pidfd::kill(handle.as_fd())?;
    }
    Ok(())
}

/// The living below a process.
fn descendants(top: i32) -> io::Result<Vec<ProcessRecord>> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Some(start_ticks) = sys::process::parse_start_time(&stat) else { continue };
        if let Some((false, parent)) = dead_and_parent(&stat) {
            parents.push((ProcessRecord { pid, start_ticks }, parent));
        }
    }
    let mut found: Vec<ProcessRecord> = Vec::new();
    let mut next = Some(top);
    let mut at = 0;
    while let Some(parent) = next {
        let children = parents.iter().filter(|(child, of)| *of == parent && child.pid != top);
        found.extend(children.map(|(child, _)| *child));
        next = found.get(at).map(|child| child.pid);
        at += 1;
    }
    Ok(found)
}

/// Whether there is such a process and it has not ended.
pub(crate) fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| dead_and_parent(&stat).is_some_and(|(dead, _)| !dead))
}

/// `stat`: behind the name, which may hold anything, the state and the parent.
fn dead_and_parent(stat: &str) -> Option<(bool, i32)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let dead = matches!(fields.next()?, "Z" | "X");
    Some((dead, fields.next()?.parse().ok()?))
}

/// The pods of every shim of the host, whichever daemon's.
pub(crate) fn everywhere() -> io::Result<HashSet<SandboxId>> {
    let mut found = HashSet::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let Ok(arguments) = std::fs::read(path.join("cmdline")) else { continue };
        let mut arguments = arguments.split(|byte| *byte == 0);
        let pid = path.file_name().and_then(OsStr::to_str).and_then(|name| name.parse().ok());
        if arguments.next() != Some(NAME.as_bytes()) || !pid.is_some_and(is_on_the_host) {
            continue;
        }
        let state = Path::new(OsStr::from_bytes(arguments.next().unwrap_or_default()));
        let id = state.file_name().and_then(OsStr::to_str);
        found.extend(id.and_then(|id| SandboxId::parse(id).ok()));
    }
    Ok(found)
}

/// What a process calls itself is its own affair, and containers may know how shims do. Shims, however, are
/// in no container's PID namespace, as this process is in none.
fn is_on_the_host(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| sys::namespace::is_own(pid, Kind::Pid))
}

fn sandbox_of(arguments: &[u8], states: &Path) -> Option<SandboxId> {
    let mut arguments = arguments.split(|byte| *byte == 0);
    if arguments.next()? != NAME.as_bytes() {
        return None;
    }
    let state = Path::new(OsStr::from_bytes(arguments.next()?));
    let id = state.strip_prefix(states).ok()?.to_str()?;
    SandboxId::parse(id).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read_whatever_the_program_is_called() {
        assert_eq!(dead_and_parent("7 (a) b) S 3 7 7"), Some((false, 3)));
        assert_eq!(dead_and_parent("7 (sh) Z 4 7"), Some((true, 4)));
        assert_eq!(dead_and_parent("7"), None);
    }

    #[test]
    fn what_a_process_has_started_is_found() {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let found = descendants(own).unwrap();
        let found = found.into_iter().find(|found| found.pid == pid).unwrap();
        kill(ProcessRecord { start_ticks: found.start_ticks + 1, ..found }).unwrap();
        assert!(child.try_wait().unwrap().is_none(), "the number alone is not enough");
        kill(found).unwrap();
        child.wait().unwrap();
        kill(found).unwrap();
    }

    #[test]
    fn who_only_says_so_in_a_pid_namespace_of_its_own_is_no_shim() {
        use std::io::{BufRead, BufReader};
        use std::process::{Command, Stdio};
        if !crate::host::is_root() {
            println!("skipped: needs root");
            return;
        }
        let states = tempfile::tempdir().unwrap();
        let id = "cd".repeat(32);
        let script = states.path().join(&id);
        std::fs::write(&script, "echo begun; read end\n").unwrap();
        for (program, found) in [(&["env"][..], true), (&["unshare", "--pid", "--fork"], false)] {
            let mut claims = Command::new(program[0])
                .args(&program[1..])
                .args(["bash", "-c", "exec -a knarr-shim bash \"$0\""])
                .arg(&script)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut said = String::new();
            BufReader::new(claims.stdout.take().unwrap()).read_line(&mut said).unwrap();
            assert_eq!(said, "begun\n");
            let here = running(states.path()).unwrap().iter().any(|it| it.sandbox.as_str() == id);
            let anywhere = everywhere().unwrap().iter().any(|it| it.as_str() == id);
            drop(claims.stdin.take());
            claims.wait().unwrap();
            assert_eq!((here, anywhere), (found, found), "{program:?}");
        }
    }

    #[test]
    fn a_shim_is_known_by_its_name_and_its_pods_state() {
        let id = "ab".repeat(32);
        let states = Path::new("/run/knarr/pods");
        let of = |text: String| sandbox_of(text.as_bytes(), states).map(|id| id.to_string());
        assert_eq!(of(format!("knarr-shim\0/run/knarr/pods/{id}\0")), Some(id.clone()));
        assert_eq!(of(format!("knarr-shim\0/run/other/pods/{id}\0")), None);
        assert_eq!(of(format!("sh\0/run/knarr/pods/{id}\0")), None);
        assert_eq!(of("knarr-shim\0/run/knarr/pods/x\0".into()), None);
        assert_eq!(of("knarr-shim".into()), None);
    }
}
