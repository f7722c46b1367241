//! CRI `ListContainerStats` and `StreamContainerStats`.

use cri_api::v1;
use futures_util::{Stream, StreamExt};
use sandbox::LookupError;
use tonic::Status;

use super::streamed::{AT_ONCE, Messages, portions};
use crate::convert::{container, stats};
use crate::{Server, status};

/// Every container that fits; no filter means all.
pub(crate) async fn list_container_stats(
    server: &Server,
    request: v1::ListContainerStatsRequest,
) -> Result<v1::ListContainerStatsResponse, Status> {
    let stats = measured(server, request.filter).map_err(status::from_lookup)?.concat().await;
    Ok(v1::ListContainerStatsResponse { stats })
}

/// The same, in several messages.
pub(crate) fn stream_container_stats(
    server: &Server,
    request: v1::StreamContainerStatsRequest,
) -> Result<Messages<v1::StreamContainerStatsResponse>, Status> {
    let measured = measured(server, request.filter).map_err(status::from_lookup)?;
    Ok(portions(measured, |container_stats| v1::StreamContainerStatsResponse { container_stats }))
}

fn measured(
    server: &Server,
    filter: Option<v1::ContainerStatsFilter>,
) -> Result<impl Stream<Item = Vec<v1::ContainerStats>> + Send + use<>, LookupError> {
    let sandboxes = server.sandboxes.clone();
    let filter = container::Filter::of_stats(filter, sandboxes.index())?;
    let mut fitting = sandboxes.index().containers();
    fitting.retain(|view| filter.fits(view));
    let portions: Vec<_> = fitting.chunks(AT_ONCE).map(<[_]>::to_vec).collect();
    Ok(futures_util::stream::iter(portions).then(move |containers| {
        let sandboxes = sandboxes.clone();
        async move {
            sandboxes.container_usage(containers).await.into_iter().map(stats::container).collect()
        }
    }))
}
