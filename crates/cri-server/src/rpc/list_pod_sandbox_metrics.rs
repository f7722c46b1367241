//! CRI `ListPodSandboxMetrics` and `StreamPodSandboxMetrics`.

use cri_api::v1;
use futures_util::{Stream, StreamExt};

use super::streamed::{AT_ONCE, Messages, portions};
use crate::Server;
use crate::convert::metrics;

/// Every READY pod with its running containers.
pub(crate) async fn list_pod_sandbox_metrics(server: &Server) -> v1::ListPodSandboxMetricsResponse {
    let pod_metrics = measured(server).concat().await;
    v1::ListPodSandboxMetricsResponse { pod_metrics }
}

/// The same, in several messages.
pub(crate) fn stream_pod_sandbox_metrics(
    server: &Server,
) -> Messages<v1::StreamPodSandboxMetricsResponse> {
    portions(measured(server), |pod_sandbox_metrics| v1::StreamPodSandboxMetricsResponse {
        pod_sandbox_metrics,
    })
}

fn measured(server: &Server) -> impl Stream<Item = Vec<v1::PodSandboxMetrics>> + Send + use<> {
    let sandboxes = server.sandboxes.clone();
    let pods = sandboxes.index().pods();
    let portions: Vec<_> = pods.chunks(AT_ONCE).map(<[_]>::to_vec).collect();
    futures_util::stream::iter(portions).then(move |pods| {
        let sandboxes = sandboxes.clone();
        async move { sandboxes.pod_metrics(pods).await.iter().map(metrics::pod).collect() }
    })
}
