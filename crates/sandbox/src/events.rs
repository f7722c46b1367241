//! What happens to pods and containers, for whoever subscribes. CRI `GetContainerEvents`.
//!
//! Every subscriber gets every event, in the order the owners publish them. One that falls behind
//! loses its subscription, not just events: it is told, and looks at everything anew.

use std::sync::Arc;

use model::UnixNanos;
use tokio::sync::broadcast;

use crate::context::now;
use crate::view::{ContainerView, Index, PodView};

/// How far a subscriber may fall behind.
const BACKLOG: usize = 1024;

/// What happened. CRI: `ContainerEventType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It was made.
    Created,
    /// It runs.
    Started,
    /// It ended.
    Stopped,
    /// It was removed.
    Deleted,
}

/// One event of a container, or of a pod sandbox (then `id` is the sandbox's).
#[derive(Debug, Clone)]
pub struct LifecycleEvent {
    /// Container or sandbox id.
    pub id: String,
    /// What happened.
    pub kind: EventKind,
    /// When.
    pub at: UnixNanos,
    /// The pod as it is now; none once it is removed.
    pub pod: Option<Arc<PodView>>,
    /// Its containers as they are now.
    pub containers: Vec<Arc<ContainerView>>,
}

/// Where owners publish and callers subscribe.
#[derive(Debug)]
pub(crate) struct Events {
    sender: broadcast::Sender<Arc<LifecycleEvent>>,
}

impl Default for Events {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(BACKLOG) }
    }
}

impl Events {
    /// Everything from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<LifecycleEvent>> {
        self.sender.subscribe()
    }

    /// Tells what happened to `id` in the pod `sandbox`. Costs nothing when nobody listens.
    pub(crate) fn publish(&self, kind: EventKind, id: &str, sandbox: &str, index: &Index) {
        if self.sender.receiver_count() == 0 {
            return;
        }
        let pod = index.pod(sandbox).ok();
        let containers =
            pod.as_ref().map(|pod| index.containers_of(&pod.record.id)).unwrap_or_default();
        let event = LifecycleEvent { id: id.to_owned(), kind, at: now(), pod, containers };
        // The last subscriber may have left in this moment.
        drop(self.sender.send(Arc::new(event)));
    }
}
