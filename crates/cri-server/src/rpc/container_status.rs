//! CRI `ContainerStatus`.

use std::collections::BTreeMap;

use cri_api::v1;
use sandbox::{ContainerState, ContainerView};
use tonic::Status;

use super::status::{RUNTIME_TYPE, SNAPSHOTTER};
use crate::convert::{container, dump};
use crate::{Server, status};

/// From memory; `info` only when asked for.
pub(crate) async fn container_status(
    server: &Server,
    request: &v1::ContainerStatusRequest,
) -> Result<v1::ContainerStatusResponse, Status> {
    let view = server.sandboxes.index().container(&request.container_id);
    let view = view.map_err(status::from_lookup)?;
    Ok(v1::ContainerStatusResponse {
        status: Some(container::status(&view)),
        info: if request.verbose { info(server, &view).await } else { BTreeMap::new() },
    })
}

/// The keys that tools read from containerd's answer.
async fn info(server: &Server, view: &ContainerView) -> BTreeMap<String, String> {
    let record = &view.record;
    let pid = match record.state {
        ContainerState::Running { pid, .. } => pid,
        ContainerState::Created | ContainerState::Exited(_) => 0,
    };
    let info = serde_json::json!({
        "sandboxID": record.sandbox,
        "pid": pid,
        "removing": false,
        "snapshotKey": record.id,
        "snapshotter": SNAPSHOTTER,
        "runtimeType": RUNTIME_TYPE,
        "runtimeOptions": null,
        "config": dump::container(&record.config),
        "privileged": record.config.security.privileged,
        "runtimeSpec": server.sandboxes.runtime_spec(view).await,
    });
    BTreeMap::from([("info".to_owned(), info.to_string())])
}
