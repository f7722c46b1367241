//! CRI `UpdateContainerResources`.

use cri_api::v1;
use tonic::Status;

use crate::convert::resources;
use crate::{Server, status};

/// Changes the limits that are named and leaves the others; annotations are advice.
pub(crate) async fn update_container_resources(
    server: &Server,
    request: v1::UpdateContainerResourcesRequest,
) -> Result<v1::UpdateContainerResourcesResponse, Status> {
    let change = resources::from_cri(request.linux.unwrap_or_default());
    server
        .sandboxes
        .update_resources(&request.container_id, change)
        .await
        .map_err(status::from_update)?;
    Ok(v1::UpdateContainerResourcesResponse {})
}
