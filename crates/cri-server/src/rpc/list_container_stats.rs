//! CRI `ListContainerStats`.

use cri_api::v1;

use crate::Server;
use crate::convert::{container, stats};

/// Every container that fits; no filter means all.
pub(crate) fn list_container_stats(
    server: &Server,
    request: v1::ListContainerStatsRequest,
) -> v1::ListContainerStatsResponse {
    let filter = container::Filter::of_stats(request.filter);
    let all = server.sandboxes.index().containers();
    let stats = all
        .iter()
        .filter(|view| filter.fits(view))
        .map(|view| stats::container(view, server.sandboxes.container_stats(view)))
        .collect();
    v1::ListContainerStatsResponse { stats }
}
