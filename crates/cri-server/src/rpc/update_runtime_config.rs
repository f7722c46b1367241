//! CRI `UpdateRuntimeConfig`.

use cni::PodRanges;
use cri_api::v1;
use tonic::Status;

use crate::{Server, status};

/// Takes the node's pod range for the built-in network. Where a CNI configuration gives addresses
/// the range is of no account, and no error: kubelet would ask again with every node status.
pub(crate) async fn update_runtime_config(
    server: &Server,
    request: v1::UpdateRuntimeConfigRequest,
) -> Result<v1::UpdateRuntimeConfigResponse, Status> {
    let range = request
        .runtime_config
        .and_then(|config| config.network_config)
        .map(|network| network.pod_cidr)
        .unwrap_or_default();
    if !range.is_empty() {
        let taken = server.sandboxes.set_pod_ranges(range.clone()).await;
        match taken.map_err(status::from_pod_ranges)? {
            PodRanges::Adopted => tracing::info!(range, "the node's pod range is taken"),
            PodRanges::Unchanged => {}
            PodRanges::NotAsked => {
                tracing::info!(range, "kubelet names the node's pod range; `cni.subnets` holds");
            }
        }
    }
    Ok(v1::UpdateRuntimeConfigResponse {})
}
