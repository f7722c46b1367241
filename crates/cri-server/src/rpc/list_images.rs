//! CRI `ListImages`.

use cri_api::v1;
use tonic::Status;

use crate::convert::image as convert;
use crate::{Server, status};

/// Every image, or the one the filter names.
pub(crate) fn list_images(
    server: &Server,
    request: v1::ListImagesRequest,
) -> Result<v1::ListImagesResponse, Status> {
    let wanted = request.filter.and_then(|filter| filter.image).map(|spec| spec.image);
    let images = match wanted.filter(|name| !name.is_empty()) {
        Some(name) => {
            let found = server.images.resolve(&name).map_err(|e| status::from_resolve(&e))?;
            found.iter().map(|image| convert::item(image)).collect()
        }
        None => server.images.list().iter().map(|image| convert::item(image)).collect(),
    };
    Ok(v1::ListImagesResponse { images })
}
