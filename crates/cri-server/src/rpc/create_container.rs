//! CRI `CreateContainer`.

use cri_api::v1;
use tonic::Status;

use crate::convert::{ConvertError, container};
use crate::{Server, status};

/// Prepares everything and runs nothing. The sandbox's own configuration counts, not the copy in
/// the request.
pub(crate) async fn create_container(
    server: &Server,
    request: v1::CreateContainerRequest,
) -> Result<v1::CreateContainerResponse, Status> {
    status::room()?;
    let missing = ConvertError::Missing("config of the container");
    let config = request.config.ok_or(missing).map_err(status::invalid)?;
    let config = container::config(config).map_err(status::invalid)?;
    let id = server
        .sandboxes
        .create_container(&request.pod_sandbox_id, config)
        .await
        .map_err(status::from_create)?;
    Ok(v1::CreateContainerResponse { container_id: id.into() })
}
