//! CRI `StartContainer`.

use cri_api::v1;
use tonic::Status;

use crate::{Server, status};

/// Returns once the program runs, or has failed to.
pub(crate) async fn start_container(
    server: &Server,
    request: &v1::StartContainerRequest,
) -> Result<v1::StartContainerResponse, Status> {
    status::room()?;
    server.sandboxes.start_container(&request.container_id).await.map_err(status::from_start)?;
    Ok(v1::StartContainerResponse {})
}
