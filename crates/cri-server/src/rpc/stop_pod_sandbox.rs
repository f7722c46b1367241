//! CRI `StopPodSandbox`.

use cri_api::v1;
use tonic::Status;

use crate::{Server, status};

/// An unknown pod is success.
pub(crate) async fn stop_pod_sandbox(
    server: &Server,
    request: &v1::StopPodSandboxRequest,
) -> Result<v1::StopPodSandboxResponse, Status> {
    server.sandboxes.stop_pod(&request.pod_sandbox_id).await.map_err(status::from_stop_pod)?;
    Ok(v1::StopPodSandboxResponse {})
}
