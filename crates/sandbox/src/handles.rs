//! The queues of the pods' owners.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use model::SandboxId;
use tokio::sync::mpsc;

use crate::pod::Request;

/// Where to send requests for a pod. Entries live as long as the owner task.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    queues: Mutex<HashMap<SandboxId, mpsc::Sender<Request>>>,
}

impl Handles {
    pub(crate) fn insert(&self, id: SandboxId, queue: mpsc::Sender<Request>) {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).insert(id, queue);
    }

    pub(crate) fn get(&self, id: &SandboxId) -> Option<mpsc::Sender<Request>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(crate) fn remove(&self, id: &SandboxId) {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// No further requests: owners end when their queues are empty.
    pub(crate) fn clear(&self) {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
