//! CRI `ListContainers` and `StreamContainers`.

use cri_api::v1;
use tonic::Status;

use super::streamed::{Messages, messages};
use crate::convert::container;
use crate::{Server, status};

/// From memory, without waiting for anything.
pub(crate) fn list_containers(
    server: &Server,
    request: v1::ListContainersRequest,
) -> Result<v1::ListContainersResponse, Status> {
    Ok(v1::ListContainersResponse { containers: fitting(server, request.filter)?.collect() })
}

/// The same, in several messages.
pub(crate) fn stream_containers(
    server: &Server,
    request: v1::StreamContainersRequest,
) -> Result<Messages<v1::StreamContainersResponse>, Status> {
    Ok(messages(fitting(server, request.filter)?, |containers| v1::StreamContainersResponse {
        containers,
    }))
}

fn fitting(
    server: &Server,
    filter: Option<v1::ContainerFilter>,
) -> Result<impl Iterator<Item = v1::Container> + Send + use<>, Status> {
    let index = server.sandboxes.index();
    let filter = container::Filter::new(filter, index).map_err(status::from_filter)?;
    let fitting = index.containers().into_iter().filter(move |view| filter.fits(view));
    Ok(fitting.map(|view| container::item(&view)))
}
