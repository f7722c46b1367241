//! What the test registry holds.

use std::collections::HashMap;

use model::Digest;
use serde_json::json;

use super::Seen;
use super::http::Reply;
use crate::digest_of;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// One layer of a test image.
#[derive(Debug, Clone)]
pub struct LayerSpec {
    /// Media type in the manifest.
    pub media_type: String,
    /// The (compressed) blob.
    pub blob: Vec<u8>,
    /// Digest of the tar stream inside.
    pub diff_id: Digest,
}

/// A test image.
#[derive(Debug, Clone, Default)]
pub struct ImageSpec {
    /// Lowest first.
    pub layers: Vec<LayerSpec>,
    /// The `config` member of the image configuration.
    pub config: serde_json::Value,
    /// `architecture`; empty: this machine's.
    pub architecture: String,
}

#[derive(Default)]
pub(super) struct Content {
    blobs: HashMap<String, Vec<u8>>,
    /// By repository and digest or tag.
    manifests: HashMap<(String, String), (String, Vec<u8>)>,
}

impl Content {
    pub(super) fn put_blob(&mut self, bytes: Vec<u8>) -> Digest {
        let digest = digest_of(&bytes);
        self.blobs.insert(digest.to_string(), bytes);
        digest
    }

    pub(super) fn remove_blob(&mut self, digest: &Digest) {
        self.blobs.remove(&digest.to_string());
    }

    pub(super) fn put_manifest(
        &mut self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: &[u8],
    ) -> Digest {
        let digest = digest_of(bytes);
        for name in std::iter::once(digest.to_string()).chain(tag.map(str::to_owned)) {
            self.manifests
                .insert((repository.to_owned(), name), (media_type.to_owned(), bytes.to_vec()));
        }
        digest
    }

    pub(super) fn put_image(
        &mut self,
        repository: &str,
        tag: &str,
        image: &ImageSpec,
    ) -> (Digest, Digest) {
        let host = model::Platform::host();
        let architecture =
            if image.architecture.is_empty() { &host.architecture } else { &image.architecture };
        let diff_ids: Vec<_> = image.layers.iter().map(|layer| layer.diff_id.to_string()).collect();
        let config = json!({
            "os": "linux",
            "architecture": architecture,
            "config": image.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = config.to_string().into_bytes();
        let config_size = config.len();
        let id = self.put_blob(config);
        let layers: Vec<_> = image
            .layers
            .iter()
            .map(|layer| {
                let digest = self.put_blob(layer.blob.clone());
                json!({
                    "mediaType": layer.media_type,
                    "digest": digest.to_string(),
                    "size": layer.blob.len(),
                })
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": id.to_string(),
                "size": config_size,
            },
            "layers": layers,
        });
        let bytes = manifest.to_string().into_bytes();
        (self.put_manifest(repository, Some(tag), MANIFEST, &bytes), id)
    }

    pub(super) fn answer(&self, request: &Seen, ranges: bool) -> Reply {
        let path = request.target.split('?').next().unwrap_or_default();
        let found = path.strip_prefix("/v2/").and_then(|path| {
            let (rest, name) = path.rsplit_once('/')?;
            let (repository, kind) = rest.rsplit_once('/')?;
            match kind {
                "blobs" => self.blob(name, request.header("range").filter(|_| ranges)),
                "manifests" => self.manifest(repository, name),
                _ => None,
            }
        });
        found.unwrap_or_else(|| {
            let body = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"no such thing"}]}"#;
            Reply::text(404, body.to_owned())
        })
    }

    fn blob(&self, digest: &str, range: Option<&str>) -> Option<Reply> {
        let bytes = self.blobs.get(digest)?;
        let from: Option<usize> =
            range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        Some(match from {
            None => Reply { status: 200, body: bytes.clone(), ..Reply::default() },
            Some(from) if from >= bytes.len() => Reply { status: 416, ..Reply::default() },
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                Reply {
                    status: 206,
                    headers: vec![("Content-Range".to_owned(), range)],
                    body: bytes[from..].to_vec(),
                    ..Reply::default()
                }
            }
        })
    }

    fn manifest(&self, repository: &str, name: &str) -> Option<Reply> {
        let (media_type, bytes) = self.manifests.get(&(repository.to_owned(), name.to_owned()))?;
        Some(Reply {
            status: 200,
            headers: vec![
                ("Content-Type".to_owned(), media_type.clone()),
                ("Docker-Content-Digest".to_owned(), digest_of(bytes).to_string()),
            ],
            body: bytes.clone(),
            ..Reply::default()
        })
    }
}
