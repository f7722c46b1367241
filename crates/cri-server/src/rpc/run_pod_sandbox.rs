//! CRI `RunPodSandbox`.

use cri_api::v1;
use tonic::Status;

use crate::convert::{ConvertError, pod};
use crate::{Server, status};

/// READY on return; an error leaves nothing.
pub(crate) async fn run_pod_sandbox(
    server: &Server,
    request: v1::RunPodSandboxRequest,
) -> Result<v1::RunPodSandboxResponse, Status> {
    status::room()?;
    let missing = ConvertError::Missing("config of the pod");
    let config = request.config.ok_or(missing).map_err(status::invalid)?;
    let config = pod::config(config).map_err(status::invalid)?;
    let id = server
        .sandboxes
        .run_pod(config, request.runtime_handler)
        .await
        .map_err(status::from_run)?;
    Ok(v1::RunPodSandboxResponse { pod_sandbox_id: id.into() })
}
