//! CRI `StopContainer`.

use std::time::Duration;

use cri_api::v1;
use tonic::Status;

use crate::{Server, status};

/// `timeout` in seconds; 0 and less kill at once. An unknown container is success.
pub(crate) async fn stop_container(
    server: &Server,
    request: &v1::StopContainerRequest,
) -> Result<v1::StopContainerResponse, Status> {
    let timeout = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0).min(YEAR));
    server
        .sandboxes
        .stop_container(&request.container_id, timeout)
        .await
        .map_err(status::from_container)?;
    Ok(v1::StopContainerResponse {})
}

/// Longer grace periods would overflow the clock.
const YEAR: u64 = 365 * 24 * 3600;
