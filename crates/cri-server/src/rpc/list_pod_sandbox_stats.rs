//! CRI `ListPodSandboxStats` and `StreamPodSandboxStats`.

use cri_api::v1;
use futures_util::{Stream, StreamExt};
use tonic::Status;

use super::streamed::{AT_ONCE, Messages, portions};
use crate::convert::{FilterError, pod, stats};
use crate::{Server, status};

/// Every READY pod that fits.
pub(crate) async fn list_pod_sandbox_stats(
    server: &Server,
    request: v1::ListPodSandboxStatsRequest,
) -> Result<v1::ListPodSandboxStatsResponse, Status> {
    let stats = measured(server, request.filter).map_err(status::from_filter)?.concat().await;
    Ok(v1::ListPodSandboxStatsResponse { stats })
}

/// The same, in several messages.
pub(crate) fn stream_pod_sandbox_stats(
    server: &Server,
    request: v1::StreamPodSandboxStatsRequest,
) -> Result<Messages<v1::StreamPodSandboxStatsResponse>, Status> {
    let measured = measured(server, request.filter).map_err(status::from_filter)?;
    Ok(portions(measured, |pod_sandbox_stats| v1::StreamPodSandboxStatsResponse {
        pod_sandbox_stats,
    }))
}

fn measured(
    server: &Server,
    filter: Option<v1::PodSandboxStatsFilter>,
) -> Result<impl Stream<Item = Vec<v1::PodSandboxStats>> + Send + use<>, FilterError> {
    let sandboxes = server.sandboxes.clone();
    let filter = pod::Filter::of_stats(filter, sandboxes.index())?;
    let mut fitting = sandboxes.index().pods();
    fitting.retain(|view| view.is_ready() && filter.fits(view));
    let portions: Vec<_> = fitting.chunks(AT_ONCE).map(<[_]>::to_vec).collect();
    Ok(futures_util::stream::iter(portions).then(move |pods| {
        let sandboxes = sandboxes.clone();
        async move { sandboxes.pod_usage(pods).await.into_iter().map(stats::pod).collect() }
    }))
}
