//! Pod networks as a whole: whether there is one, the node's pod ranges, and forgetting what
//! belongs to pods that are no more.

use std::sync::Arc;
use std::time::Duration;

use model::SandboxId;
use tokio_util::sync::CancellationToken;

use crate::blocking;
use crate::context::Context;
use crate::error::chain;
use crate::manager::Sandboxes;

/// How soon again, when plugins could not be asked because pods came and went.
const AGAIN: Duration = Duration::from_secs(20);
/// How long the daemon's start waits for the first look. A plugin that hangs must not keep the
/// node down; the look goes on all the same.
const START_WAITS: Duration = Duration::from_secs(5);

/// A sandbox has its name from before its network is made until after it is gone.
pub(crate) struct LivePods(pub(crate) Arc<Context>);

impl cni::Live for LivePods {
    fn is_live(&self, container: &str) -> bool {
        let named = SandboxId::parse(container).is_ok_and(|id| self.0.names.holds(&id));
        named
            || self.0.index.pods().iter().any(|pod| pod.record.id.as_str() == container)
            || self.0.quarantine.pod(container).is_some()
    }

    fn all(&self) -> Vec<SandboxId> {
        let pods = self.0.index.pods();
        pods.iter().map(|pod| pod.record.id.clone()).chain(self.0.quarantine.pods()).collect()
    }
}

/// Addresses and cached attachments of pods that are no more: a crash at the wrong moment. True
/// when it should be looked again soon.
async fn collect(cx: Arc<Context>) -> bool {
    let live = LivePods(Arc::clone(&cx));
    failpoint::pass(failpoint::Point::RecoverNetworks);
    match blocking::run(move || cx.parts.network.gc(&live)).await {
        Ok(report) => {
            for failure in &report.failures {
                tracing::warn!(error = chain(failure), "not cleaned up; tried again later");
            }
            if report.detached > 0 || report.released > 0 {
                tracing::info!(
                    detached = report.detached,
                    released = report.released,
                    "network attachments of pods that are gone were cleaned up"
                );
            }
            report.busy
        }
        Err(error) => {
            tracing::warn!(error = chain(&error), "networks not cleaned up");
            false
        }
    }
}

/// Looks again and again until the daemon drains.
async fn keep_collecting(cx: Arc<Context>, draining: CancellationToken, mut soon: bool) {
    loop {
        let every = cx.parts.network_gc_every;
        let pause = if soon { AGAIN.min(every) } else { every };
        if tokio::time::timeout(pause, draining.cancelled()).await.is_ok() {
            return;
        }
        soon = collect(Arc::clone(&cx)).await;
    }
}

impl Sandboxes {
    /// The first look, and the task that looks from then on.
    pub(crate) async fn start_collecting_networks(&self) {
        let (cx, draining) = (Arc::clone(&self.cx), self.draining.clone());
        let (looked, first) = tokio::sync::oneshot::channel::<()>();
        self.tasks.spawn(async move {
            let soon = collect(Arc::clone(&cx)).await;
            drop(looked);
            keep_collecting(cx, draining, soon).await;
        });
        if tokio::time::timeout(START_WAITS, first).await.is_err() {
            tracing::warn!("cleaning up networks takes long; it goes on in the background");
        }
    }

    /// Whether pods can have a network: the latest answer, without asking anybody.
    pub fn network_status(&self) -> cni::NetworkStatus {
        self.cx.parts.network_monitor.status()
    }

    /// Who holds which address.
    ///
    /// # Errors
    /// [`cni::GcError`].
    pub async fn holdings(&self) -> Result<Vec<cni::Holding>, cni::GcError> {
        let cx = Arc::clone(&self.cx);
        blocking::run(move || cx.parts.network.holdings(&LivePods(Arc::clone(&cx)))).await
    }

    /// A sandbox's attachments in full. Waits for plugins.
    ///
    /// # Errors
    /// [`cni::GcError`].
    pub async fn inspect_network(
        &self,
        sandbox: String,
    ) -> Result<Vec<cni::AttachmentDetail>, cni::GcError> {
        let cx = Arc::clone(&self.cx);
        blocking::run(move || cx.parts.network.inspect(&sandbox)).await
    }

    /// Releases what belongs to no pod, at once.
    ///
    /// # Errors
    /// [`cni::GcError`].
    pub async fn collect_networks(&self) -> Result<cni::GcReport, cni::GcError> {
        let cx = Arc::clone(&self.cx);
        blocking::run(move || cx.parts.network.gc(&LivePods(Arc::clone(&cx)))).await
    }

    /// CRI `UpdateRuntimeConfig`: the node's pod ranges.
    ///
    /// # Errors
    /// [`cni::PodRangesError`].
    pub async fn set_pod_ranges(
        &self,
        ranges: String,
    ) -> Result<cni::PodRanges, cni::PodRangesError> {
        let cx = Arc::clone(&self.cx);
        blocking::run(move || cx.parts.network.set_pod_ranges(&ranges)).await
    }
}
