//! Images: configuration, manifest and, for several platforms, an index.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Blob, Layer, digest};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A manifest or an index, byte for byte.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// `sha256:<hex>`
    pub digest: String,
    /// OCI media type.
    pub media_type: &'static str,
    /// JSON.
    pub bytes: Vec<u8>,
}

impl Manifest {
    fn new(media_type: &'static str, value: &Value) -> Self {
        let bytes = value.to_string().into_bytes();
        Self { digest: digest(&bytes), media_type, bytes }
    }
}

/// A finished image, ready to be pushed.
#[derive(Debug, Clone)]
pub struct OciImage {
    /// Name without registry and tag: `demo/web`.
    pub repository: String,
    /// Tag.
    pub tag: String,
    /// Configuration and layers.
    pub blobs: Vec<Blob>,
    /// Manifests; the one the tag names comes last.
    pub manifests: Vec<Manifest>,
    /// Digest of the configuration: the image id. For an index, that of its first image.
    pub id: String,
    platform: Value,
}

impl OciImage {
    /// One name for several images of different platforms.
    ///
    /// # Errors
    /// `images` is empty.
    pub fn index(images: Vec<Self>) -> Result<Self> {
        let first = images.first().context("an index of no images")?;
        let (repository, tag, id) = (first.repository.clone(), first.tag.clone(), first.id.clone());
        let platform = first.platform.clone();
        let mut entries = Vec::new();
        let (mut blobs, mut manifests) = (Vec::new(), Vec::new());
        for image in images {
            let manifest = image.top()?;
            entries.push(json!({
                "mediaType": manifest.media_type,
                "digest": manifest.digest,
                "size": manifest.bytes.len(),
                "platform": image.platform,
            }));
            blobs.extend(image.blobs);
            manifests.extend(image.manifests);
        }
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
        manifests.push(Manifest::new(INDEX, &index));
        Ok(Self { repository, tag, blobs, manifests, id, platform })
    }

    /// The manifest or index the tag names.
    ///
    /// # Errors
    /// The image has none, which no constructor allows.
    pub fn top(&self) -> Result<&Manifest> {
        self.manifests.last().context("an image without a manifest")
    }

    /// The same content under another name.
    #[must_use]
    pub fn named(mut self, repository: &str, tag: &str) -> Self {
        repository.clone_into(&mut self.repository);
        tag.clone_into(&mut self.tag);
        self
    }
}

/// Puts an image together.
#[derive(Debug, Clone)]
pub struct ImageBuilder {
    repository: String,
    tag: String,
    architecture: String,
    config: serde_json::Map<String, Value>,
    layers: Vec<Layer>,
}

impl ImageBuilder {
    /// An image of this machine's platform, without layers or configuration.
    ///
    /// # Errors
    /// `name` is not `repository:tag`.
    pub fn new(name: &str) -> Result<Self> {
        let (repository, tag) = name.rsplit_once(':').context("want repository:tag")?;
        ensure!(!tag.contains('/'), "want repository:tag");
        Ok(Self {
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            architecture: host_architecture().to_owned(),
            config: serde_json::Map::new(),
            layers: Vec::new(),
        })
    }

    /// Adds a layer on top.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Sets a key of the run-time configuration: `User`, `Env`, `Entrypoint`, `Cmd`, `WorkingDir`,
    /// `Volumes`, `StopSignal`, `Labels`, …
    #[must_use]
    pub fn config(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.to_owned(), value);
        self
    }

    /// Another processor than this machine's: `arm64`, `s390x`, …
    #[must_use]
    pub fn architecture(mut self, name: &str) -> Self {
        name.clone_into(&mut self.architecture);
        self
    }

    /// Writes configuration and manifest.
    pub fn build(self) -> OciImage {
        let platform = json!({"os": "linux", "architecture": self.architecture});
        let diff_ids: Vec<_> = self.layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let config = json!({
            "created": "2023-11-14T22:13:20Z",
            "os": "linux",
            "architecture": self.architecture,
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = Blob::new(config.to_string().into_bytes());
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|l| {
                json!({
                    "mediaType": l.media_type,
                    "digest": l.blob.digest,
                    "size": l.blob.bytes.len(),
                })
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config.digest,
                "size": config.bytes.len(),
            },
            "layers": layers,
        });
        let id = config.digest.clone();
        let mut blobs: Vec<_> = self.layers.into_iter().map(|layer| layer.blob).collect();
        blobs.push(config);
        OciImage {
            repository: self.repository,
            tag: self.tag,
            blobs,
            manifests: vec![Manifest::new(MANIFEST, &manifest)],
            id,
            platform,
        }
    }
}

/// This machine's processor in the words of the OCI image specification.
pub(crate) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Compression, LayerBuilder};
    use super::*;

    fn image(architecture: &str) -> OciImage {
        let layer = LayerBuilder::new().file("a", 0o644, "x").finish(Compression::Gzip).unwrap();
        ImageBuilder::new("test/one:1").unwrap().architecture(architecture).layer(layer).build()
    }

    #[test]
    fn the_id_is_the_digest_of_the_configuration() {
        let image = image("amd64");
        let config = image.blobs.iter().find(|blob| blob.digest == image.id).unwrap();
        let config: Value = serde_json::from_slice(&config.bytes).unwrap();
        assert_eq!(config["architecture"], "amd64");
    }

    #[test]
    fn an_index_lists_every_platform_and_is_what_the_tag_names() {
        let index = OciImage::index(vec![image("amd64"), image("arm64")]).unwrap();
        let top: Value = serde_json::from_slice(&index.top().unwrap().bytes).unwrap();
        assert_eq!(top["manifests"][1]["platform"]["architecture"], "arm64");
        assert_eq!(index.manifests.len(), 3);
    }
}
