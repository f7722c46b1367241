//! How far pulls are, for whoever watches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::{Digest, Reference};
use registry::Descriptor;
use tokio::sync::watch;

/// What happens to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// For its turn, or for another pull that fetches it.
    Waiting,
    /// Bytes arrive and are unpacked.
    Downloading,
    /// All bytes are unpacked and go to the device.
    Syncing,
    /// Fetched.
    Done,
    /// Was here before.
    Present,
}

/// One layer of a running pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    /// Digest of the compressed blob.
    pub digest: Digest,
    /// Its length, bytes.
    pub total: u64,
    /// Bytes received.
    pub done: u64,
    /// What happens to it.
    pub stage: Stage,
}

/// One reference's pull.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PullProgress {
    /// Lowest first; empty until the manifest is known.
    pub layers: Vec<LayerProgress>,
    /// The pull has ended, well or not. Nothing follows.
    pub finished: bool,
}

#[derive(Debug)]
struct Channel {
    pulls: usize,
    sender: watch::Sender<PullProgress>,
}

impl Channel {
    fn new() -> Self {
        Self { pulls: 0, sender: watch::Sender::new(PullProgress::default()) }
    }
}

/// All pulls that run or are waited for.
#[derive(Debug, Default)]
pub(crate) struct Board {
    channels: Mutex<HashMap<Reference, Channel>>,
}

impl Board {
    fn channels(&self) -> MutexGuard<'_, HashMap<Reference, Channel>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the running pull of `reference`, or else the next one.
    pub(crate) fn watch(&self, reference: &Reference) -> watch::Receiver<PullProgress> {
        let mut channels = self.channels();
        // Watchers that went away before any pull came.
        channels.retain(|_, channel| channel.pulls > 0 || channel.sender.receiver_count() > 0);
        channels.entry(reference.clone()).or_insert_with(Channel::new).sender.subscribe()
    }

    /// Announces a pull. Parallel pulls of one reference are seen as one.
    pub(crate) fn start(self: &Arc<Self>, reference: &Reference) -> Arc<Reporter> {
        let mut channels = self.channels();
        let channel = channels.entry(reference.clone()).or_insert_with(Channel::new);
        channel.pulls += 1;
        Arc::new(Reporter {
            sender: channel.sender.clone(),
            board: Arc::clone(self),
            reference: reference.clone(),
        })
    }
}

/// A pull's voice. When the last one of a reference is dropped its watchers see the end.
#[derive(Debug)]
pub(crate) struct Reporter {
    sender: watch::Sender<PullProgress>,
    board: Arc<Board>,
    reference: Reference,
}

impl Drop for Reporter {
    fn drop(&mut self) {
        let mut channels = self.board.channels();
        let Some(channel) = channels.get_mut(&self.reference) else { return };
        channel.pulls -= 1;
        if channel.pulls == 0 {
            self.sender.send_modify(|progress| progress.finished = true);
            channels.remove(&self.reference);
        }
    }
}

impl Reporter {
    /// The manifest is known.
    pub(crate) fn layers(&self, layers: &[Descriptor]) {
        self.sender.send_modify(|progress| {
            let known = std::mem::take(&mut progress.layers);
            progress.layers = layers
                .iter()
                .map(|layer| {
                    let old = known.iter().find(|old| old.digest == layer.digest);
                    old.cloned().unwrap_or(LayerProgress {
                        digest: layer.digest,
                        total: layer.size,
                        done: 0,
                        stage: Stage::Waiting,
                    })
                })
                .collect();
        });
    }

    /// Something happens to a layer.
    pub(crate) fn stage(&self, blob: &Digest, stage: Stage) {
        self.update(blob, |layer| {
            layer.stage = stage;
            if matches!(stage, Stage::Syncing | Stage::Done | Stage::Present) {
                layer.done = layer.total;
            }
        });
    }

    /// So many bytes of a layer have arrived.
    pub(crate) fn received(&self, blob: &Digest, bytes: u64) {
        self.update(blob, |layer| layer.done = bytes);
    }

    fn update(&self, blob: &Digest, change: impl Fn(&mut LayerProgress)) {
        self.sender.send_modify(|progress| {
            progress.layers.iter_mut().filter(|layer| layer.digest == *blob).for_each(&change);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference() -> Reference {
        Reference::parse("a:1").unwrap()
    }

    fn descriptor() -> Descriptor {
        Descriptor { media_type: String::new(), digest: Digest::from_sha256([1; 32]), size: 10 }
    }

    #[test]
    fn a_watcher_may_come_first_and_sees_the_end() {
        let board = Arc::new(Board::default());
        let early = board.watch(&reference());
        assert!(!early.borrow().finished);
        let reporter = board.start(&reference());
        let late = board.watch(&reference());
        reporter.layers(&[descriptor()]);
        reporter.received(&descriptor().digest, 4);
        assert_eq!(early.borrow().layers[0].done, 4);
        reporter.stage(&descriptor().digest, Stage::Done);
        drop(reporter);
        for watcher in [early, late] {
            assert!(watcher.borrow().finished);
            assert_eq!(watcher.borrow().layers[0].done, 10);
        }
        assert!(board.channels().is_empty());
    }

    #[test]
    fn parallel_pulls_end_with_the_last() {
        let board = Arc::new(Board::default());
        let (one, two) = (board.start(&reference()), board.start(&reference()));
        let watcher = board.watch(&reference());
        drop(one);
        assert!(!watcher.borrow().finished);
        drop(two);
        assert!(watcher.borrow().finished);
    }

    #[test]
    fn watchers_that_left_leave_nothing() {
        let board = Arc::new(Board::default());
        drop(board.watch(&reference()));
        drop(board.watch(&Reference::parse("b:1").unwrap()));
        assert_eq!(board.channels().len(), 1);
    }
}
