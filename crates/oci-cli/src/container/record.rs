//! What is remembered of a container.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use oci_spec::runtime::{Linux, LinuxIntelRdt, Spec};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::delegated::Delegated;

/// The version of the record's form.
pub(crate) const FORMAT: u32 = 1;

/// `state.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) format: u32,
    pub(crate) id: String,
    /// Directory of the bundle, absolute.
    pub(crate) bundle: String,
    /// Directory of the root file system, absolute.
    pub(crate) rootfs: String,
    /// RFC 3339, with nanoseconds.
    pub(crate) created: String,
    /// User id of who created it.
    pub(crate) owner: u32,
    /// Absent until it is made.
    pub(crate) init: Option<Init>,
    /// Its program has been executed.
    pub(crate) started: bool,
    /// Its cgroup is a scope that systemd has made.
    #[serde(default)]
    pub(crate) systemd: bool,
    /// What of the specification's `linux` says where its processes are: they are to be found without
    /// the specification, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) place: Option<Place>,
    /// Of a container of an ordinary user: below which cgroup its own is, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) delegated: Option<Delegated>,
    /// Limits last applied by `update`, as in a specification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resources: Option<serde_json::Value>,
}

impl Record {
    /// Of a container nothing is known of but its id.
    pub(crate) fn unknown(id: &str) -> Self {
        Self {
            format: FORMAT,
            id: id.to_owned(),
            bundle: String::new(),
            rootfs: String::new(),
            created: String::new(),
            owner: 0,
            init: None,
            started: false,
            systemd: false,
            place: None,
            delegated: None,
            resources: None,
        }
    }

    /// A specification that says where the container's processes are, and no more.
    pub(crate) fn place(&self) -> Spec {
        let mut linux = Linux::default();
        if let Some(Place { cgroups_path, intel_rdt }) = &self.place {
            linux.set_cgroups_path(cgroups_path.as_ref().map(PathBuf::from));
            linux.set_intel_rdt(intel_rdt.clone());
        }
        let mut spec = Spec::default();
        spec.set_linux(Some(linux));
        spec
    }
}

/// Fields of `linux`, under their names there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Place {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cgroups_path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    intel_rdt: Option<LinuxIntelRdt>,
}

/// Where a container with this specification has its processes.
pub(crate) fn place_of(spec: &Spec) -> Place {
    let Some(linux) = spec.linux() else { return Place::default() };
    Place {
        cgroups_path: linux.cgroups_path().as_ref().map(|path| path.to_string_lossy().into()),
        intel_rdt: linux.intel_rdt().clone(),
    }
}

/// A container's first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Init {
    pub(crate) pid: i32,
    /// With the pid a name that is never used again.
    pub(crate) start_ticks: u64,
    /// Device and inode of the program that waits in its place until it is started.
    pub(crate) waits_as: (u64, u64),
}

impl Init {
    /// Of a process that was made just now by this program.
    pub(crate) fn of(pid: Pid) -> io::Result<Self> {
        let own = rustix::fs::stat("/proc/self/exe")?;
        Ok(Self {
            pid: pid.as_raw_nonzero().get(),
            start_ticks: sys::process::start_time(pid)?,
            waits_as: (own.st_dev, own.st_ino),
        })
    }

    /// A handle on the process, if it is there and has not ended.
    pub(crate) fn open(&self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(self.pid)?;
        let handle = sys::pidfd::open(pid).ok()?;
        // After the handle was opened: a number that has come to mean another process has other
        // ticks.
        let same = sys::process::start_time(pid).is_ok_and(|ticks| ticks == self.start_ticks);
        (same && !is_dead(self.pid)).then_some(handle)
    }

    /// Whether it has not executed the container's program yet. One that hides what it runs from us
    /// is the one that waits: that is not to be looked into.
    pub(crate) fn waits(&self) -> bool {
        let program = rustix::fs::stat(format!("/proc/{}/exe", self.pid));
        program.map_or(true, |stat| (stat.st_dev, stat.st_ino) == self.waits_as)
    }
}

/// A zombie has ended; nobody may have asked yet how.
fn is_dead(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| {
        let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
        matches!(state, None | Some('Z' | 'X'))
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_known_until_it_ends_also_unreaped() {
        let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).unwrap();
        let init = Init::of(pid).unwrap();
        let handle = init.open().unwrap();
        assert!(Init { start_ticks: init.start_ticks + 1, ..init }.open().is_none());
        drop(child.stdin.take());
        assert!(
            sys::pidfd::wait_ended(
                std::os::fd::AsFd::as_fd(&handle),
                std::time::Duration::from_secs(60)
            )
            .unwrap()
        );
        assert!(init.open().is_none(), "a zombie");
        child.wait().unwrap();
        assert!(init.open().is_none(), "reaped");
    }

    #[test]
    fn a_process_that_runs_something_else_does_not_wait() {
        let own = Init::of(rustix::process::getpid()).unwrap();
        assert!(own.waits());
        assert!(!Init { waits_as: (own.waits_as.0, own.waits_as.1 + 1), ..own }.waits());
    }
}
