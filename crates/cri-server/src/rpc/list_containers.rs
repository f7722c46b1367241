//! CRI `ListContainers`.

use cri_api::v1;
use tonic::Status;

use crate::convert::container;
use crate::{Server, status};

/// From memory, without waiting for anything.
pub(crate) fn list_containers(
    server: &Server,
    request: v1::ListContainersRequest,
) -> Result<v1::ListContainersResponse, Status> {
    let filter = container::Filter::new(request.filter).map_err(status::invalid)?;
    let all = server.sandboxes.index().containers();
    let fitting = all.iter().filter(|view| filter.fits(view));
    Ok(v1::ListContainersResponse {
        containers: fitting.map(|view| container::item(view)).collect(),
    })
}
