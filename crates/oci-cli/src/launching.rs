//! What the verbs share that make or look at a container: the host, plans, a launcher.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use launch::plan::{CgroupPlan, LaunchPlan, RootSource};
use launch::{Launcher, Options, Warning};
use model::{CgroupLayout, IdMapping};
use oci_runtime::{Note, PlanContext, Planned};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespaceType, Spec};

use crate::args::IoArgs;
use crate::container::{Container, Record, Status};
use crate::delegated::Delegated;
use crate::error::{At as _, OciError, text};
use crate::log::Log;
use crate::verbs::Context;

/// What must be known of the host.
#[derive(Debug)]
pub(crate) struct Host {
    cgroups: CgroupLayout,
    /// What of them is the caller's alone.
    delegated: Option<Delegated>,
}

impl Host {
    pub(crate) fn look() -> Result<Self, OciError> {
        let cgroups = sys::cgroup::detect()?;
        if may_change(&cgroups) {
            return Ok(Self { cgroups, delegated: None });
        }
        Ok(Self { delegated: Delegated::find(&cgroups), cgroups: nothing() })
    }

    /// The cgroup below which a new container of an ordinary user gets its own.
    pub(crate) fn delegated(&self) -> Option<Delegated> {
        self.delegated.clone()
    }

    pub(crate) fn cgroups(&self) -> &CgroupLayout {
        &self.cgroups
    }

    /// Runs `f` with what plans for this container depend on.
    pub(crate) fn with_context<T>(
        &self,
        record: &Record,
        f: impl FnOnce(&PlanContext<'_>) -> T,
    ) -> T {
        let delegated = record.delegated.as_ref().map(Delegated::layout);
        f(&PlanContext {
            root: RootSource::Directory(record.rootfs.clone()),
            id: &record.id,
            bundle: Some(&record.bundle),
            cgroup: delegated.as_ref().unwrap_or(&self.cgroups),
            default_cgroup: &default_cgroup(record),
            launcher_paths: &[],
            image_trees: &[],
            in_pod: false,
            pod_pid: None,
            pod_user: None,
        })
    }

    pub(crate) fn plan(
        &self,
        spec: &Spec,
        record: &Record,
        log: &Log,
    ) -> Result<LaunchPlan, OciError> {
        let Planned { plan, notes } =
            self.with_context(record, |context| oci_runtime::plan(spec, context))?;
        log_notes(&notes, log);
        Ok(plan)
    }

    /// Where the container's processes are.
    pub(crate) fn cgroup(&self, spec: &Spec, record: &Record) -> Result<CgroupPlan, OciError> {
        Ok(self.with_context(record, |context| oci_runtime::cgroup::of(spec, context))?)
    }

    /// Where a container is in its life.
    pub(crate) fn status(
        &self,
        container: &Container,
        record: &Record,
    ) -> Result<Status, OciError> {
        self.status_in(container, record, || self.cgroup(&container.spec()?, record))
    }

    /// As [`Self::status`], for who knows the container's cgroup otherwise.
    pub(crate) fn status_in(
        &self,
        container: &Container,
        record: &Record,
        cgroup: impl FnOnce() -> Result<CgroupPlan, OciError>,
    ) -> Result<Status, OciError> {
        let Some(init) = &record.init else {
            let creating = container.is_locked()?;
            return Ok(if creating { Status::Creating } else { Status::Stopped });
        };
        if init.open().is_none() {
            return Ok(Status::Stopped);
        }
        if !record.started && init.waits() {
            return Ok(Status::Created);
        }
        let launcher = launcher(container, Options::default())?;
        // A host without a freezer has nothing that is paused.
        let frozen = launcher.is_frozen(&cgroup()?);
        Ok(if frozen.unwrap_or_default() { Status::Paused } else { Status::Running })
    }
}

/// Whether the caller makes cgroups. One who is root only of a user namespace has those it is in.
fn may_change(cgroups: &CgroupLayout) -> bool {
    let first = match cgroups {
        CgroupLayout::V2(unified) => Some(unified),
        CgroupLayout::V1 { hierarchies, unified } => hierarchies.first().or(unified.as_ref()),
    };
    first.is_none_or(|first| {
        rustix::fs::access(first.mountpoint.as_str(), rustix::fs::Access::WRITE_OK).is_ok()
    })
}

fn nothing() -> CgroupLayout {
    CgroupLayout::V1 { hierarchies: Vec::new(), unified: None }
}

/// One directory, so that nothing is left when it goes.
fn default_cgroup(record: &Record) -> String {
    if record.systemd {
        oci_runtime::cgroup::SystemdScope::default_form(&record.id)
    } else {
        format!("/knarr-oci-{}", record.id)
    }
}

/// What of a specification this host does not apply.
pub(crate) fn log_notes(notes: &[Note], log: &Log) {
    notes.iter().for_each(|note| log.warning(&note.to_string()));
}

/// What of a plan the kernel did not apply.
pub(crate) fn log_warnings(warnings: &[Warning], log: &Log) {
    for Warning { what, why } in warnings {
        log.warning(&format!("not applied: {what}: {why}"));
    }
}

/// A launcher in the namespaces this process is in.
pub(crate) fn launcher(container: &Container, options: Options) -> Result<Launcher, OciError> {
    let mut launcher = Launcher::in_host_namespace(&container.staging())?;
    launcher.set_options(options);
    Ok(launcher)
}

/// A bundle: a directory with a specification in it.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) dir: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) spec: Spec,
    /// The specification as it was written, or with what had to be found out.
    pub(crate) text: Vec<u8>,
    /// What of it is passed over.
    pub(crate) passed: Vec<String>,
}

impl Bundle {
    pub(crate) fn read(dir: &Path) -> Result<Self, OciError> {
        let dir = fs::canonicalize(dir).at("find bundle", dir)?;
        let path = dir.join("config.json");
        let text = fs::read(&path).at("read", &path)?;
        let (mut spec, passed) = crate::container::parse_spec(&path, &text)?;
        let text = if adopt_maps(&mut spec)? { rewritten(&path, &spec)? } else { text };
        let root = spec.root().as_ref().map(|root| dir.join(root.path()));
        let root = root.ok_or(oci_runtime::PlanError::Missing { field: "root" })?;
        let rootfs = fs::canonicalize(&root).at("find the root file system", &root)?;
        if !rootfs.is_dir() {
            return Err(OciError::NoRootfs { path: rootfs });
        }
        Ok(Self { dir, rootfs, spec, text, passed })
    }

    pub(crate) fn has_terminal(&self) -> bool {
        let process = self.spec.process().as_ref();
        process.and_then(oci_spec::runtime::Process::terminal).unwrap_or_default()
    }

    /// The record of a container that is to be made from it.
    pub(crate) fn record(&self, id: &str, cx: &Context<'_>) -> Result<Record, OciError> {
        let own = rustix::process::geteuid().as_raw();
        let mapped = self.spec.linux().as_ref().and_then(|linux| linux.uid_mappings().as_ref());
        let root = mapped.into_iter().flatten().find(|map| map.container_id() == 0);
        let host = root.filter(|_| cx.in_user_namespace).map(LinuxIdMapping::host_id);
        Ok(Record {
            format: crate::container::FORMAT,
            id: id.to_owned(),
            bundle: text(&self.dir)?.to_owned(),
            rootfs: text(&self.rootfs)?.to_owned(),
            created: jiff::Timestamp::now().to_string(),
            owner: host.unwrap_or(own),
            init: None,
            started: false,
            systemd: cx.systemd_cgroup,
            place: Some(crate::container::place_of(&self.spec)),
            delegated: None,
            resources: None,
        })
    }
}

/// Who joins a user namespace need not know how it maps ids: that is the namespace's own. Says whether
/// anything was added.
fn adopt_maps(spec: &mut Spec) -> Result<bool, OciError> {
    let Some(linux) = spec.linux_mut() else { return Ok(false) };
    let unset = |maps: &Option<Vec<LinuxIdMapping>>| maps.as_ref().is_none_or(Vec::is_empty);
    let joined = linux
        .namespaces()
        .iter()
        .flatten()
        .find(|one| one.typ() == LinuxNamespaceType::User && one.path().is_some());
    let path = joined.and_then(|joined| joined.path().clone());
    let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else { return Ok(false) };
    if !unset(linux.uid_mappings()) || !unset(linux.gid_mappings()) {
        return Ok(false);
    }
    let maps = launch::maps_of_namespace(&path)?;
    linux.set_uid_mappings(Some(mappings(&maps.uids)?));
    linux.set_gid_mappings(Some(mappings(&maps.gids)?));
    Ok(true)
}

fn mappings(ranges: &[IdMapping]) -> Result<Vec<LinuxIdMapping>, OciError> {
    let one = |range: &IdMapping| {
        let mapping = LinuxIdMappingBuilder::default().container_id(range.container_id);
        mapping.host_id(range.host_id).size(range.length).build()
    };
    let all: Result<Vec<_>, _> = ranges.iter().map(one).collect();
    all.map_err(|error| OciError::System {
        action: "put the namespace's mappings into the specification",
        source: std::io::Error::other(error),
    })
}

fn rewritten(path: &Path, spec: &Spec) -> Result<Vec<u8>, OciError> {
    serde_json::to_vec(spec).map_err(|source| OciError::NotJson {
        path: path.to_owned(),
        what: "an OCI spec that can be written",
        source,
    })
}

/// How many sockets a service manager has opened for the container's program: the first files after
/// the standard ones. `sd_listen_fds(3)`: those of another process, whose environment was inherited,
/// are not meant.
pub(crate) fn activation() -> Result<u32, OciError> {
    let text = |name| std::env::var_os(name).map(|text| text.to_string_lossy().into_owned());
    let own = rustix::process::getpid().as_raw_nonzero().get();
    listen_fds(text("LISTEN_PID").as_deref(), text("LISTEN_FDS"), own)
}

fn listen_fds(whose: Option<&str>, count: Option<String>, own: i32) -> Result<u32, OciError> {
    let Some(count) = count.filter(|_| whose.and_then(|pid| pid.parse().ok()) == Some(own)) else {
        return Ok(0);
    };
    count.parse().map_err(|_| OciError::BadOption {
        option: "LISTEN_FDS in the environment",
        value: count,
        want: "a number of files",
    })
}

/// The files a caller wants to hand on are there.
pub(crate) fn check_files(count: u32) -> Result<u32, OciError> {
    for number in 3..3_u32.saturating_add(count) {
        let open = fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok();
        if !open {
            return Err(OciError::NotOpen { count, missing: number });
        }
    }
    Ok(count)
}

/// A terminal must have somebody to go to, and a socket a terminal.
pub(crate) fn check_console(io: &IoArgs, terminal: bool, stays: bool) -> Result<(), OciError> {
    match (&io.console_socket, terminal) {
        (None, true) if !stays => Err(OciError::NoConsoleSocket),
        (Some(_), false) => Err(OciError::NoTerminal),
        (Some(_), true) | (None, _) => Ok(()),
    }
}

/// Tells the caller the number of a process, if it wants to know.
pub(crate) fn write_pid_file(io: &IoArgs, pid: rustix::process::Pid) -> Result<(), OciError> {
    let Some(path) = &io.pid_file else { return Ok(()) };
    let number = pid.as_raw_nonzero().to_string();
    crate::container::write_atomically(path, &number).at("write", path)
}

/// Gives a handle on a process to who asked for one.
pub(crate) fn hand_over_process(
    io: &IoArgs,
    process: Option<BorrowedFd<'_>>,
) -> Result<(), OciError> {
    match (&io.pidfd_socket, process) {
        (Some(socket), Some(process)) => {
            let path = text(socket)?;
            sys::fdpass::send_to_path(path, b"pidfd", process).at("send the process to", socket)
        }
        (Some(_) | None, _) => Ok(()),
    }
}

/// Gives a terminal to who asked for it; one that stays with us comes back.
pub(crate) fn settle_console(
    io: &IoArgs,
    console: Option<std::os::fd::OwnedFd>,
) -> Result<Option<std::os::fd::OwnedFd>, OciError> {
    match (&io.console_socket, console) {
        (Some(socket), Some(master)) => {
            crate::console::hand_over(socket, master.as_fd()).map(|()| None)
        }
        (_, console) => Ok(console),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_meant_takes_a_service_managers_sockets() {
        let count = |whose, count: Option<&str>| listen_fds(whose, count.map(str::to_owned), 7);
        assert_eq!(count(Some("7"), Some("2")).unwrap(), 2);
        for whose in [Some("8"), Some("x"), Some(""), None] {
            assert_eq!(count(whose, Some("2")).unwrap(), 0, "{whose:?}");
            assert_eq!(count(whose, Some("two")).unwrap(), 0, "{whose:?}");
        }
        assert_eq!(count(Some("7"), None).unwrap(), 0);
        assert!(count(Some("7"), Some("two")).is_err());
    }
}
