//! `knarr.v1.Networks/InspectAttachments`: a sandbox's attachments, checked.

use cri_api::knarr;
use tonic::Status;

use crate::{Server, status};

pub(crate) async fn inspect_attachments(
    server: &Server,
    request: knarr::InspectAttachmentsRequest,
) -> Result<knarr::InspectAttachmentsResponse, Status> {
    let details = server.sandboxes.inspect_network(request.pod_sandbox_id).await;
    let attachments =
        details.map_err(status::from_networks)?.into_iter().map(|detail| knarr::Attachment {
            network: detail.network,
            interface: detail.interface,
            netns: detail.netns,
            result: detail.result.to_string(),
            configuration: detail.configuration.to_string(),
            problem: detail.problem.unwrap_or_default(),
        });
    Ok(knarr::InspectAttachmentsResponse { attachments: attachments.collect() })
}
