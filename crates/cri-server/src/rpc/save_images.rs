//! `knarr.v1.Images/SaveImages`: images into an archive.

use std::pin::Pin;

use cri_api::knarr::{ArchiveChunk, SaveImagesRequest};
use futures_util::Stream;
use image::LayerSource;
use tonic::Status;

use super::inspect_image::known;
use super::pull_image_for::credentials;
use crate::{Server, status};

type Chunks = Pin<Box<dyn Stream<Item = Result<ArchiveChunk, Status>> + Send>>;

/// The work stops when the client leaves.
pub(crate) fn save_images(server: &Server, request: SaveImagesRequest) -> Result<Chunks, Status> {
    let images = request.images.iter().map(|name| known(server, name));
    let images = images.collect::<Result<Vec<_>, _>>()?;
    let from = if request.from_registry { LayerSource::Registry } else { LayerSource::Store };
    let stream = server.images.save(images, from, credentials(request.login));
    Ok(Box::pin(futures_util::stream::unfold(stream, |mut stream| async {
        let chunk = stream.recv().await?.map_err(|error| status::from_save(&error));
        Some((chunk.map(|data| ArchiveChunk { data: data.to_vec() }), stream))
    })))
}
