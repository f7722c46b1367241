//! CRI `PodSandboxStats`.

use cri_api::v1;
use sandbox::PodView;
use tonic::Status;

use crate::convert::stats;
use crate::{Server, status};

/// One READY pod with its containers.
pub(crate) fn pod_sandbox_stats(
    server: &Server,
    request: &v1::PodSandboxStatsRequest,
) -> Result<v1::PodSandboxStatsResponse, Status> {
    let view = server.sandboxes.index().pod(&request.pod_sandbox_id);
    let view = view.map_err(status::from_lookup)?;
    if !view.is_ready() {
        let id = &view.record.id;
        return Err(Status::unavailable(format!("pod sandbox {id} is not ready: no statistics")));
    }
    Ok(v1::PodSandboxStatsResponse { stats: Some(of_pod(server, &view)) })
}

pub(super) fn of_pod(server: &Server, view: &PodView) -> v1::PodSandboxStats {
    let containers = server.sandboxes.index().containers_of(&view.record.id);
    let containers = containers
        .iter()
        .map(|view| stats::container(view, server.sandboxes.container_stats(view)))
        .collect();
    stats::pod(view, &server.sandboxes.pod_stats(view), containers)
}
