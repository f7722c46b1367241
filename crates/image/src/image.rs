//! One image as the rest of the daemon sees it.

use std::collections::BTreeSet;

use model::{Digest, ImageConfig, Platform, Reference};

use crate::config::Parsed;
use crate::record::ImageRecord;

/// An image that is whole on disk. Immutable: a changed name makes a new value.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the image configuration: what every name of the image leads to.
    pub id: Digest,
    /// `name:tag`, sorted; empty for images pulled by digest alone.
    pub repo_tags: Vec<String>,
    /// `name@digest` of the manifest or index, as pulled, sorted.
    pub repo_digests: Vec<String>,
    /// Compressed layers, configuration and manifest, bytes. Never 0.
    pub size_bytes: u64,
    /// What of the configuration shapes containers.
    pub config: ImageConfig,
    /// Layers, lowest first; one may occur more than once.
    pub diff_ids: Vec<Digest>,
    /// What the configuration says it is built for.
    pub platform: Platform,
    /// When it was built, as the configuration says: RFC 3339.
    pub created: Option<String>,
    /// Exempt from image garbage collection.
    pub pinned: bool,
    /// Manifest of this platform, as first pulled.
    pub manifest_digest: Digest,
    pub(crate) tags: BTreeSet<Reference>,
    pub(crate) digests: BTreeSet<Reference>,
    /// Counts writes of all records, so that the later claim to a tag is known after a crash.
    pub(crate) generation: u64,
}

impl Image {
    /// What the stack of layers is called as a whole. OCI image-spec: the digest of the lower
    /// stack's name, a space and the next layer's; `None` without layers.
    pub fn chain_id(&self) -> Option<Digest> {
        let (first, above) = self.diff_ids.split_first()?;
        let on = |lower: Digest, layer: &Digest| {
            registry::digest_of(format!("{lower} {layer}").as_bytes())
        };
        Some(above.iter().fold(*first, on))
    }

    pub(crate) fn new(record: ImageRecord, parsed: Parsed) -> Self {
        let mut image = Self {
            id: record.id,
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            size_bytes: record.size_bytes.max(1),
            config: parsed.config,
            diff_ids: parsed.diff_ids,
            platform: parsed.platform,
            created: parsed.created,
            pinned: false,
            manifest_digest: record.manifest_digest,
            tags: record.tags,
            digests: record.digests,
            generation: record.generation,
        };
        image.refresh_names();
        image
    }

    pub(crate) fn record(&self) -> ImageRecord {
        ImageRecord {
            id: self.id,
            manifest_digest: self.manifest_digest,
            size_bytes: self.size_bytes,
            tags: self.tags.clone(),
            digests: self.digests.clone(),
            generation: self.generation,
        }
    }

    /// To be called after a change of `tags` or `digests`.
    pub(crate) fn refresh_names(&mut self) {
        self.repo_tags = self.tags.iter().map(Reference::to_string).collect();
        self.repo_digests = self.digests.iter().map(Reference::to_string).collect();
    }

    /// Whether it runs on this platform, as far as it says.
    pub(crate) fn is_for(&self, platform: &Platform) -> bool {
        let fits = |own: &str, wanted: &str| own.is_empty() || own == wanted;
        fits(&self.platform.os, &platform.os)
            && fits(&self.platform.architecture, &platform.architecture)
    }

    /// Whether some name says that this manifest or index is this image.
    pub(crate) fn came_from(&self, digest: &Digest) -> bool {
        self.digests.iter().any(|name| name.digest() == Some(digest))
    }
}
