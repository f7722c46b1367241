//! `StartContainer`: the stored spec becomes a launch plan, the shim a process.

use std::sync::Arc;

use failpoint::Point;
use launch::plan::ExecPlan;
use model::{ContainerId, NamespaceMode, Signal, UnixNanos};
use oci_spec::runtime::Process;
use shim_protocol::{Body, Response, StartContainer};
use sys::trace::span;

use super::Owner;
use super::create::mount_sources;
use super::run::warn;
use super::stop::unknown;
use crate::admission;
use crate::blocking;
use crate::context::{cgroup_of, now};
use crate::error::{ContainerError, StartError, chain};
use crate::events::EventKind;
use crate::files::FileError;
use crate::link::{LinkError, ShimLink};
use crate::plan::{self, PlanFailure};
use crate::record::{ContainerRecord, ContainerState, ExitReason, ExitRecord};
use crate::targets::ExecTarget;
use crate::view::LookupError;

/// CRI: the exit code of a container whose program never ran.
const START_FAILED: i32 = 128;

impl Owner {
    pub(super) async fn start_container(&mut self, id: &ContainerId) -> Result<(), StartError> {
        let container = self.containers.get(id).ok_or_else(|| {
            StartError::Lookup(LookupError::NotFound { kind: "container", id: id.to_string() })
        })?;
        let removing = !container.removals.is_empty();
        admission::start(self.record.phase, &container.record.state, removing)
            .map_err(|source| StartError::Refused { container: id.clone(), source })?;
        let _span = span("daemon: start the container");
        self.cx.index.set_starting(id);
        let launched = self.launch(id).await;
        match launched {
            Ok(state) => {
                tracing::info!(sandbox = %self.id(), container = %id, "container started");
                self.set_container_state(id, state).await;
                let cgroup = cgroup_of(&self.cgroup_parent, id).into();
                self.cx.sampler.rates.sample(&cgroup, std::time::Instant::now(), 0);
                self.tell(EventKind::Started, id.as_str());
                failpoint::pass(Point::StartAnswer);
                Ok(())
            }
            Err(error) => {
                // CRI: EXITED, so that Stop, Remove and a new Create of the same name work.
                let failed = ExitRecord {
                    started_at: None,
                    finished_at: now(),
                    code: START_FAILED,
                    reason: ExitReason::StartError,
                    message: chain(&error),
                };
                self.set_container_state(id, ContainerState::Exited(failed)).await;
                self.tell(EventKind::Stopped, id.as_str());
                Err(error)
            }
        }
    }

    async fn launch(&mut self, id: &ContainerId) -> Result<ContainerState, StartError> {
        let planned = |source| StartError::Plan { container: id.clone(), source };
        let Some(container) = self.containers.get(id) else {
            return Err(StartError::Lookup(LookupError::NotFound {
                kind: "container",
                id: id.to_string(),
            }));
        };
        let record = Arc::clone(&container.record);
        let pid_target = self.running_target(&record)?;
        let (answers, plan) = tokio::join!(self.paths_answer(&record), self.launch_plan(&record));
        answers.map_err(|source| StartError::Silent { container: id.clone(), source })?;
        let plan = plan.map_err(planned)?;
        let config = &record.config;
        let start = StartContainer {
            container: id.to_string(),
            plan: plan.encode(),
            log_path: record.log_path.clone(),
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            kill_rest: config.security.namespaces.pid != NamespaceMode::Container,
            pid_target,
            stop_signal: Some(record.stop_signal.number()),
        };
        let body = self.start_body(&record, start).map_err(planned)?;
        let fail = |source| StartError::Launch { container: id.clone(), source };
        let sandbox = self.id().clone();
        let link = self.link().ok_or_else(|| fail(LinkError::Gone { sandbox: sandbox.clone() }))?;
        failpoint::reach(Point::StartLaunch)
            .map_err(|source| fail(LinkError::Connect { sandbox: sandbox.clone(), source }))?;
        let asked = {
            let _span = span("daemon: ask for the launch");
            link.call(body, Vec::new()).await
        };
        let source = match asked {
            Ok(Response::Started(started)) => {
                warn(&sandbox, &started.warnings);
                return Ok(ContainerState::Running {
                    pid: started.pid,
                    started_at: UnixNanos(started.started_at),
                });
            }
            Ok(_other) => LinkError::Confused { sandbox },
            Err(source) => source,
        };
        if !source.is_final() {
            self.end_unrecorded(id);
        }
        Err(fail(source))
    }

    /// The shim, which has one thread and a pod to keep, does not come back from what is dead.
    async fn paths_answer(&self, record: &ContainerRecord) -> Result<(), FileError> {
        let log = record.log_dir().map(|dir| dir.to_string_lossy().into_owned());
        let paths = log.into_iter().chain(mount_sources(&record.config)).collect();
        self.cx.silent.ask(paths).await
    }

    /// Ends a container that is on record as ended and may run all the same: a start that was given
    /// up and may yet come about.
    pub(super) fn end_unrecorded(&self, id: &ContainerId) {
        if let Some(link) = self.link() {
            let signal = Signal::KILL.number();
            link.tell(Body::Kill { container: id.to_string(), signal, all: true });
        }
    }

    /// CRI: the container whose PID namespace is to be joined must run at the start too. Its number
    /// in the spec might by now be another process's.
    fn running_target(&self, record: &ContainerRecord) -> Result<Option<String>, StartError> {
        if record.config.security.namespaces.pid != NamespaceMode::Target {
            return Ok(None);
        }
        match self.pid_target(&record.config) {
            Some((id, _)) => Ok(Some(id.to_string())),
            None => {
                let source = admission::Refusal::TargetEnded;
                Err(StartError::Refused { container: record.id.clone(), source })
            }
        }
    }

    async fn launch_plan(
        &self,
        record: &Arc<ContainerRecord>,
    ) -> Result<launch::plan::LaunchPlan, PlanFailure> {
        let (cx, record) = (Arc::clone(&self.cx), Arc::clone(record));
        let _span = span("daemon: plan the launch");
        blocking::run(move || plan::container(&cx, &record)).await
    }

    /// Whom to ask for the standard files of this container.
    pub(super) fn attach_target(&self, id: &ContainerId) -> Result<Arc<ShimLink>, ContainerError> {
        let what = "attach to";
        let container = self.containers.get(id).ok_or_else(|| unknown(id))?;
        admission::use_running(&container.record.state)
            .map_err(|source| ContainerError::Refused { what, container: id.clone(), source })?;
        self.link().ok_or_else(|| ContainerError::Shim {
            what,
            container: id.clone(),
            source: LinkError::Gone { sandbox: self.id().clone() },
        })
    }

    /// What an exec needs of this container; the spec is read once.
    pub(super) async fn exec_target(
        &mut self,
        id: &ContainerId,
    ) -> Result<ExecTarget, ContainerError> {
        let what = "run a command in";
        let container = self.containers.get(id).ok_or_else(|| unknown(id))?;
        admission::use_running(&container.record.state)
            .map_err(|source| ContainerError::Refused { what, container: id.clone(), source })?;
        let gone = || ContainerError::Shim {
            what,
            container: id.clone(),
            source: LinkError::Gone { sandbox: self.id().clone() },
        };
        let link = self.link().ok_or_else(gone)?;
        let (plan, process) = self.read_exec_plan(id).await?;
        let target = ExecTarget { link, plan, process };
        // Taken out again when its state changes.
        self.cx.exec_targets.put(id.clone(), target.clone());
        Ok(target)
    }

    async fn read_exec_plan(
        &self,
        id: &ContainerId,
    ) -> Result<(Arc<ExecPlan>, Option<Arc<Process>>), ContainerError> {
        let cx = Arc::clone(&self.cx);
        let container = self.containers.get(id).ok_or_else(|| unknown(id))?;
        let record = Arc::clone(&container.record);
        let external = self.record.runtime.program.is_some();
        let read = blocking::run(move || {
            let process = external.then(|| plan::process(&cx, &record).map(Arc::new));
            Ok((Arc::new(plan::exec(&cx, &record)?), process.transpose()?))
        });
        read.await.map_err(|source| ContainerError::Plan {
            container: id.clone(),
            source: Box::new(source),
        })
    }
}
