//! `knarr.v1.Images/TagImage`: one more name.

use cri_api::knarr::{TagImageRequest, TagImageResponse};
use model::Reference;
use tonic::Status;

use crate::{Server, status};

/// The name moves here from an image that has it.
pub(crate) async fn tag_image(
    server: &Server,
    request: TagImageRequest,
) -> Result<TagImageResponse, Status> {
    let name = Reference::parse(&request.name).map_err(|error| status::from_reference(&error))?;
    let tagged = server.images.tag(&request.image, name.clone()).await;
    tagged.map_err(|error| status::from_tag(&error))?;
    Ok(TagImageResponse { name: name.to_string() })
}
