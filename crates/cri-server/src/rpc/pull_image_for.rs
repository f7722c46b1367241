//! `knarr.v1.Images/PullImageFor`: a pull for any platform.

use cri_api::knarr::{Login, PullImageForRequest, PullImageForResponse};
use image::Credentials;
use model::{Platform, Reference};
use tonic::Status;

use crate::{Server, status};

/// Returns the image's id. A dropped call aborts the pull.
pub(crate) async fn pull_image_for(
    server: &Server,
    request: PullImageForRequest,
) -> Result<PullImageForResponse, Status> {
    let reference =
        Reference::parse(&request.image).map_err(|error| status::from_reference(&error))?;
    let platform = Platform::parse(&request.platform).ok_or_else(|| {
        Status::invalid_argument(format!(
            "`{}` is no platform such as linux/arm64 or linux/arm/v7",
            request.platform
        ))
    })?;
    let pull = server.images.pull_for(&reference, credentials(request.login), platform);
    let image = pull.await.map_err(|error| status::from_pull(&error))?;
    Ok(PullImageForResponse { id: image.id.to_string() })
}

/// What a caller logs in with, if anything.
pub(crate) fn credentials(login: Option<Login>) -> Credentials {
    match login {
        Some(Login { user, password }) => Credentials::Basic { user, password },
        None => Credentials::Anonymous,
    }
}
