//! CRI `ListPodSandbox` and `StreamPodSandboxes`.

use cri_api::{server, v1};
use prost::bytes::Bytes;
use tonic::Status;

use super::streamed::{Messages, messages};
use crate::convert::pod;
use crate::{Server, status};

/// From memory, without waiting for anything.
pub(crate) fn list_pod_sandbox(
    server: &Server,
    request: v1::ListPodSandboxRequest,
) -> Result<server::ListPodSandboxResponse, Status> {
    Ok(server::ListPodSandboxResponse { items: fitting(server, request.filter)?.collect() })
}

/// The same, in several messages.
pub(crate) fn stream_pod_sandboxes(
    server: &Server,
    request: v1::StreamPodSandboxesRequest,
) -> Result<Messages<server::StreamPodSandboxesResponse>, Status> {
    Ok(messages(fitting(server, request.filter)?, |pod_sandboxes| {
        server::StreamPodSandboxesResponse { pod_sandboxes }
    }))
}

fn fitting(
    server: &Server,
    filter: Option<v1::PodSandboxFilter>,
) -> Result<impl Iterator<Item = Bytes> + Send + use<>, Status> {
    let index = server.sandboxes.index();
    let filter = pod::Filter::new(filter, index).map_err(status::from_filter)?;
    let fitting = index.pods().into_iter().filter(move |view| filter.fits(view));
    Ok(fitting.map(|view| pod::listed(&view)))
}
