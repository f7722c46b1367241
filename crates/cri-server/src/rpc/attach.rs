//! CRI `Attach`.

use cri_api::v1;
use streaming::{AttachRequest, Streams};
use tonic::Status;

use crate::{Server, status};

/// Where the caller finds the session. What cannot be attached to now is refused now.
pub(crate) fn attach(
    server: &Server,
    request: &v1::AttachRequest,
) -> Result<v1::AttachResponse, Status> {
    status::room()?;
    let streams = Streams::new(request.stdin, request.stdout, request.stderr, request.tty)
        .map_err(status::from_streams)?;
    let container = server
        .sandboxes
        .running_container(&request.container_id, "attach to")
        .map_err(status::from_container)?
        .record
        .id
        .clone();
    let url = server.urls.attach(AttachRequest { container, streams });
    Ok(v1::AttachResponse { url: url.map_err(status::from_too_many)? })
}
