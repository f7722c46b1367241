//! CRI `ImageStatus`.

use std::collections::BTreeMap;

use cri_api::v1;
use image::Image;
use tonic::Status;

use crate::convert::image as convert;
use crate::{Server, status};

/// An absent image is an answer without image, not an error.
pub(crate) async fn image_status(
    server: &Server,
    request: v1::ImageStatusRequest,
) -> Result<v1::ImageStatusResponse, Status> {
    let name = request.image.map(|spec| spec.image).unwrap_or_default();
    let image = server.images.resolve(&name).map_err(|e| status::from_resolve(&e))?;
    let mut answer = v1::ImageStatusResponse::default();
    if let Some(image) = image {
        if request.verbose {
            answer.info = info(server, &image).await;
        }
        answer.image = Some(convert::item(&image));
    }
    Ok(answer)
}

/// The image's configuration as its author wrote it.
async fn info(server: &Server, image: &Image) -> BTreeMap<String, String> {
    let bytes = tokio::fs::read(server.images.config_path(image)).await;
    // Removed in this moment: the answer does without.
    let config = bytes.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let config: serde_json::Value = config.unwrap_or_default();
    let info = serde_json::json!({ "chainID": image.chain_id(), "imageSpec": config });
    BTreeMap::from([("info".to_owned(), info.to_string())])
}
