//! CRI `ContainerStats`.

use std::sync::Arc;

use cri_api::v1;
use tonic::Status;

use crate::convert::stats;
use crate::{Server, status};

/// One container; one that does not run has only its writable layer. That is measured in the
/// background, a little sooner because somebody looks at it.
pub(crate) async fn container_stats(
    server: &Server,
    request: &v1::ContainerStatsRequest,
) -> Result<v1::ContainerStatsResponse, Status> {
    let view = server.sandboxes.index().container(&request.container_id);
    let view = view.map_err(status::from_lookup)?;
    let usage = server.sandboxes.container_usage(vec![Arc::clone(&view)]).await;
    server.sandboxes.measure_soon(&view);
    Ok(v1::ContainerStatsResponse { stats: usage.into_iter().next().map(stats::container) })
}
