//! CRI `Exec`.

use cri_api::v1;
use streaming::{ExecRequest, Streams};
use tonic::Status;

use crate::{Server, status};

/// Where the caller finds the session. What cannot be run now is refused now.
pub(crate) fn exec(server: &Server, request: v1::ExecRequest) -> Result<v1::ExecResponse, Status> {
    status::room()?;
    let v1::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr } = request;
    let streams = Streams::new(stdin, stdout, stderr, tty).map_err(status::from_streams)?;
    let container = server
        .sandboxes
        .running_container(&container_id, "run a command in")
        .map_err(status::from_container)?
        .record
        .id
        .clone();
    if cmd.is_empty() {
        return Err(status::from_exec(sandbox::ExecError::EmptyCommand { container }));
    }
    let url = server.urls.exec(ExecRequest { container, command: cmd, streams });
    Ok(v1::ExecResponse { url: url.map_err(status::from_too_many)? })
}
