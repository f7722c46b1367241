//! The pods of an earlier daemon, each with its owner from the first moment on: one whose shim keeps silent is
//! waited for by its own requests, not by the node.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::manager::{QUEUE, Sandboxes};
use crate::pod::{OpenError, Owner, Recovery, load_all, sweep_states};

impl Sandboxes {
    /// Takes every pod over that has a record. On return all are reconciled with their shims, but for those
    /// that take long, as when a shim keeps silent or a plugin hangs: these are listed as they were recorded, and
    /// go on being taken over.
    pub(crate) async fn take_over_all(&self) -> Result<(), OpenError> {
        let mut owners = load_all(&self.cx).await?;
        for owner in &mut owners {
            owner.list_as_recorded();
        }
        self.keep_layers_of_containers();
        let known: Vec<_> = owners.into_iter().map(|owner| self.take_over(owner)).collect();
        for known in known {
            // Nothing is ever sent: what counts is that it is let go.
            known.await.unwrap_or_default();
        }
        sweep_states(&self.cx).await;
        Ok(())
    }

    /// Lets go of the other end once the pod is known, or its shim keeps silent.
    fn take_over(&self, owner: Owner) -> oneshot::Receiver<()> {
        let (queue, receiver) = mpsc::channel(QUEUE);
        self.cx.handles.insert(owner.id().clone(), queue.clone());
        if owner.is_cut_off_by_a_reboot() {
            self.release(&queue);
        }
        let (known, is_known) = oneshot::channel();
        let recovery = Recovery::new(known, self.draining.clone(), self.tasks.clone());
        let cx = Arc::clone(&self.cx);
        self.tasks.spawn(async move {
            let id = owner.id().clone();
            match recovery.run(owner).await {
                Some(owner) => owner.serve(receiver).await,
                None => cx.handles.remove(&id),
            }
        });
        is_known
    }
}
