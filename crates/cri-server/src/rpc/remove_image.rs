//! CRI `RemoveImage`.

use cri_api::v1;
use tonic::Status;

use crate::{Server, status};

/// All names of the image go; an unknown one is success.
pub(crate) async fn remove_image(
    server: &Server,
    request: v1::RemoveImageRequest,
) -> Result<v1::RemoveImageResponse, Status> {
    let name = request.image.map(|spec| spec.image).unwrap_or_default();
    server.images.remove(&name).await.map_err(|error| status::from_remove_image(&error))?;
    // The image is gone whether or not its layers can be freed now; the next collection tries again.
    if let Err(error) = server.images.collect().await {
        let error = sandbox::chain(&error);
        tracing::warn!(image = name, error, "layers of a removed image not freed");
    }
    Ok(v1::RemoveImageResponse {})
}
