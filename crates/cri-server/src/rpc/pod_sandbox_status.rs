//! CRI `PodSandboxStatus`.

use std::collections::BTreeMap;

use cri_api::v1;
use sandbox::PodView;
use tonic::Status;

use crate::convert::{container, pod};
use crate::{Server, status};

/// From memory; `info` only when asked for.
pub(crate) fn pod_sandbox_status(
    server: &Server,
    request: &v1::PodSandboxStatusRequest,
) -> Result<v1::PodSandboxStatusResponse, Status> {
    let view = server.sandboxes.index().pod(&request.pod_sandbox_id);
    let view = view.map_err(status::from_lookup)?;
    let containers = server.sandboxes.index().containers_of(&view.record.id);
    Ok(v1::PodSandboxStatusResponse {
        status: Some(pod::status(&view)),
        info: if request.verbose { info(server, &view) } else { BTreeMap::new() },
        containers_statuses: containers.iter().map(|c| container::status(c)).collect(),
        timestamp: sandbox::clock().0,
    })
}

/// The keys that tools read from the peers.
fn info(server: &Server, view: &PodView) -> BTreeMap<String, String> {
    let record = &view.record;
    let network = record.network.as_ref();
    let info = serde_json::json!({
        "pid": view.pause_pid.or_else(|| record.shim.map(|shim| shim.pid)).unwrap_or(0),
        "netNamespaceClosed": view.network_closed,
        "runtimeHandler": record.handler,
        "cniResult": network.map(|network| &network.result),
        "sandboxMetadata": { "NetNSPath": server.sandboxes.netns_path(&record.id) },
        "config": record.config.as_ref(),
    });
    BTreeMap::from([("info".to_owned(), info.to_string())])
}
