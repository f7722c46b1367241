//! CRI `RemovePodSandbox`.

use cri_api::v1;
use tonic::Status;

use crate::{Server, status};

/// An unknown pod is success.
pub(crate) async fn remove_pod_sandbox(
    server: &Server,
    request: &v1::RemovePodSandboxRequest,
) -> Result<v1::RemovePodSandboxResponse, Status> {
    server.sandboxes.remove_pod(&request.pod_sandbox_id).await.map_err(status::from_stop_pod)?;
    Ok(v1::RemovePodSandboxResponse {})
}
