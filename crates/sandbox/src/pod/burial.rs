//! What becomes of a pod whose shim is gone: nobody keeps its containers any more, so they are
//! ended from outside, and what is known of their end is recorded.

use model::ContainerId;
use shim_protocol::Exit;

use super::{Container, Owner};
use crate::blocking;
use crate::cgroups;
use crate::context::{cgroup_of, now};
use crate::error::{StepError, chain};
use crate::events::EventKind;
use crate::record::{ContainerState, ExitReason, ExitRecord, PodPhase};

/// 128 and SIGKILL.
const KILLED: i32 = 137;

/// Of a container that ran until knarr found it without a shim.
const UNKEPT: &str = "knarr-shim, which kept it, was gone: knarr has killed it";

/// CRI: the exit code of a container whose end nobody saw.
const UNSEEN: i32 = 255;

impl Owner {
    /// The shim died: what it held has no keeper any more.
    pub(super) async fn on_shim_lost(&mut self) {
        tracing::error!(sandbox = %self.id(), "the shim is gone: ending its containers");
        if let Some(shim) = self.shim.take() {
            shim.process.end(self.id()).await;
        }
        self.end_unkept().await;
        self.lose_readiness().await;
    }

    /// Ends whatever the shim has started, known or not: it may have died between a launch and its
    /// answer. What resists is tried again when the pod is stopped.
    pub(super) async fn end_unkept(&mut self) {
        let mut failed = self.bury_running().await;
        self.delete_by_runtime(Vec::new()).await;
        self.sweep_cgroups(&mut failed).await;
        for error in failed {
            tracing::error!(sandbox = %self.id(), error = chain(&error), "left by the shim");
        }
    }

    /// The pod has ended by itself.
    pub(super) async fn lose_readiness(&mut self) {
        let was_ready = self.record.phase == PodPhase::Ready;
        self.set_phase(PodPhase::Stopped).await;
        if was_ready {
            self.tell(EventKind::Stopped, self.id().as_str());
        }
    }

    /// Ends, from outside, every container that no shim keeps, and records what is known of it.
    /// Those that do not end are the errors, and run on as far as anybody is told.
    pub(super) async fn bury_running(&mut self) -> Vec<StepError> {
        self.bury(self.running()).await
    }

    pub(super) async fn bury(&mut self, ids: Vec<ContainerId>) -> Vec<StepError> {
        let mut failed = Vec::new();
        for id in ids {
            if let Err(error) = self.bury_one(&id).await {
                failed.push(error);
            }
        }
        failed
    }

    async fn bury_one(&mut self, id: &ContainerId) -> Result<(), StepError> {
        let Some(container) = self.containers.get(id) else { return Ok(()) };
        let (pid, started_at) = match &container.record.state {
            ContainerState::Running { pid, started_at } => (Some(*pid), Some(*started_at)),
            ContainerState::Created | ContainerState::Exited(_) => (None, None),
        };
        let cgroup = cgroup_of(&self.cgroup_parent, id);
        // What runs in a sandbox is, for the host, the sandbox's process.
        let sandbox = self.record.runtime.sandbox_program().map(|_program| self.sandbox_cgroup());
        let layout = self.cx.parts.host.cgroup.clone();
        let (ran, ended) = blocking::run(move || {
            let holds = |group: &String, pid| cgroups::holds(&layout, group, pid);
            let ran = pid.is_some_and(|pid| {
                holds(&cgroup, pid) || sandbox.is_some_and(|group| holds(&group, pid))
            });
            (ran, cgroups::end(&layout, &cgroup))
        })
        .await;
        self.delete_by_runtime(vec![id.to_string()]).await;
        ended.map_err(StepError::Cgroup)?;
        if let Some(exit) = self.read_exit_file(id).await {
            self.on_exit(id, &exit).await;
            return Ok(());
        }
        let (code, reason, message) = if ran {
            (KILLED, ExitReason::Error, UNKEPT.to_owned())
        } else {
            (UNSEEN, ExitReason::Unknown, String::new())
        };
        // The clock may have been set back meanwhile.
        let finished_at = started_at.map_or_else(now, |started| now().max(started));
        let lost = ExitRecord { started_at, finished_at, code, reason, message };
        tracing::info!(
            sandbox = %self.id(), container = %id, code, reason = reason.as_str(),
            "container without a shim ended"
        );
        self.set_container_state(id, ContainerState::Exited(lost)).await;
        self.tell(EventKind::Stopped, id.as_str());
        self.after_exit(id).await;
        Ok(())
    }

    /// Kills what lives in the group of a container that does not run. Between the owner's other work,
    /// so it is none that is just being started; one that was started meanwhile is left alone.
    pub(super) async fn end_leftovers(&self, id: &ContainerId) -> Result<(), StepError> {
        if self.containers.get(id).is_none_or(Container::is_running) {
            return Ok(());
        }
        let (layout, cgroup) =
            (self.cx.parts.host.cgroup.clone(), cgroup_of(&self.cgroup_parent, id));
        let killed = blocking::run(move || cgroups::kill(&layout, &cgroup)).await;
        killed.map_err(StepError::Cgroup)
    }

    async fn read_exit_file(&self, id: &ContainerId) -> Option<Exit> {
        let path = self.cx.paths().exit_file(self.id(), id);
        let text = blocking::run(move || std::fs::read_to_string(path)).await.ok()?;
        match Exit::from_file(&text) {
            Ok(exit) => Some(exit),
            Err(_) if shim_protocol::is_reserved_exit_file(&text) => None,
            Err(error) => {
                tracing::warn!(container = %id, %error, "exit file ignored");
                None
            }
        }
    }
}
