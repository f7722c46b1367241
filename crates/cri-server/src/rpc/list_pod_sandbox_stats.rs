//! CRI `ListPodSandboxStats`.

use cri_api::v1;
use tonic::Status;

use super::pod_sandbox_stats::of_pod;
use crate::convert::pod;
use crate::{Server, status};

/// Every READY pod that fits.
pub(crate) fn list_pod_sandbox_stats(
    server: &Server,
    request: v1::ListPodSandboxStatsRequest,
) -> Result<v1::ListPodSandboxStatsResponse, Status> {
    let wanted = request.filter.unwrap_or_default();
    let filter = pod::Filter::new(Some(v1::PodSandboxFilter {
        id: wanted.id,
        state: None,
        label_selector: wanted.label_selector,
    }))
    .map_err(status::invalid)?;
    let pods = server.sandboxes.index().pods();
    let stats = pods
        .iter()
        .filter(|view| view.is_ready() && filter.fits(view))
        .map(|view| of_pod(server, view))
        .collect();
    Ok(v1::ListPodSandboxStatsResponse { stats })
}
