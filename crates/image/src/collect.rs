//! Freeing layers nothing uses, and measuring those that are.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use model::Digest;
use snapshot::RemoveError;

use crate::images::Inner;

/// Says which layers containers use.
pub type LayerUsers = Box<dyn Fn() -> HashSet<Digest> + Send + Sync>;

/// What a collection freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// Layers removed.
    pub layers: usize,
    /// Their content, bytes.
    pub bytes: u64,
}

/// Why not everything was freed that could be.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// Some layers could not be removed; the others are.
    #[error("cannot remove {failed} unused layers, the first of them {layer}")]
    Remove {
        /// How many.
        failed: usize,
        /// The first.
        layer: Digest,
        /// Why it could not.
        #[source]
        source: RemoveError,
    },
    /// The program is shutting down.
    #[error("interrupted by shutdown")]
    ShuttingDown,
}

/// What all images use on disk. CRI: `FilesystemUsage`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsUsage {
    /// A directory on the file system that holds the layers.
    pub mountpoint: PathBuf,
    /// Bytes.
    pub used_bytes: u64,
    /// Inodes.
    pub inodes_used: u64,
}

impl Inner {
    /// Frees layers used by no image, lease, container or running pull. Blocks on the disk.
    pub(crate) fn collect(&self) -> Result<Collected, CollectError> {
        self.partials.expire();
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        // Until it is known what containers use, everything may be.
        let Some(users) = &*users else { return Ok(Collected::default()) };
        let candidates = self.slots.unused(self.layers.list(), |layer| {
            self.catalog.load().iter().any(|image| image.diff_ids.contains(layer))
        });
        let replaced = self.slots.unused(self.layers.retired(), |_| false);
        if candidates.is_empty() && replaced.is_empty() {
            return Ok(Collected::default());
        }
        // Asked only now: whoever gave up a lease for a container before has registered that.
        let used = users();
        let mut collected = Collected::default();
        let mut failures = Vec::new();
        for (layer, guard) in candidates {
            if used.contains(&layer) {
                continue;
            }
            let bytes = self.layers.usage(&layer).map_or(0, |usage| usage.bytes);
            match self.layers.remove(&layer) {
                Ok(()) => {
                    collected.layers += 1;
                    collected.bytes += bytes;
                }
                Err(error) => failures.push((layer, error)),
            }
            drop(guard);
        }
        for (layer, guard) in replaced {
            if !used.contains(&layer) {
                let freed = self.layers.free_retired(&layer);
                failures.extend(freed.err().map(|error| (layer, error)));
            }
            drop(guard);
        }
        let failed = failures.len();
        match failures.into_iter().next() {
            None => Ok(collected),
            Some((layer, source)) => Err(CollectError::Remove { failed, layer, source }),
        }
    }

    /// Blocks on the disk. A layer that vanishes meanwhile counts nothing.
    pub(crate) fn fs_usage(&self) -> FsUsage {
        let mut used = FsUsage { mountpoint: self.root.clone(), used_bytes: 0, inodes_used: 0 };
        let layers = self.layers.total_usage();
        let (kept_bytes, kept_files) = self.partials.usage();
        used.used_bytes += layers.bytes + kept_bytes;
        used.inodes_used += layers.inodes + kept_files;
        for entry in std::fs::read_dir(self.directory.path()).into_iter().flatten().flatten() {
            if let Ok(metadata) = entry.metadata() {
                used.used_bytes += metadata.blocks() * 512;
                used.inodes_used += 1;
            }
        }
        used
    }
}

/// Runs blocking work of `inner`; `None` when the runtime shuts down.
pub(crate) async fn blocking<T: Send + 'static>(
    inner: &Arc<Inner>,
    work: impl FnOnce(&Inner) -> T + Send + 'static,
) -> Option<T> {
    let inner = Arc::clone(inner);
    tokio::task::spawn_blocking(move || work(&inner)).await.ok()
}
