//! CRI `ListPodSandbox`.

use cri_api::v1;
use tonic::Status;

use crate::convert::pod;
use crate::{Server, status};

/// From memory, without waiting for anything.
pub(crate) fn list_pod_sandbox(
    server: &Server,
    request: v1::ListPodSandboxRequest,
) -> Result<v1::ListPodSandboxResponse, Status> {
    let filter = pod::Filter::new(request.filter).map_err(status::invalid)?;
    let pods = server.sandboxes.index().pods();
    let items = pods.iter().filter(|view| filter.fits(view)).map(|view| pod::item(view)).collect();
    Ok(v1::ListPodSandboxResponse { items })
}
