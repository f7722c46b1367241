//! CRI `ContainerStats`.

use cri_api::v1;
use tonic::Status;

use crate::convert::stats;
use crate::{Server, status};

/// One container; one that does not run has only its writable layer.
pub(crate) async fn container_stats(
    server: &Server,
    request: &v1::ContainerStatsRequest,
) -> Result<v1::ContainerStatsResponse, Status> {
    let view = server.sandboxes.index().container(&request.container_id);
    let view = view.map_err(status::from_lookup)?;
    let stats = server.sandboxes.fresh_container_stats(&view).await;
    Ok(v1::ContainerStatsResponse { stats: Some(stats::container(&view, stats)) })
}
