//! `knarr.v1.Networks/CollectNetworks`: releases what belongs to no sandbox.

use cri_api::knarr;
use tonic::Status;

use crate::{Server, status};

pub(crate) async fn collect_networks(
    server: &Server,
) -> Result<knarr::CollectNetworksResponse, Status> {
    let report = server.sandboxes.collect_networks().await.map_err(status::from_networks)?;
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Ok(knarr::CollectNetworksResponse {
        detached: number(report.detached),
        released: number(report.released),
        busy: report.busy,
        failures: report.failures.iter().map(|failure| sandbox::chain(failure)).collect(),
    })
}
