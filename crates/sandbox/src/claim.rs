//! Ids of new objects on their way to whoever asked for them. Kubelet gives up on calls and repeats
//! them: an id that reached nobody belongs to the next who asks for the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether an object's id is still to be claimed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claim {
    open: Arc<AtomicBool>,
}

/// An id in an answer. Dropped unread, wherever that happens, it can be claimed again.
#[derive(Debug)]
pub(crate) struct Fresh<T> {
    id: T,
    read: bool,
    claim: Claim,
}

impl Claim {
    /// Of an object that an earlier daemon made: who has been told of it died with that daemon.
    pub(crate) fn untold() -> Self {
        Self { open: Arc::new(AtomicBool::new(true)) }
    }

    /// The id for whoever asked first.
    pub(crate) fn answer<T>(&self, id: T) -> Fresh<T> {
        Fresh { id, read: false, claim: self.clone() }
    }

    /// Whether the last answer reached nobody; true once.
    pub(crate) fn take(&self) -> bool {
        self.open.swap(false, Ordering::AcqRel)
    }
}

impl<T: Clone> Fresh<T> {
    /// The id, which from now on is its reader's.
    pub(crate) fn read(mut self) -> T {
        self.read = true;
        self.id.clone()
    }
}

impl<T> Drop for Fresh<T> {
    fn drop(&mut self) {
        if !self.read {
            self.claim.open.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[test]
    fn an_answer_that_nobody_read_can_be_claimed_once() {
        let claim = Claim::default();
        assert!(!claim.take(), "it has not been answered");
        assert_eq!(claim.answer(1).read(), 1);
        assert!(!claim.take(), "it is somebody's");
        // The caller gave up before the answer was sent, or after.
        let (reply, answer) = oneshot::channel();
        drop(answer);
        drop(reply.send(claim.answer(1)));
        assert!(claim.take());
        let (reply, answer) = oneshot::channel();
        drop(reply.send(claim.answer(1)));
        drop(answer);
        assert!(claim.take());
        assert!(!claim.take());
        let earlier = Claim::untold();
        assert!(earlier.take());
        assert!(!earlier.take());
    }
}
