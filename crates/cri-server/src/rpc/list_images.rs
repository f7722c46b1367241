//! CRI `ListImages` and `StreamImages`.

use cri_api::v1;
use tonic::Status;

use super::streamed::{Messages, messages};
use crate::convert::image as convert;
use crate::{Server, status};

/// Every image, or the one the filter names.
pub(crate) fn list_images(
    server: &Server,
    request: v1::ListImagesRequest,
) -> Result<v1::ListImagesResponse, Status> {
    Ok(v1::ListImagesResponse { images: fitting(server, request.filter)?.collect() })
}

/// The same, in several messages.
pub(crate) fn stream_images(
    server: &Server,
    request: v1::StreamImagesRequest,
) -> Result<Messages<v1::StreamImagesResponse>, Status> {
    Ok(messages(fitting(server, request.filter)?, |images| v1::StreamImagesResponse { images }))
}

fn fitting(
    server: &Server,
    filter: Option<v1::ImageFilter>,
) -> Result<impl Iterator<Item = v1::Image> + Send + use<>, Status> {
    let wanted = filter.and_then(|filter| filter.image).map(|spec| spec.image);
    let images = match wanted.filter(|name| !name.is_empty()) {
        Some(name) => {
            let found = server.images.resolve(&name).map_err(|e| status::from_resolve(&e))?;
            found.into_iter().collect()
        }
        None => server.images.list().as_ref().clone(),
    };
    Ok(images.into_iter().map(|image| convert::item(&image)))
}
