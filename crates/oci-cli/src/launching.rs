//! What the verbs share that make or look at a container: the host, plans, a launcher.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use launch::plan::{CgroupPlan, LaunchPlan, RootSource};
use launch::{Launcher, Options, Warning};
use model::CgroupLayout;
use oci_runtime::{Note, PlanContext, Planned};
use oci_spec::runtime::Spec;

use crate::args::IoArgs;
use crate::container::{Container, Record, Status};
use crate::error::{At as _, OciError, text};
use crate::log::Log;

/// What must be known of the host.
#[derive(Debug)]
pub(crate) struct Host {
    cgroups: CgroupLayout,
}

impl Host {
    pub(crate) fn look() -> Result<Self, OciError> {
        Ok(Self { cgroups: sys::cgroup::detect()? })
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
        f(&PlanContext {
            root: RootSource::Directory(record.rootfs.clone()),
            id: &record.id,
            bundle: Some(&record.bundle),
            cgroup: &self.cgroups,
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
        let spec = container.spec()?;
        let launcher = launcher(container, Options::default())?;
        // A host without a freezer has nothing that is paused.
        let frozen = launcher.is_frozen(&self.cgroup(&spec, record)?);
        Ok(if frozen.unwrap_or_default() { Status::Paused } else { Status::Running })
    }
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
        log.warning(&format!("{what} is not applied: {why}"));
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
    /// The specification as it was written.
    pub(crate) text: Vec<u8>,
}

impl Bundle {
    pub(crate) fn read(dir: &Path) -> Result<Self, OciError> {
        let dir = fs::canonicalize(dir).at("find bundle", dir)?;
        let path = dir.join("config.json");
        let text = fs::read(&path).at("read", &path)?;
        let spec = crate::container::parse_spec(&path, &text)?;
        let root = spec.root().as_ref().map(|root| dir.join(root.path()));
        let root = root.ok_or(oci_runtime::PlanError::Missing { field: "root" })?;
        let rootfs = fs::canonicalize(&root).at("find the root file system", &root)?;
        if !rootfs.is_dir() {
            return Err(OciError::NoRootfs { path: rootfs });
        }
        Ok(Self { dir, rootfs, spec, text })
    }

    pub(crate) fn has_terminal(&self) -> bool {
        let process = self.spec.process().as_ref();
        process.and_then(oci_spec::runtime::Process::terminal).unwrap_or_default()
    }

    /// The record of a container that is to be made from it.
    pub(crate) fn record(&self, id: &str, systemd: bool) -> Result<Record, OciError> {
        Ok(Record {
            format: crate::container::FORMAT,
            id: id.to_owned(),
            bundle: text(&self.dir)?.to_owned(),
            rootfs: text(&self.rootfs)?.to_owned(),
            created: jiff::Timestamp::now().to_string(),
            owner: rustix::process::geteuid().as_raw(),
            init: None,
            started: false,
            systemd,
            resources: None,
        })
    }
}

/// How many sockets a service manager has opened for the container's program (`sd_listen_fds(3)`):
/// the first files after the standard ones.
pub(crate) fn activation() -> Result<u32, OciError> {
    let Some(text) = std::env::var_os("LISTEN_FDS") else { return Ok(0) };
    let text = text.to_string_lossy().into_owned();
    text.parse().map_err(|_| OciError::BadOption {
        option: "LISTEN_FDS in the environment",
        value: text,
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
