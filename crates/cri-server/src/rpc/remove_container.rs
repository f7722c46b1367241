//! CRI `RemoveContainer`.

use cri_api::v1;
use tonic::Status;

use crate::{Server, status};

/// Kills a running one first; the log stays. An unknown container is success.
pub(crate) async fn remove_container(
    server: &Server,
    request: &v1::RemoveContainerRequest,
) -> Result<v1::RemoveContainerResponse, Status> {
    let id = &request.container_id;
    server.sandboxes.remove_container(id).await.map_err(status::from_container)?;
    Ok(v1::RemoveContainerResponse {})
}
