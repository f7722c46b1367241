//! Images whose records or configurations cannot be used. A pull of the same image puts it right.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use model::Digest;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// Its id, by its record's name.
    pub id: Digest,
    /// Where its record lies.
    pub path: PathBuf,
    /// Why it cannot be used.
    pub reason: String,
}

/// All of them. Never waits.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf(Arc<ArcSwap<Vec<Unusable>>>);

impl Shelf {
    pub(crate) fn put(&self, images: Vec<Unusable>) {
        self.0.store(images.into());
    }

    pub(crate) fn all(&self) -> Vec<Unusable> {
        self.0.load().as_ref().clone()
    }

    /// It is whole again, or gone. Only who may write records calls this.
    pub(crate) fn take(&self, id: &Digest) -> Option<Unusable> {
        let all = self.0.load();
        let taken = all.iter().find(|image| image.id == *id)?.clone();
        self.put(all.iter().filter(|image| image.id != *id).cloned().collect());
        Some(taken)
    }
}
