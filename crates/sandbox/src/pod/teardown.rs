//! `StopPodSandbox` and `RemovePodSandbox`: every step is tried, every step can be run again,
//! what failed is collected and reported together.

use std::sync::Arc;

use failpoint::Point;
use model::ContainerId;
use shim_protocol::Body;
use tokio::time::Instant;

use super::{DIES_WITHIN, Owner};
use crate::blocking;
use crate::context::owns_cgroup_parent;
use crate::error::{StepError, TeardownError};
use crate::events::EventKind;
use crate::files::{self, remove_tree};
use crate::link::{LinkError, LinkEvent};
use crate::record::PodPhase;

impl Owner {
    /// Kills the containers, releases the network, ends the shim. Listed as NOTREADY afterwards.
    pub(super) async fn stop_pod(&mut self) -> Result<(), TeardownError> {
        let mut failed = Vec::new();
        let was_ready = self.record.phase == PodPhase::Ready;
        self.set_phase(PodPhase::Stopped).await;
        self.kill_containers(&mut failed).await;
        self.detach(&mut failed).await;
        if !is_silent(&failed) {
            self.end_shim(&mut failed).await;
        }
        self.unpin(&mut failed).await;
        self.publish();
        if was_ready {
            self.tell(EventKind::Stopped, self.id().as_str());
        }
        failpoint::pass(Point::PodStopAnswer);
        self.outcome(failed)
    }

    /// Stops the pod and removes everything that is its own; logs stay.
    pub(super) async fn remove_pod(&mut self) -> Result<(), TeardownError> {
        let mut failed = match self.stop_pod().await {
            Ok(()) => Vec::new(),
            Err(error) => error.failed,
        };
        let ids: Vec<ContainerId> = self.containers.keys().cloned().collect();
        for id in ids {
            if is_silent(&failed) {
                break;
            }
            if let Err(error) = self.discard_container(&id).await {
                failed.push(error);
            }
        }
        if failed.is_empty() {
            self.remove_files(&mut failed).await;
        }
        if failed.is_empty() {
            if self.announced {
                self.cx.index.drop_pod(self.id());
                self.tell(EventKind::Deleted, self.id().as_str());
            }
            tracing::info!(sandbox = %self.id(), "pod sandbox removed");
            failpoint::pass(Point::PodRemoveAnswer);
        }
        self.outcome(failed)
    }

    fn outcome(&self, failed: Vec<StepError>) -> Result<(), TeardownError> {
        if failed.is_empty() {
            Ok(())
        } else {
            Err(TeardownError { sandbox: self.id().clone(), failed })
        }
    }

    async fn kill_containers(&mut self, failed: &mut Vec<StepError>) {
        self.end_starts().await;
        let Some(link) = self.link() else {
            failed.extend(self.bury_running().await);
            return;
        };
        let mut dying = Vec::new();
        for id in self.running() {
            let body = Body::Kill {
                container: id.to_string(),
                signal: model::Signal::KILL.number(),
                all: true,
            };
            if is_silent(failed) {
                // It does so when it comes round.
                link.tell(body);
                continue;
            }
            match self.reach(Point::PodStopKill, link.call_done(body)).await {
                // A shim that is gone is dealt with when its link reports so.
                Ok(()) | Err(LinkError::Gone { .. }) => dying.push(id),
                Err(error) => failed.push(StepError::Shim(error)),
            }
        }
        let deadline = Instant::now() + DIES_WITHIN;
        loop {
            let running = self.running();
            dying.retain(|id| running.contains(id));
            if dying.is_empty() {
                break;
            }
            let event = match &mut self.shim {
                Some(shim) => tokio::time::timeout_at(deadline, shim.events.recv()).await,
                None => break,
            };
            match event {
                Ok(event) => self.on_event(event.unwrap_or(LinkEvent::Closed)).await,
                Err(_elapsed) => break,
            }
        }
        failed.extend(dying.into_iter().map(|container| StepError::StillRunning {
            container,
            seconds: DIES_WITHIN.as_secs(),
        }));
    }

    /// CNI DEL is due from the moment before ADD until it has succeeded once.
    async fn detach(&mut self, failed: &mut Vec<StepError>) {
        if !self.record.attached {
            return;
        }
        let cx = Arc::clone(&self.cx);
        let attachment = self.attachment();
        match blocking::run(move || cx.parts.network.del(&attachment)).await {
            Ok(()) => {
                Arc::make_mut(&mut self.record).attached = false;
                // DEL can be repeated. A disk that is full must not keep a pod from going.
                self.store_pod_or_later(Point::PodStopDetached).await;
            }
            Err(error) => failed.push(StepError::Network(error)),
        }
    }

    async fn end_shim(&mut self, failed: &mut Vec<StepError>) {
        let Some(shim) = self.shim.take() else {
            let ids = self.containers.keys().map(ToString::to_string).collect();
            self.delete_by_runtime(ids).await;
            self.sweep_cgroups(failed).await;
            return;
        };
        let ended = self.reach(Point::PodStopShim, shim.link.call_done(Body::Shutdown)).await;
        match ended {
            Ok(()) | Err(LinkError::Gone { .. }) => {}
            Err(error) => {
                failed.push(StepError::Shim(error));
                self.shim = Some(shim);
                return;
            }
        }
        shim.process.end(self.id()).await;
        // Those that could not be ended one by one have ended with it.
        failed.extend(self.bury_running().await);
        self.sweep_cgroups(failed).await;
    }

    /// The pod's own cgroup, and those of containers whose shim died.
    pub(super) async fn sweep_cgroups(&self, failed: &mut Vec<StepError>) {
        let mut names: Vec<String> = self.containers.keys().map(ToString::to_string).collect();
        // Those whose records cannot be used may run as well.
        let broken = self.cx.quarantine.all().into_iter().filter(|it| it.sandbox == *self.id());
        names.extend(broken.filter_map(|it| it.container).map(|id| id.to_string()));
        names.push(self.id().to_string());
        failed.extend(self.sweep_cgroups_of(names).await.err());
        let record = Arc::clone(&self.record);
        let ended = blocking::run(move || crate::scopes::end(&record)).await;
        failed.extend(ended.map_err(StepError::Scope).err());
    }

    /// The cgroups of these names; with the pod itself also the one that was made for it.
    pub(super) async fn sweep_cgroups_of(&self, names: Vec<String>) -> Result<(), StepError> {
        let layout = self.cx.parts.host.cgroup.clone();
        let parent = self.cgroup_parent.to_string();
        let own_parent = owns_cgroup_parent(&self.record) && names.contains(&self.id().to_string());
        let sweep = move || crate::cgroups::sweep(&layout, &parent, &names, own_parent);
        blocking::run(sweep).await.map_err(StepError::Cgroup)
    }

    /// The shim unpins the namespace itself; after its violent death somebody else has to.
    async fn unpin(&mut self, failed: &mut Vec<StepError>) {
        let path = self.cx.paths().netns(self.id());
        if let Err(error) = blocking::run(move || crate::pins::unpin(&path)).await {
            failed.push(StepError::Netns(error));
        }
    }

    async fn remove_files(&mut self, failed: &mut Vec<StepError>) {
        let cx = Arc::clone(&self.cx);
        let id = self.id().clone();
        // The record's directory goes last: until then a restart finds the pod again.
        let removed = blocking::run(move || {
            let (state, pod) = (cx.paths().pod_state(&id), cx.paths().pod(&id));
            files::reach(Point::PodRemoveState, "remove", &state)?;
            remove_tree(&state)?;
            files::reach(Point::PodRemoveDirectory, "remove", &pod)?;
            remove_tree(&pod)
        })
        .await;
        match removed {
            Ok(()) => self.cx.quarantine.forget_pod(self.id()),
            Err(error) => failed.push(StepError::Files(error)),
        }
    }
}

/// Nobody is left to be asked for more: each question that a shim does not answer costs a minute, and
/// kubelet waits for two.
fn is_silent(failed: &[StepError]) -> bool {
    failed.iter().any(|error| matches!(error, StepError::Shim(LinkError::Silent { .. })))
}
