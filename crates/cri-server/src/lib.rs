//! The CRI gRPC services: convert, call, convert. The only crate of the daemon that names CRI
//! protobuf types.
//!
//! Never here: decisions about pods, containers or images. One file per RPC in `rpc/`, every
//! error's gRPC code in `status`.
//!
//! Main types: [`Server`] (what the RPCs work on) and the three services it turns into.
#![forbid(unsafe_code)]

mod convert;
mod deadline;
mod rpc;
mod service;
mod sessions;
mod status;

pub use deadline::Deadlines;
pub use rpc::examine::told;
pub use sessions::PodSessions;

use cri_api::knarr::health_server::HealthServer;
use cri_api::knarr::images_server::ImagesServer;
use cri_api::knarr::networks_server::NetworksServer;
use cri_api::knarr::progress_server::ProgressServer;
use cri_api::server::image_service_server::ImageServiceServer;
use cri_api::server::runtime_service_server::RuntimeServiceServer;
use image::Images;
use model::CgroupDriver;
use sandbox::Sandboxes;

/// CRI clients accept and send up to this; gRPC's own default of 4 MiB is too small for a full
/// node's lists.
const MAX_MESSAGE: usize = 16 << 20;

/// What the RPCs work on. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Server {
    /// Pods and containers.
    pub sandboxes: Sandboxes,
    /// Images.
    pub images: Images,
    /// Where exec, attach and port-forward sessions are begun.
    pub urls: streaming::Urls,
    /// What `Version` reports; semver.
    pub version: &'static str,
    /// What `RuntimeConfig` reports.
    pub cgroup_driver: CgroupDriver,
}

impl Server {
    /// The runtime service.
    pub fn runtime_service(&self) -> Deadlines<RuntimeServiceServer<Self>> {
        Deadlines(
            RuntimeServiceServer::new(self.clone())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        )
    }

    /// The image service.
    pub fn image_service(&self) -> Deadlines<ImageServiceServer<Self>> {
        Deadlines(
            ImageServiceServer::new(self.clone())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        )
    }

    /// knarr's own service about networks.
    pub fn networks_service(&self) -> NetworksServer<Self> {
        NetworksServer::new(self.clone())
    }

    /// knarr's own service about what does not match.
    pub fn health_service(&self) -> HealthServer<Self> {
        HealthServer::new(self.clone())
    }

    /// knarr's own progress service.
    pub fn progress_service(&self) -> ProgressServer<Self> {
        ProgressServer::new(self.clone())
    }

    /// knarr's own image service.
    pub fn images_service(&self) -> ImagesServer<Self> {
        ImagesServer::new(self.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }
}
