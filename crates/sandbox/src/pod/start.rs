//! `StartContainer`: the stored spec becomes a launch plan, the shim a process.

use std::sync::Arc;

use failpoint::Point;
use launch::plan::ExecPlan;
use model::{ContainerId, NamespaceMode, Signal};
use oci_spec::runtime::Process;
use shim_protocol::Body;

use super::starting::{Start, Starting};
use super::stop::unknown;
use super::{Owner, Reply};
use crate::admission::{self, Refusal};
use crate::blocking;
use crate::context::{cgroup_of, now};
use crate::error::{ContainerError, StartError, chain};
use crate::events::EventKind;
use crate::link::{LinkError, ShimLink};
use crate::plan;
use crate::record::{ContainerRecord, ContainerState, ExitReason, ExitRecord};
use crate::targets::ExecTarget;
use crate::view::LookupError;

/// CRI: the exit code of a container whose program never ran.
const START_FAILED: i32 = 128;

impl Owner {
    /// Begins a start, which is answered by [`Self::on_launched`].
    pub(super) fn on_start(&mut self, id: &ContainerId, reply: Reply<(), StartError>) {
        let Some(container) = self.containers.get_mut(id) else {
            let lookup = LookupError::NotFound { kind: "container", id: id.to_string() };
            drop(reply.send(Err(StartError::Lookup(lookup))));
            return;
        };
        let removing = !container.removals.is_empty();
        if let Err(source) = admission::start(self.record.phase, &container.record.state, removing)
        {
            drop(reply.send(Err(StartError::Refused { container: id.clone(), source })));
            return;
        }
        container.starting = Some(Starting::new(reply));
        let record = Arc::clone(&container.record);
        self.cx.index.set_starting(id);
        let pid_target = self.running_target(&record);
        let (cx, pod, link) = (Arc::clone(&self.cx), Arc::clone(&self.record), self.link());
        self.starts.begin(Start { cx, pod, record, pid_target, link });
    }

    /// What came of a start is on record from here on.
    pub(super) async fn record_start(
        &mut self,
        id: &ContainerId,
        result: Result<ContainerState, StartError>,
    ) -> Result<(), StartError> {
        match result {
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
                if matches!(&error, StartError::Launch { source, .. } if !source.is_final()) {
                    self.end_unrecorded(id);
                }
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
    fn running_target(&self, record: &ContainerRecord) -> Result<Option<String>, Refusal> {
        if record.config.security.namespaces.pid != NamespaceMode::Target {
            return Ok(None);
        }
        let target = self.pid_target(&record.config).ok_or(Refusal::TargetEnded)?;
        Ok(Some(target.0.to_string()))
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
