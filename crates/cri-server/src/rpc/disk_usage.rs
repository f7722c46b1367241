//! `knarr.v1.Images/DiskUsage`: what images take.

use cri_api::knarr::{DiskUsageResponse, LayerUsage};

use crate::Server;

/// Every layer with the images that have it.
pub(crate) async fn disk_usage(server: &Server) -> DiskUsageResponse {
    let usage = server.images.store_usage().await;
    let images = server.images.list();
    let layers = usage.layers.iter().map(|(diff_id, layer)| LayerUsage {
        diff_id: diff_id.to_string(),
        disk_bytes: layer.bytes,
        inodes: layer.inodes,
        images: images
            .iter()
            .filter(|image| image.diff_ids.contains(diff_id))
            .map(|image| image.id.to_string())
            .collect(),
    });
    DiskUsageResponse {
        layers: layers.collect(),
        partial_bytes: usage.partial_bytes,
        total_bytes: usage.total.used_bytes,
        total_inodes: usage.total.inodes_used,
        mountpoint: usage.total.mountpoint.to_string_lossy().into_owned(),
    }
}
