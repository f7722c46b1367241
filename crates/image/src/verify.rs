//! Whether images are still what was pulled, and making them so again.

use std::sync::Arc;

use model::{Digest, Reference};
use registry::{Credentials, Descriptor, ManifestError};
use snapshot::{FixupError, LayerVerdict, LayerVerifyError};

use crate::collect::{CollectError, blocking};
use crate::error::PullError;
use crate::image::Image;
use crate::images::{Images, Inner};
use crate::pull::{Context, Failure, Purpose, ensure};

/// Why a layer could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is not there, or cannot be opened.
    #[error(transparent)]
    Layer(#[from] LayerVerifyError),
    /// The program is shutting down.
    #[error("interrupted by shutdown")]
    ShuttingDown,
}

/// How far a repair came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repaired {
    /// The old files are gone.
    Wholly,
    /// Containers go on with the old files; new ones get the fresh layer.
    StillUsed,
}

/// Why a layer was not replaced by a fresh one.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// It was loaded from an archive, or its names are gone.
    #[error("image {id} has no name of a registry that could give layer {layer} again")]
    NoSource {
        /// The image.
        id: Digest,
        /// The layer.
        layer: Digest,
    },
    /// Its stored manifest cannot be used.
    #[error("cannot read the stored manifest of image {id}")]
    Manifest {
        /// The image.
        id: Digest,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// It could not be fetched.
    #[error("cannot fetch layer {layer} again")]
    Fetch {
        /// The layer.
        layer: Digest,
        /// Why.
        #[source]
        source: PullError,
    },
    /// It does not fit on the others.
    #[error("cannot put layer {layer} back in its place")]
    Fixup {
        /// The layer.
        layer: Digest,
        /// Why.
        #[source]
        source: FixupError,
    },
    /// The program is shutting down.
    #[error("interrupted by shutdown")]
    ShuttingDown,
}

impl Images {
    /// Reads every file of a layer and compares it with what was unpacked. A layer that is removed
    /// meanwhile is waited for.
    ///
    /// # Errors
    /// [`VerifyError`]; differences are no error.
    pub async fn verify(&self, layer: &Digest) -> Result<LayerVerdict, VerifyError> {
        let layer = *layer;
        let hold = self.inner.slots.hold(&[layer]);
        drop(self.inner.slots.lock(&layer).await);
        let verified = blocking(&self.inner, move |inner| {
            let verified = inner.layers.verify(&layer);
            drop(hold);
            verified
        });
        Ok(verified.await.ok_or(VerifyError::ShuttingDown)??)
    }

    /// Whether old files of repaired layers wait for their containers to go. Does not block on the
    /// disk.
    pub fn keeps_replaced_layers(&self) -> bool {
        !self.inner.layers.retired().is_empty()
    }

    /// Fetches one layer of `image` again and puts it in the place of what is there. Containers that
    /// have it go on with the old files, which stay until the last of them is gone: then this gives
    /// [`Repaired::StillUsed`].
    ///
    /// # Errors
    /// [`RepairError`]; the layer is then as it was.
    pub async fn repair(
        &self,
        image: &Image,
        layer: &Digest,
        credentials: Credentials,
    ) -> Result<Repaired, RepairError> {
        let layer = *layer;
        let inner = &self.inner;
        let (id, stored) = (image.id, image.clone());
        let manifest = blocking(inner, move |inner| inner.stored_manifest(&stored))
            .await
            .ok_or(RepairError::ShuttingDown)?
            .map_err(|source| RepairError::Manifest { id, source })?;
        let places = image.diff_ids.iter().zip(&manifest.layers);
        let found = places.into_iter().find(|(diff_id, _)| **diff_id == layer);
        let blob = found.map(|(_, blob)| blob.clone());
        let (Some(blob), Some(source)) = (blob, image.digests.first()) else {
            return Err(RepairError::NoSource { id, layer });
        };
        let fetched = Box::pin(refetch(inner, source, credentials, &blob, layer)).await;
        fetched.map_err(|source| RepairError::Fetch { layer, source })?;
        // What lay on the old one went with it.
        blocking(inner, move |inner| inner.complete_all_with(&layer))
            .await
            .ok_or(RepairError::ShuttingDown)?
            .map_err(|source| RepairError::Fixup { layer, source })?;
        match self.collect().await {
            Ok(_) => {}
            Err(CollectError::ShuttingDown) => return Err(RepairError::ShuttingDown),
            // The layer is repaired all the same; the next collection tries again.
            Err(error @ CollectError::Remove { .. }) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(%layer, error, "after a repair not everything unused is gone");
            }
        }
        let used = inner.layers.retired().contains(&layer);
        Ok(if used { Repaired::StillUsed } else { Repaired::Wholly })
    }
}

async fn refetch(
    inner: &Arc<Inner>,
    reference: &Reference,
    credentials: Credentials,
    blob: &Descriptor,
    layer: Digest,
) -> Result<(), PullError> {
    let fail = |error| PullError::registry(reference, error);
    let session = inner.registry.session(reference, credentials).await.map_err(fail)?;
    let reporter = inner.board.start(reference);
    reporter.layers(std::slice::from_ref(blob));
    let hold = Arc::new(inner.slots.hold(&[layer]));
    let context = Context::new(inner, session, hold, reporter);
    ensure(&context, blob, layer, Purpose::Replace).await.map_err(|failure| match failure {
        Failure::Registry(source) => PullError::registry(reference, source),
        Failure::Layer(source) => {
            PullError::Layer { reference: reference.clone(), layer: blob.digest, source }
        }
    })
}

impl Inner {
    /// Blocks on the disk.
    fn stored_manifest(&self, image: &Image) -> Result<registry::Manifest, ManifestError> {
        let bytes = std::fs::read(self.directory.manifest(&image.id))?;
        registry::Manifest::parse(&bytes)
    }

    /// Blocks on the disk.
    fn complete_all_with(&self, layer: &Digest) -> Result<(), FixupError> {
        let images = self.catalog.load_full();
        let with = images.iter().filter(|image| image.diff_ids.contains(layer));
        with.into_iter().try_for_each(|image| self.layers.complete(&image.diff_ids))
    }
}
