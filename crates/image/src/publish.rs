//! Changes of the list of images: one at a time, on disk first.

use std::sync::{Arc, PoisonError};

use model::{Digest, Reference};
use store::WriteError;

use crate::catalog::{add_names, losers, with};
use crate::image::Image;
use crate::images::Inner;
use crate::pinned;
use crate::record::Documents;

impl Inner {
    /// Gives the image `id` the names of a pull of `reference` that resolved to `root`, and makes
    /// it exist if it does not. `None`: it does not exist and `fresh` is not given. Blocks until
    /// the change is on the device.
    pub(crate) fn publish(
        &self,
        reference: &Reference,
        root: &Digest,
        id: Digest,
        fresh: Option<(Image, Documents)>,
    ) -> Result<Option<Arc<Image>>, WriteError> {
        self.publish_as(id, fresh, |image| add_names(image, reference, root))
    }

    /// As [`Inner::publish`], with the names that `name` gives.
    pub(crate) fn publish_as(
        &self,
        id: Digest,
        fresh: Option<(Image, Documents)>,
        name: impl FnOnce(&mut Image),
    ) -> Result<Option<Arc<Image>>, WriteError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let images = self.catalog.load_full();
        let known = images.iter().find(|image| image.id == id);
        let mut winner = match (known, fresh) {
            (Some(known), _) => Image::clone(known),
            (None, Some((image, documents))) => {
                self.directory.write_documents(&id, &documents)?;
                image
            }
            (None, None) => return Ok(None),
        };
        name(&mut winner);
        if let Some(known) = known
            && known.tags == winner.tags
            && known.digests == winner.digests
        {
            return Ok(Some(Arc::clone(known)));
        }
        let latest = images.iter().map(|image| image.generation).max().unwrap_or_default();
        winner.generation = latest.saturating_add(1);
        self.directory.write_record(&winner.record())?;
        // From here on the winner's claim to its tags is durable.
        let mut changed = losers(&images, &winner);
        for loser in &changed {
            if let Err(error) = self.directory.write_record(&loser.record()) {
                let error: &dyn std::error::Error = &error;
                // Its old claim is settled when the records are next read.
                tracing::warn!(image = %loser.id, error, "cannot record that a tag moved away");
            }
        }
        changed.push(winner);
        let pinned = self.pinned.load();
        for image in &mut changed {
            image.pinned = pinned::matches(&pinned, image);
        }
        let list = with(&images, changed);
        let published = list.iter().find(|image| image.id == id).cloned();
        self.catalog.store(Arc::new(list));
        Ok(published)
    }

    /// Makes the image `id` not exist. Blocks until that is on the device.
    pub(crate) fn unpublish(&self, id: &Digest) -> Result<(), WriteError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let images = self.catalog.load_full();
        if images.iter().all(|image| image.id != *id) {
            return Ok(());
        }
        self.directory.remove(id)?;
        let list = images.iter().filter(|image| image.id != *id).cloned().collect();
        self.catalog.store(Arc::new(list));
        Ok(())
    }

    /// Applies new patterns to all images.
    pub(crate) fn repin(&self, patterns: Vec<String>) {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let images = self.catalog.load_full();
        let pin = |image: &Arc<Image>| {
            let pinned = pinned::matches(&patterns, image);
            if pinned == image.pinned {
                return Arc::clone(image);
            }
            Arc::new(Image { pinned, ..Image::clone(image) })
        };
        let list = images.iter().map(pin).collect();
        self.catalog.store(Arc::new(list));
        self.pinned.store(Arc::new(patterns));
    }
}
