//! Removing a pod whose record cannot be used: what is known of it is its id and where it lies.

use std::collections::HashSet;
use std::time::Duration;

use model::SandboxId;
use shim_protocol::Body;

use super::Quarantined;
use crate::blocking;
use crate::error::{StepError, TeardownError, chain};
use crate::files::remove_tree;
use crate::link::ShimLink;
use crate::manager::Sandboxes;
use crate::pins;
use crate::pod::end_shim_process;
use crate::scopes::scope_name;
use crate::{cgroups, shims};

/// A silent shim is killed.
const ANSWERS_WITHIN: Duration = Duration::from_secs(15);

impl Sandboxes {
    /// Pods and containers whose records cannot be used. Never waits.
    pub fn quarantined(&self) -> Vec<Quarantined> {
        self.cx.quarantine.all()
    }

    /// Ends the pod and removes what it owns. Every step is tried, and can be run again.
    pub(crate) async fn remove_quarantined(&self, pod: Quarantined) -> Result<(), TeardownError> {
        let id = pod.sandbox.clone();
        let mut failed = Vec::new();
        self.end_shim_of(&id).await;
        let cx = self.cx.clone();
        let owned = blocking::run(move || {
            let swept = cgroups::sweep_named(&cx.parts.host.cgroup, &pod.cgroup_names());
            let unpinned = pins::unpin(&cx.paths().netns(&pod.sandbox));
            let gone = remove_tree(&cx.paths().pod_state(&pod.sandbox));
            let steps = [
                swept.map_err(StepError::Cgroup),
                unpinned.map_err(StepError::Netns),
                gone.map_err(StepError::Files),
            ];
            let mut failed: Vec<_> = steps.into_iter().filter_map(Result::err).collect();
            if failed.is_empty()
                && let Err(error) = remove_tree(&pod.path)
            {
                failed.push(StepError::Files(error));
            }
            failed
        });
        failed.extend(owned.await);
        if !failed.is_empty() {
            return Err(TeardownError { sandbox: id, failed });
        }
        self.cx.quarantine.forget_pod(&id);
        tracing::info!(sandbox = %id, "a pod sandbox without a usable record is removed");
        if let Err(error) = self.collect_networks().await {
            tracing::warn!(sandbox = %id, error = chain(&error), "its addresses go later");
        }
        if let Err(error) = self.cx.parts.images.collect().await {
            tracing::warn!(sandbox = %id, error = chain(&error), "its layers go later");
        }
        Ok(())
    }

    /// Asks it to end its containers and itself; what does not listen is killed.
    async fn end_shim_of(&self, id: &SandboxId) {
        self.ask_shim_to_end(id).await;
        let cx = self.cx.clone();
        let running = blocking::run(move || shims::running(&cx.paths().pod_states())).await;
        for shim in running.unwrap_or_default().into_iter().filter(|shim| shim.sandbox == *id) {
            end_shim_process(shim.process, id).await;
        }
    }

    /// Returns when it has, or does not answer.
    pub(crate) async fn ask_shim_to_end(&self, id: &SandboxId) {
        let state = self.cx.paths().pod_state(id);
        let asked = tokio::time::timeout(ANSWERS_WITHIN, async {
            let (link, _events, _hello) = ShimLink::connect(id, &state).await?;
            link.call_done(Body::Shutdown).await
        });
        match asked.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(sandbox = %id, error = chain(&error), "no shim"),
            Err(_elapsed) => tracing::warn!(sandbox = %id, "its shim does not answer"),
        }
    }
}

impl Quarantined {
    /// The names of the control groups it may have: its own and those of its containers. Blocking.
    pub(crate) fn cgroup_names(&self) -> HashSet<String> {
        let containers = std::fs::read_dir(self.path.join("containers")).into_iter().flatten();
        let names = containers.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let ids = names.map(|name| name.trim_end_matches(".bad").to_owned());
        let names: HashSet<String> =
            ids.chain([self.id().to_owned()]).filter(|name| name.len() == 64).collect();
        let scope = SandboxId::parse(self.id()).ok().map(|id| scope_name(&id));
        names.into_iter().chain(scope).collect()
    }
}
