//! CRI `ImageFsInfo`.

use cri_api::v1;
use model::DiskUsage;

use crate::Server;
use crate::convert::stats;

/// Exactly one image file system; containers share it.
pub(crate) async fn image_fs_info(server: &Server) -> v1::ImageFsInfoResponse {
    let usage = server.images.fs_usage().await;
    let usage = stats::disk(DiskUsage {
        at: sandbox::clock(),
        mountpoint: usage.mountpoint.to_string_lossy().into_owned(),
        used_bytes: usage.used_bytes,
        inodes_used: usage.inodes_used,
    });
    v1::ImageFsInfoResponse {
        image_filesystems: vec![usage.clone()],
        container_filesystems: vec![usage],
    }
}
