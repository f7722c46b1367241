//! What a pod begins with: directories, the record of intent, its shim, and the files that its containers
//! will look at. The files are written while the shim comes up: neither needs the other.

use std::path::Path;
use std::process::Child;
use std::sync::Arc;

use failpoint::Point;
use model::CgroupDriver;
use shim_protocol::{Body, PodReady, Response};
use sys::trace::span;

use super::records::write_pod;
use super::{Owner, Shim, ShimProcess};
use crate::blocking;
use crate::confinement;
use crate::context::Context;
use crate::error::{RunError, chain};
use crate::files;
use crate::link::{Connected, LinkError, ShimLink};
use crate::record::{PodRecord, ProcessRecord};
use crate::scopes::{self, ScopeError};
use crate::validate::InvalidPod;

impl Owner {
    /// Ends with the pod's namespaces made.
    pub(super) async fn begin(&mut self) -> Result<PodReady, RunError> {
        let label = self.file_label()?;
        Arc::make_mut(&mut self.record).attached = !self.host_network();
        let files = make_files(Arc::clone(&self.cx), Arc::clone(&self.record), label);
        // Both to their ends: a shim that has come is the pod's, whatever is wrong with its files.
        let (ready, files) = tokio::join!(self.start_shim(), files);
        match (ready, files) {
            (Ok(ready), Ok(())) => Ok(ready),
            (Err(error), Ok(())) | (Ok(_), Err(error)) => Err(error),
            (Err(error), Err(other)) => {
                // The answer has room for one.
                let other = chain(&other);
                tracing::error!(sandbox = %self.id(), error = other, "nor are its files written");
                Err(error)
            }
        }
    }

    /// The SELinux label of the pod's files.
    pub(super) fn file_label(&self) -> Result<Option<String>, RunError> {
        confinement::pod_file_label(&self.cx.parts.host, &self.record)
            .map_err(|source| InvalidPod::Selinux(Box::new(source)).into())
    }

    async fn start_shim(&mut self) -> Result<PodReady, RunError> {
        let setup = Body::SetupPod(Box::new(self.pod_setup()?));
        let (cx, record) = (Arc::clone(&self.cx), Arc::clone(&self.record));
        let child = blocking::run(move || spawn(&cx, &record)).await?;
        let sandbox = self.id().clone();
        let number = child.id();
        let process = ShimProcess::Child(child);
        if let Err(source) = self.begin_scope(number).await {
            process.end(&sandbox).await;
            return Err(RunError::Scope { sandbox, source });
        }
        let ((link, events, hello), answer) = match self.greet_and_ask(setup).await {
            Ok(connected) => connected,
            Err(source) => {
                process.end(&sandbox).await;
                return Err(RunError::Setup { sandbox, source });
            }
        };
        Arc::make_mut(&mut self.record).shim = process_record(hello.pid);
        self.shim = Some(Shim { link: Arc::new(link), events, process, pause_pid: None });
        match answer {
            Ok(Response::PodReady(ready)) => Ok(ready),
            Ok(_other) => {
                let source = LinkError::Confused { sandbox: sandbox.clone() };
                Err(RunError::Setup { sandbox, source })
            }
            Err(source) => Err(RunError::Setup { sandbox, source }),
        }
    }

    async fn greet_and_ask(
        &self,
        setup: Body,
    ) -> Result<(Connected, Result<Response, LinkError>), LinkError> {
        let _span = span("daemon: greet the shim, ask for the namespaces");
        failpoint::reach(Point::PodConnect)
            .and_then(|()| failpoint::reach(Point::PodSetup))
            .map_err(|source| LinkError::Connect { sandbox: self.id().clone(), source })?;
        let state = self.cx.paths().pod_state(self.id());
        ShimLink::connect_asking(self.id(), &state, setup).await
    }

    /// While systemd works the shim starts by itself.
    async fn begin_scope(&self, shim: u32) -> Result<(), ScopeError> {
        if self.record.cgroup_driver == CgroupDriver::Cgroupfs {
            // Nobody is asked, and nothing blocks.
            return scopes::begin(&self.cx.parts.host.cgroup, &self.record, shim);
        }
        let _span = span("daemon: have systemd make the scope");
        let (cx, record) = (Arc::clone(&self.cx), Arc::clone(&self.record));
        blocking::run(move || scopes::begin(&cx.parts.host.cgroup, &record, shim)).await
    }
}

/// Directories, the record of intent, the shim: before that record there is no process, and before the
/// shim is asked for more there is neither a namespace nor an address.
fn spawn(cx: &Context, record: &PodRecord) -> Result<Child, RunError> {
    let sandbox = || record.id.clone();
    let state = cx.paths().pod_state(&record.id);
    let intent = span("daemon: directories, intent");
    files::reach(Point::PodDirectories, "create directory", &state)
        .and_then(|()| files::make_dir(&cx.paths().containers(&record.id)))
        .and_then(|()| files::make_dir(&state.join("exits")))
        .map_err(|source| RunError::Files { sandbox: sandbox(), source })?;
    write_pod(cx, record, Point::PodIntent)
        .map_err(|source| RunError::Record { sandbox: sandbox(), source })?;
    drop(intent);
    crate::spawn::spawn(&cx.parts.shim, &state)
        .map_err(|source| RunError::Spawn { sandbox: sandbox(), source })
}

/// What containers find in `/etc`, and the directory of their logs.
async fn make_files(
    cx: Arc<Context>,
    record: Arc<PodRecord>,
    label: Option<String>,
) -> Result<(), RunError> {
    let (in_logs, of_logs) = (Arc::clone(&cx), Arc::clone(&record));
    let files = blocking::run(move || write_files(&cx, &record, label.as_deref()));
    let (files, logs) = tokio::join!(files, make_log_dir(&in_logs, &of_logs));
    logs.and(files)
}

fn write_files(cx: &Context, record: &PodRecord, label: Option<&str>) -> Result<(), RunError> {
    let _span = span("daemon: files");
    let sandbox = || record.id.clone();
    let state = cx.paths().pod_state(&record.id);
    let write = || {
        files::make_dir(&state)?;
        files::reach(Point::PodFiles, "write files in", &state)?;
        files::write_pod_files(&state, &record.config)?;
        let users = record.config.security.namespaces.own_users();
        match users.and_then(|users| users.host_gid(0)) {
            Some(group) if record.runtime.program.is_some() => {
                files::let_pass(cx.paths(), &record.id, group)
            }
            Some(_) | None => Ok(()),
        }
    };
    write().map_err(|source| RunError::Files { sandbox: sandbox(), source })?;
    let Some(label) = label else { return Ok(()) };
    confinement::label_pod_files(&state, label)
        .map_err(|source| RunError::Label { sandbox: sandbox(), source })
}

/// It may be on a file system that is dead, and the pod is not.
async fn make_log_dir(cx: &Context, record: &PodRecord) -> Result<(), RunError> {
    match record.config.log_directory.as_str() {
        "" => Ok(()),
        path => (cx.silent.make_log_dir(Path::new(path)).await)
            .map_err(|source| RunError::Files { sandbox: record.id.clone(), source }),
    }
}

/// What identifies a live process; `None` when it is gone already.
pub(super) fn process_record(pid: i32) -> Option<ProcessRecord> {
    let start_ticks = crate::host::start_ticks(pid)?;
    Some(ProcessRecord { pid, start_ticks })
}
