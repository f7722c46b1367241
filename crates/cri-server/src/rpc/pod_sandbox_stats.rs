//! CRI `PodSandboxStats`.

use cri_api::v1;
use tonic::Status;

use crate::convert::stats;
use crate::{Server, status};

/// One READY pod with its containers.
pub(crate) async fn pod_sandbox_stats(
    server: &Server,
    request: &v1::PodSandboxStatsRequest,
) -> Result<v1::PodSandboxStatsResponse, Status> {
    let view = server.sandboxes.index().pod(&request.pod_sandbox_id);
    let view = view.map_err(status::from_lookup)?;
    if !view.is_ready() {
        let id = &view.record.id;
        return Err(Status::unavailable(format!("pod sandbox {id} is not ready: no statistics")));
    }
    let usage = server.sandboxes.pod_usage(vec![view]).await;
    Ok(v1::PodSandboxStatsResponse { stats: usage.into_iter().next().map(stats::pod) })
}
