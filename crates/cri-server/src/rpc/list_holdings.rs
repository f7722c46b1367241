//! `knarr.v1.Networks/ListHoldings`: who holds which address.

use cni::HoldingState;
use cri_api::knarr;
use tonic::Status;

use crate::{Server, status};

pub(crate) async fn list_holdings(server: &Server) -> Result<knarr::ListHoldingsResponse, Status> {
    let holdings = server.sandboxes.holdings().await.map_err(status::from_networks)?;
    let holdings = holdings.into_iter().map(|holding| {
        let (pod_namespace, pod_name) = holding.pod.unwrap_or_default();
        knarr::Holding {
            network: holding.network,
            pod_sandbox_id: holding.container,
            interface: holding.interface,
            pod_namespace,
            pod_name,
            addresses: holding.addresses.iter().map(ToString::to_string).collect(),
            state: match holding.state {
                HoldingState::Attached => knarr::HoldingState::Attached,
                HoldingState::Underway => knarr::HoldingState::Underway,
                HoldingState::Left => knarr::HoldingState::Left,
            }
            .into(),
        }
    });
    Ok(knarr::ListHoldingsResponse { holdings: holdings.collect() })
}
