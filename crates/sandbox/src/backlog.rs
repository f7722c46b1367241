//! Records that are older than what they tell of, because they could not be written: most often for
//! want of room. Each pod's owner writes its own again until it can; here is which those are, for
//! whoever asks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::{ContainerId, SandboxId};

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// The pod, or the pod of the container.
    pub sandbox: SandboxId,
    /// The container; `None`: it is the pod itself.
    pub container: Option<ContainerId>,
    /// Where its record lies.
    pub path: PathBuf,
    /// Why it could not be written.
    pub reason: String,
}

impl Behind {
    /// Pod or container, in a word.
    pub fn kind(&self) -> &'static str {
        if self.container.is_some() { "container" } else { "pod sandbox" }
    }

    /// Its own id.
    pub fn id(&self) -> &str {
        self.container.as_ref().map_or_else(|| self.sandbox.as_str(), ContainerId::as_str)
    }
}

/// All of them, a pod's own record before those of its containers. The lock is held for a look-up
/// only.
#[derive(Debug, Default)]
pub(crate) struct Backlog(Mutex<BTreeMap<(SandboxId, Option<ContainerId>), Behind>>);

impl Backlog {
    pub(crate) fn put(&self, behind: Behind) {
        self.lock().insert((behind.sandbox.clone(), behind.container.clone()), behind);
    }

    /// It is written, or what it was about is gone.
    pub(crate) fn take(&self, sandbox: &SandboxId, container: Option<&ContainerId>) {
        self.lock().remove(&(sandbox.clone(), container.cloned()));
    }

    pub(crate) fn holds(&self, sandbox: &SandboxId, container: Option<&ContainerId>) -> bool {
        self.lock().contains_key(&(sandbox.clone(), container.cloned()))
    }

    /// Those of one pod: itself and its containers.
    pub(crate) fn of(&self, sandbox: &SandboxId) -> Vec<Option<ContainerId>> {
        let all = self.lock();
        let own = all.keys().filter(|(pod, _)| pod == sandbox);
        own.map(|(_, container)| container.clone()).collect()
    }

    /// A pod is gone with all that is in it.
    pub(crate) fn forget_pod(&self, sandbox: &SandboxId) {
        self.lock().retain(|(pod, _), _| pod != sandbox);
    }

    pub(crate) fn all(&self) -> Vec<Behind> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(SandboxId, Option<ContainerId>), Behind>> {
        // Every change is one map operation, so a panic cannot leave a half-made one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_is_gone_takes_what_is_behind_of_it_along_and_nothing_else() {
        let pods = [1, 2].map(|pod| SandboxId::from_random([pod; 32]));
        let container = ContainerId::from_random([7; 32]);
        let behind = |pod: &SandboxId, container: Option<&ContainerId>| Behind {
            sandbox: pod.clone(),
            container: container.cloned(),
            path: PathBuf::from("record"),
            reason: "no room".into(),
        };
        let backlog = Backlog::default();
        backlog.put(behind(&pods[0], Some(&container)));
        backlog.put(behind(&pods[0], None));
        backlog.put(behind(&pods[1], None));
        assert_eq!(backlog.of(&pods[0]), [None, Some(container.clone())]);
        backlog.take(&pods[0], None);
        assert!(!backlog.holds(&pods[0], None) && backlog.holds(&pods[0], Some(&container)));
        backlog.forget_pod(&pods[0]);
        assert_eq!(backlog.all(), [behind(&pods[1], None)]);
    }
}
