//! Images whose records or configurations cannot be used. A pull of the same image puts it right.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use model::Digest;

use crate::error::OpenError;
use crate::record::Directory;

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

/// What the records below a root say, as they are.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    /// The layers that images stand on.
    pub layers: HashSet<Digest>,
    /// Images whose records cannot be used; what they stand on is not known.
    pub unusable: Vec<Unusable>,
}

/// Looks at the records below `root` without changing any, and with nobody serving them; of the
/// layers there is `has_layer`. Blocks on the disk.
///
/// # Errors
/// They cannot be listed.
pub fn recorded(root: &Path, has_layer: impl Fn(&Digest) -> bool) -> Result<Recorded, OpenError> {
    let (layers, unusable) = Directory::look(root, has_layer)?;
    Ok(Recorded { layers, unusable })
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
