//! Pods and containers whose records cannot be used: one broken record costs one object, never the
//! start. What such an object may own (its shim, its address, its layers) is kept, for it may run
//! on; a person is told, and decides.

mod remove;

use std::collections::HashSet;
use std::path::PathBuf;

use arc_swap::ArcSwap;
use model::{ContainerId, Digest, SandboxId};

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// The pod, or the pod of the container.
    pub sandbox: SandboxId,
    /// The container; `None`: it is the pod itself.
    pub container: Option<ContainerId>,
    /// Where its record lies.
    pub path: PathBuf,
    /// Why it cannot be used.
    pub reason: String,
    /// What its containers stand on.
    pub(crate) layers: HashSet<Digest>,
}

impl Quarantined {
    /// Pod or container, in a word.
    pub fn kind(&self) -> &'static str {
        if self.container.is_some() { "container" } else { "pod sandbox" }
    }

    /// Its own id.
    pub fn id(&self) -> &str {
        self.container.as_ref().map_or_else(|| self.sandbox.as_str(), ContainerId::as_str)
    }
}

/// All of them. Never waits.
#[derive(Debug, Default)]
pub(crate) struct Quarantine(ArcSwap<Vec<Quarantined>>);

impl Quarantine {
    pub(crate) fn put(&self, objects: Vec<Quarantined>) {
        self.0.store(objects.into());
    }

    pub(crate) fn all(&self) -> Vec<Quarantined> {
        self.0.load().as_ref().clone()
    }

    /// The pods themselves, not those that only have such a container.
    pub(crate) fn pods(&self) -> Vec<SandboxId> {
        let objects = self.0.load();
        let pods = objects.iter().filter(|object| object.container.is_none());
        pods.map(|object| object.sandbox.clone()).collect()
    }

    pub(crate) fn pod(&self, id: &str) -> Option<Quarantined> {
        let objects = self.0.load();
        let is_it = |it: &&Quarantined| it.container.is_none() && it.sandbox.as_str() == id;
        objects.iter().find(is_it).cloned()
    }

    pub(crate) fn layers(&self) -> HashSet<Digest> {
        self.0.load().iter().flat_map(|object| object.layers.iter().copied()).collect()
    }

    /// A pod is gone with all that is in it.
    pub(crate) fn forget_pod(&self, id: &SandboxId) {
        self.0.rcu(|objects| {
            let others = objects.iter().filter(|object| object.sandbox != *id);
            others.cloned().collect::<Vec<_>>()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(pod: u8, container: Option<u8>) -> Quarantined {
        Quarantined {
            sandbox: SandboxId::from_random([pod; 32]),
            container: container.map(|id| ContainerId::from_random([id; 32])),
            path: PathBuf::new(),
            reason: "torn".into(),
            layers: [Digest::from_sha256([pod; 32])].into(),
        }
    }

    #[test]
    fn a_pod_that_is_gone_takes_its_containers_along_and_no_others() {
        let quarantine = Quarantine::default();
        quarantine.put(vec![object(1, None), object(1, Some(7)), object(2, Some(8))]);
        assert_eq!(quarantine.pods(), [SandboxId::from_random([1; 32])]);
        assert_eq!(quarantine.layers().len(), 2);
        quarantine.forget_pod(&SandboxId::from_random([1; 32]));
        assert_eq!(quarantine.all(), [object(2, Some(8))]);
        assert_eq!(quarantine.layers().len(), 1);
    }
}
