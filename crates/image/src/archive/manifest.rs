//! Manifests of our own, for images whose archive has none or another.

use bytes::Bytes;
use model::Digest;
use registry::Descriptor;

/// A layer that is a bare tar.
pub(super) const PLAIN_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The manifest of image `id` with these blobs.
pub(super) fn make(id: Digest, config_bytes: usize, layers: &[Descriptor]) -> Bytes {
    let layer = |layer: &Descriptor| {
        let (media_type, digest, size) = (&layer.media_type, layer.digest.to_string(), layer.size);
        serde_json::json!({ "mediaType": media_type, "digest": digest, "size": size })
    };
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": id.to_string(),
            "size": config_bytes,
        },
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    });
    manifest.to_string().into()
}
