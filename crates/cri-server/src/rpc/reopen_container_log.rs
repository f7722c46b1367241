//! CRI `ReopenContainerLog`.

use cri_api::v1;
use tonic::Status;

use crate::{Server, status};

/// The next byte of the log goes to a fresh file at the same path, which exists on return.
pub(crate) async fn reopen_container_log(
    server: &Server,
    request: &v1::ReopenContainerLogRequest,
) -> Result<v1::ReopenContainerLogResponse, Status> {
    server.sandboxes.reopen_log(&request.container_id).await.map_err(status::from_container)?;
    Ok(v1::ReopenContainerLogResponse {})
}
