//! `UpdatePodSandboxResources`: the pod's new totals, for whoever reads them.

use std::sync::Arc;

use model::{Resources, SandboxId};

use super::Owner;
use crate::admission::{self, Refusal};
use crate::view::LookupError;

/// Why `UpdatePodSandboxResources` failed. The old totals hold.
#[derive(Debug, thiserror::Error)]
pub enum UpdatePodError {
    /// The pod.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// Its state does not allow it.
    #[error("cannot change the resources of sandbox {sandbox}")]
    Refused {
        /// The pod.
        sandbox: SandboxId,
        /// Why.
        source: Refusal,
    },
    /// They cannot be limits, or not on this host.
    #[error("cannot change the resources of sandbox {sandbox}")]
    Limits {
        /// The pod.
        sandbox: SandboxId,
        /// Why.
        source: Box<bundle::SpecError>,
    },
    /// They cannot be recorded.
    #[error("cannot record the resources of sandbox {sandbox}")]
    Record {
        /// The pod.
        sandbox: SandboxId,
        /// Why.
        source: store::WriteError,
    },
}

/// A pod's totals; what is not given stays as it is.
#[derive(Debug)]
pub(crate) struct PodResources {
    pub(crate) overhead: Option<Resources>,
    pub(crate) resources: Option<Resources>,
}

impl Owner {
    /// Recorded or refused, not half: kubelet calls again with the old values to go back.
    pub(super) async fn update_pod(&mut self, change: PodResources) -> Result<(), UpdatePodError> {
        let sandbox = self.id().clone();
        admission::create(self.record.phase)
            .map_err(|source| UpdatePodError::Refused { sandbox: sandbox.clone(), source })?;
        for limits in [&change.overhead, &change.resources].into_iter().flatten() {
            bundle::limits(limits, &self.cx.parts.host).map_err(|source| {
                UpdatePodError::Limits { sandbox: sandbox.clone(), source: Box::new(source) }
            })?;
        }
        let before = Arc::clone(&self.record);
        let record = Arc::make_mut(&mut self.record);
        record.overhead = change.overhead.or_else(|| record.overhead.take());
        record.resources = change.resources.or_else(|| record.resources.take());
        if let Err(source) = self.store_pod(failpoint::Point::PodUpdateRecord).await {
            self.record = before;
            return Err(UpdatePodError::Record { sandbox, source });
        }
        self.publish();
        tracing::info!(%sandbox, "the pod's resources changed");
        Ok(())
    }
}
