//! `knarr.v1.Images/InspectImage`: everything known of one image.

use cri_api::knarr::{ImageLayer, InspectImageRequest, InspectImageResponse};
use tonic::Status;

use crate::{Server, status};

/// An unknown image is NotFound.
pub(crate) async fn inspect_image(
    server: &Server,
    request: InspectImageRequest,
) -> Result<InspectImageResponse, Status> {
    let image = known(server, &request.image)?;
    let details = server.images.details(&image).await;
    let details = details.map_err(|error| status::internal(&error))?;
    let mut blobs = details.blobs.iter();
    let layers = details.layers.iter().map(|(diff_id, usage)| {
        let blob = blobs.next();
        ImageLayer {
            diff_id: diff_id.to_string(),
            digest: blob.map(|blob| blob.digest.to_string()).unwrap_or_default(),
            compressed_bytes: blob.map_or(0, |blob| blob.size),
            disk_bytes: usage.bytes,
            inodes: usage.inodes,
        }
    });
    Ok(InspectImageResponse {
        id: image.id.to_string(),
        tags: image.repo_tags.clone(),
        digests: image.repo_digests.clone(),
        platform: image.platform.to_string(),
        created: image.created.clone().unwrap_or_default(),
        pinned: image.pinned,
        manifest_digest: image.manifest_digest.to_string(),
        layers: layers.collect(),
        manifest: details.manifest.to_vec(),
        config: details.config.to_vec(),
    })
}

/// The image a caller means, which must be here.
pub(crate) fn known(server: &Server, name: &str) -> Result<std::sync::Arc<image::Image>, Status> {
    let image = server.images.resolve(name).map_err(|error| status::from_resolve(&error))?;
    image.ok_or_else(|| Status::not_found(format!("there is no image `{name}`")))
}
