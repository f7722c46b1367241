//! `knarr.v1.Images/LoadImages`: images out of an archive.

use std::path::Path;

use cri_api::knarr::{LoadImagesRequest, LoadImagesResponse, LoadedImage};
use tonic::Status;

use crate::{Server, status};

/// The path is the daemon's: whoever speaks to this socket is root here.
pub(crate) async fn load_images(
    server: &Server,
    request: LoadImagesRequest,
) -> Result<LoadImagesResponse, Status> {
    let path = Path::new(&request.path);
    if !path.is_absolute() {
        return Err(Status::invalid_argument(format!("`{}` is no absolute path", request.path)));
    }
    let loaded = server.images.load(path).await.map_err(|error| status::from_load(&error))?;
    let images = loaded.into_iter().map(|loaded| LoadedImage {
        id: loaded.image.id.to_string(),
        names: loaded.names.iter().map(ToString::to_string).collect(),
    });
    Ok(LoadImagesResponse { images: images.collect() })
}
