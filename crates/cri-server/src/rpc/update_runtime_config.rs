//! CRI `UpdateRuntimeConfig`.

use cri_api::v1;

/// Takes note of the node's pod range and changes nothing: pods get their addresses from the CNI
/// configuration, or from `cni.subnets` of ours. An error would make kubelet ask again with every
/// node status.
pub(crate) fn update_runtime_config(
    request: v1::UpdateRuntimeConfigRequest,
) -> v1::UpdateRuntimeConfigResponse {
    let range = request
        .runtime_config
        .and_then(|config| config.network_config)
        .map(|network| network.pod_cidr)
        .unwrap_or_default();
    if !range.is_empty() {
        tracing::info!(range, "kubelet names the node's pod range; the network's own holds");
    }
    v1::UpdateRuntimeConfigResponse {}
}
