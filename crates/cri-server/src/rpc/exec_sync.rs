//! CRI `ExecSync`.

use std::time::Duration;

use cri_api::v1;
use tonic::Status;

use crate::{Server, status};

/// `timeout` in seconds, 0 for none. Any exit code is a success of the call.
pub(crate) async fn exec_sync(
    server: &Server,
    request: v1::ExecSyncRequest,
) -> Result<v1::ExecSyncResponse, Status> {
    let seconds = u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0);
    let timeout = seconds.map(Duration::from_secs);
    let output = server
        .sandboxes
        .exec_sync(&request.container_id, request.cmd, timeout)
        .await
        .map_err(status::from_exec)?;
    Ok(v1::ExecSyncResponse {
        stdout: output.stdout,
        stderr: output.stderr,
        exit_code: output.exit_code,
    })
}
