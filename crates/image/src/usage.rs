//! What is known of images beyond their list.

use bytes::Bytes;
use model::Digest;
use registry::{Descriptor, ManifestError};
use snapshot::LayerUsage;

use crate::collect::{FsUsage, blocking};
use crate::image::Image;
use crate::images::Images;

/// One image in full.
#[derive(Debug, Clone)]
pub struct ImageDetails {
    /// Byte for byte, as pulled.
    pub manifest: Bytes,
    /// Byte for byte, as pulled.
    pub config: Bytes,
    /// Blobs as the manifest has them, lowest first.
    pub blobs: Vec<Descriptor>,
    /// What each layer takes on disk, lowest first.
    pub layers: Vec<(Digest, LayerUsage)>,
}

/// What is in the store.
#[derive(Debug, Clone)]
pub struct StoreUsage {
    /// All layers.
    pub layers: Vec<(Digest, LayerUsage)>,
    /// Downloads kept for a later attempt, bytes.
    pub partial_bytes: u64,
    /// Everything.
    pub total: FsUsage,
}

impl Images {
    /// Everything known of an image.
    ///
    /// # Errors
    /// Its documents cannot be read: it may have been removed in this moment.
    pub async fn details(&self, image: &Image) -> Result<ImageDetails, ManifestError> {
        let stored = image.clone();
        let read = blocking(&self.inner, move |inner| {
            let manifest = std::fs::read(inner.directory.manifest(&stored.id))?;
            let config = std::fs::read(inner.directory.config(&stored.id))?;
            let blobs = registry::Manifest::parse(&manifest)?.layers;
            let usage = |diff_id: &Digest| inner.layers.usage(diff_id).unwrap_or_default();
            let layers = stored.diff_ids.iter().map(|diff_id| (*diff_id, usage(diff_id)));
            Ok(ImageDetails {
                manifest: manifest.into(),
                config: config.into(),
                blobs,
                layers: layers.collect(),
            })
        });
        let stopped = || std::io::Error::from(std::io::ErrorKind::Interrupted);
        read.await.ok_or_else(stopped)?
    }

    /// What is in the store.
    pub async fn store_usage(&self) -> StoreUsage {
        let layers = &self.inner.layers;
        let usage = |diff_id: Digest| Some((diff_id, layers.usage(&diff_id)?));
        let layers = layers.list().into_iter().filter_map(usage).collect();
        let partial = blocking(&self.inner, |inner| inner.partials.usage().0).await;
        StoreUsage { layers, partial_bytes: partial.unwrap_or(0), total: self.fs_usage().await }
    }
}
