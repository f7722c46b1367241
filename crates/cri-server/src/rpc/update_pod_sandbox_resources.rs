//! CRI `UpdatePodSandboxResources`.

use cri_api::v1;
use tonic::Status;

use crate::convert::resources;
use crate::{Server, status};

/// Takes note of the pod's new totals; its cgroup is kubelet's.
pub(crate) async fn update_pod_sandbox_resources(
    server: &Server,
    request: v1::UpdatePodSandboxResourcesRequest,
) -> Result<v1::UpdatePodSandboxResourcesResponse, Status> {
    let overhead = request.overhead.map(resources::from_cri);
    let resources = request.resources.map(resources::from_cri);
    server
        .sandboxes
        .update_pod_resources(&request.pod_sandbox_id, overhead, resources)
        .await
        .map_err(status::from_update_pod)?;
    Ok(v1::UpdatePodSandboxResourcesResponse {})
}
