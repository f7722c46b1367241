//! CRI `ExecSync`.

use std::time::Duration;

use cri_api::v1;
use tonic::Status;

use crate::{MAX_MESSAGE, Server, status};

/// For both streams in one answer; the rest of a message is the rest of the answer.
const ROOM: usize = MAX_MESSAGE - 4096;

/// `timeout` in seconds, 0 for none. Any exit code is a success of the call.
pub(crate) async fn exec_sync(
    server: &Server,
    request: v1::ExecSyncRequest,
) -> Result<v1::ExecSyncResponse, Status> {
    status::room()?;
    let seconds = u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0);
    let timeout = seconds.map(Duration::from_secs);
    let output = server
        .sandboxes
        .exec_sync(&request.container_id, request.cmd, timeout)
        .await
        .map_err(status::from_exec)?;
    let (mut stdout, mut stderr) = (output.stdout, output.stderr);
    fit(&mut stdout, &mut stderr, ROOM);
    Ok(v1::ExecSyncResponse { stdout, stderr, exit_code: output.exit_code })
}

/// Cuts both until they fit together, each to half at most: kubelet refuses a larger message, and
/// with it the exit code.
fn fit(stdout: &mut Vec<u8>, stderr: &mut Vec<u8>, room: usize) {
    let half = room / 2;
    let for_stderr = stderr.len().min(half.max(room.saturating_sub(stdout.len())));
    stderr.truncate(for_stderr);
    stdout.truncate(room.saturating_sub(for_stderr));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_cut_evenly() {
        for ((stdout, stderr), want) in [
            ((3, 4), (3, 4)),
            ((10, 0), (10, 0)),
            ((11, 0), (10, 0)),
            ((0, 30), (0, 10)),
            ((2, 30), (2, 8)),
            ((30, 2), (8, 2)),
            ((30, 30), (5, 5)),
            ((6, 6), (5, 5)),
        ] {
            let (mut out, mut err) = (vec![0; stdout], vec![0; stderr]);
            fit(&mut out, &mut err, 10);
            assert_eq!((out.len(), err.len()), want, "{stdout} {stderr}");
        }
    }
}
