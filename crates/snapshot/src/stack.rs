//! The order in which an image's layers lie on each other.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use model::Digest;

use crate::fixup::ChainId;
use crate::ingest::FS;
use crate::layers::{Layers, MissingLayer};

impl Layers {
    /// The directories to stack for an image, topmost first, as overlayfs wants its lower ones.
    /// `diff_ids` are in the image's order, base first. Between them lie what
    /// [`Layers::complete`] made for this very stack.
    ///
    /// Overlayfs refuses a directory that is listed twice, and ignores an opaque marker on a
    /// layer's root: so a repeated layer counts where it is topmost, and nothing is listed that
    /// lies below an opaque root. Both leave the merged tree as it should be.
    ///
    /// # Errors
    /// The first layer that is missing.
    pub fn lower_dirs(&self, diff_ids: &[Digest]) -> Result<Vec<PathBuf>, MissingLayer> {
        if let Some(missing) = diff_ids.iter().find(|diff_id| !self.contains(diff_id)) {
            return Err(MissingLayer { diff_id: *missing });
        }
        let chains = ChainId::all(diff_ids);
        let fixups = self.fixups();
        let mut seen = BTreeSet::new();
        let mut lower = Vec::with_capacity(diff_ids.len());
        for (diff_id, chain) in diff_ids.iter().zip(&chains).rev() {
            if fixups.contains_key(chain) {
                lower.push(self.fixups.path.join(chain.hex()).join(FS));
            }
            if !seen.insert(*diff_id) {
                continue;
            }
            let dir = self.layers.path.join(diff_id.hex()).join(FS);
            let opaque = is_opaque(&dir);
            lower.push(dir);
            if opaque {
                break;
            }
        }
        Ok(lower)
    }

    /// The directory whose owner and mode the root of the image has: that of the topmost layer
    /// which says something about it. `None` for an image without layers.
    ///
    /// # Errors
    /// The first layer that is missing.
    pub fn root_dir(&self, diff_ids: &[Digest]) -> Result<Option<PathBuf>, MissingLayer> {
        let mut found = None;
        for diff_id in diff_ids {
            let seal = self.seal(diff_id).ok_or(MissingLayer { diff_id: *diff_id })?;
            if seal.root_named || found.is_none() {
                found = Some(*diff_id);
            }
        }
        Ok(found.map(|diff_id| self.layers.path.join(diff_id.hex()).join(FS)))
    }
}

fn is_opaque(dir: &Path) -> bool {
    let mut value = [0; 1];
    rustix::fs::lgetxattr(dir, "trusted.overlay.opaque", &mut value)
        .is_ok_and(|length| length == 1 && value == *b"y")
}
