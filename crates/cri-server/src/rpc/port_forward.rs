//! CRI `PortForward`.

use cri_api::v1;
use streaming::PortForwardRequest;
use tonic::Status;

use crate::{Server, status};

/// Where the caller finds the session. A pod without a network now is refused now.
pub(crate) fn port_forward(
    server: &Server,
    request: &v1::PortForwardRequest,
) -> Result<v1::PortForwardResponse, Status> {
    status::room()?;
    let ports = request.port.iter().map(|port| port_number(*port)).collect::<Result<_, _>>()?;
    let pod = server.sandboxes.ready_pod(&request.pod_sandbox_id).map_err(status::from_connect)?;
    let sandbox = pod.record.id.clone();
    let url = server.urls.port_forward(PortForwardRequest { sandbox, ports });
    Ok(v1::PortForwardResponse { url: url.map_err(status::from_too_many)? })
}

fn port_number(port: i32) -> Result<u16, Status> {
    u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| {
        Status::invalid_argument(format!("{port} is not a port: want a number from 1 to 65535"))
    })
}
