//! The services: each RPC hands over to its file.

use std::pin::Pin;

use cri_api::knarr;
use cri_api::server::image_service_server::ImageService;
use cri_api::server::runtime_service_server::RuntimeService;
use cri_api::server::*;
use futures_util::Stream;
use tonic::{Request, Response, Status};

use crate::status::no_checkpoints;
use crate::{Server, rpc};

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl RuntimeService for Server {
    async fn version(&self, _request: Request<VersionRequest>) -> Answer<VersionResponse> {
        Ok(Response::new(rpc::version::version(self)))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<RunPodSandboxRequest>,
    ) -> Answer<RunPodSandboxResponse> {
        let request = request.into_inner();
        rpc::run_pod_sandbox::run_pod_sandbox(self, request).await.map(Response::new)
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Answer<StopPodSandboxResponse> {
        let request = request.into_inner();
        rpc::stop_pod_sandbox::stop_pod_sandbox(self, &request).await.map(Response::new)
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Answer<RemovePodSandboxResponse> {
        let request = request.into_inner();
        rpc::remove_pod_sandbox::remove_pod_sandbox(self, &request).await.map(Response::new)
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Answer<PodSandboxStatusResponse> {
        let request = request.into_inner();
        rpc::pod_sandbox_status::pod_sandbox_status(self, &request).await.map(Response::new)
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Answer<ListPodSandboxResponse> {
        let request = request.into_inner();
        rpc::list_pod_sandbox::list_pod_sandbox(self, request).map(Response::new)
    }

    type StreamPodSandboxesStream = Streamed<StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let request = request.into_inner();
        rpc::list_pod_sandbox::stream_pod_sandboxes(self, request).map(Response::new)
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Answer<CreateContainerResponse> {
        let request = request.into_inner();
        rpc::create_container::create_container(self, request).await.map(Response::new)
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Answer<StartContainerResponse> {
        let request = request.into_inner();
        rpc::start_container::start_container(self, &request).await.map(Response::new)
    }

    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> Answer<StopContainerResponse> {
        let request = request.into_inner();
        rpc::stop_container::stop_container(self, &request).await.map(Response::new)
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Answer<RemoveContainerResponse> {
        let request = request.into_inner();
        rpc::remove_container::remove_container(self, &request).await.map(Response::new)
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Answer<ListContainersResponse> {
        let request = request.into_inner();
        rpc::list_containers::list_containers(self, request).map(Response::new)
    }

    type StreamContainersStream = Streamed<StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        let request = request.into_inner();
        rpc::list_containers::stream_containers(self, request).map(Response::new)
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Answer<ContainerStatusResponse> {
        let request = request.into_inner();
        rpc::container_status::container_status(self, &request).await.map(Response::new)
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        rpc::update_container_resources::update_container_resources(self, request)
            .await
            .map(Response::new)
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        let request = request.into_inner();
        rpc::reopen_container_log::reopen_container_log(self, &request).await.map(Response::new)
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let request = request.into_inner();
        rpc::exec_sync::exec_sync(self, request).await.map(Response::new)
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        let request = request.into_inner();
        rpc::exec::exec(self, request).map(Response::new)
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        let request = request.into_inner();
        rpc::attach::attach(self, &request).map(Response::new)
    }

    async fn port_forward(
        &self,
        request: Request<PortForwardRequest>,
    ) -> Answer<PortForwardResponse> {
        let request = request.into_inner();
        rpc::port_forward::port_forward(self, &request).map(Response::new)
    }

    async fn container_stats(
        &self,
        request: Request<ContainerStatsRequest>,
    ) -> Answer<ContainerStatsResponse> {
        let request = request.into_inner();
        rpc::container_stats::container_stats(self, &request).await.map(Response::new)
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        let request = request.into_inner();
        rpc::list_container_stats::list_container_stats(self, request).await.map(Response::new)
    }

    type StreamContainerStatsStream = Streamed<StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        let request = request.into_inner();
        rpc::list_container_stats::stream_container_stats(self, request).map(Response::new)
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<PodSandboxStatsRequest>,
    ) -> Answer<PodSandboxStatsResponse> {
        let request = request.into_inner();
        rpc::pod_sandbox_stats::pod_sandbox_stats(self, &request).await.map(Response::new)
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        let request = request.into_inner();
        rpc::list_pod_sandbox_stats::list_pod_sandbox_stats(self, request).await.map(Response::new)
    }

    type StreamPodSandboxStatsStream = Streamed<StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let request = request.into_inner();
        rpc::list_pod_sandbox_stats::stream_pod_sandbox_stats(self, request).map(Response::new)
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        let request = request.into_inner();
        rpc::update_runtime_config::update_runtime_config(self, request).await.map(Response::new)
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        let request = request.into_inner();
        Ok(Response::new(rpc::status::status(self, &request).await))
    }

    async fn checkpoint_container(
        &self,
        _request: Request<CheckpointContainerRequest>,
    ) -> Answer<CheckpointContainerResponse> {
        Err(no_checkpoints("CheckpointContainer"))
    }

    async fn checkpoint_pod(
        &self,
        _request: Request<CheckpointPodRequest>,
    ) -> Answer<CheckpointPodResponse> {
        Err(no_checkpoints("CheckpointPod"))
    }

    async fn restore_pod(
        &self,
        _request: Request<RestorePodRequest>,
    ) -> Answer<RestorePodResponse> {
        Err(no_checkpoints("RestorePod"))
    }

    type GetContainerEventsStream = Streamed<ContainerEventResponse>;

    async fn get_container_events(
        &self,
        _request: Request<GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        Ok(Response::new(rpc::get_container_events::get_container_events(self)))
    }

    async fn list_metric_descriptors(
        &self,
        _request: Request<ListMetricDescriptorsRequest>,
    ) -> Answer<ListMetricDescriptorsResponse> {
        Ok(Response::new(rpc::list_metric_descriptors::list_metric_descriptors()))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _request: Request<ListPodSandboxMetricsRequest>,
    ) -> Answer<ListPodSandboxMetricsResponse> {
        Ok(Response::new(rpc::list_pod_sandbox_metrics::list_pod_sandbox_metrics(self).await))
    }

    type StreamPodSandboxMetricsStream = Streamed<StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _request: Request<StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        Ok(Response::new(rpc::list_pod_sandbox_metrics::stream_pod_sandbox_metrics(self)))
    }

    async fn runtime_config(
        &self,
        _request: Request<RuntimeConfigRequest>,
    ) -> Answer<RuntimeConfigResponse> {
        Ok(Response::new(rpc::runtime_config::runtime_config(self)))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Answer<UpdatePodSandboxResourcesResponse> {
        let request = request.into_inner();
        rpc::update_pod_sandbox_resources::update_pod_sandbox_resources(self, request)
            .await
            .map(Response::new)
    }
}

#[tonic::async_trait]
impl ImageService for Server {
    async fn list_images(&self, request: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        let request = request.into_inner();
        rpc::list_images::list_images(self, request).map(Response::new)
    }

    type StreamImagesStream = Streamed<StreamImagesResponse>;

    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> Answer<Self::StreamImagesStream> {
        let request = request.into_inner();
        rpc::list_images::stream_images(self, request).map(Response::new)
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Answer<ImageStatusResponse> {
        let request = request.into_inner();
        rpc::image_status::image_status(self, request).await.map(Response::new)
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        let request = request.into_inner();
        rpc::pull_image::pull_image(self, request).await.map(Response::new)
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Answer<RemoveImageResponse> {
        let request = request.into_inner();
        rpc::remove_image::remove_image(self, request).await.map(Response::new)
    }

    async fn image_fs_info(
        &self,
        _request: Request<ImageFsInfoRequest>,
    ) -> Answer<ImageFsInfoResponse> {
        Ok(Response::new(rpc::image_fs_info::image_fs_info(self).await))
    }
}

#[tonic::async_trait]
impl knarr::progress_server::Progress for Server {
    type WatchPullStream = Streamed<knarr::PullProgress>;

    async fn watch_pull(
        &self,
        request: Request<knarr::WatchPullRequest>,
    ) -> Answer<Self::WatchPullStream> {
        rpc::watch_pull::watch_pull(self, &request.into_inner()).map(Response::new)
    }
}

#[tonic::async_trait]
impl knarr::networks_server::Networks for Server {
    async fn list_holdings(
        &self,
        _request: Request<knarr::ListHoldingsRequest>,
    ) -> Answer<knarr::ListHoldingsResponse> {
        rpc::list_holdings::list_holdings(self).await.map(Response::new)
    }

    async fn inspect_attachments(
        &self,
        request: Request<knarr::InspectAttachmentsRequest>,
    ) -> Answer<knarr::InspectAttachmentsResponse> {
        let request = request.into_inner();
        rpc::inspect_attachments::inspect_attachments(self, request).await.map(Response::new)
    }

    async fn collect_networks(
        &self,
        _request: Request<knarr::CollectNetworksRequest>,
    ) -> Answer<knarr::CollectNetworksResponse> {
        rpc::collect_networks::collect_networks(self).await.map(Response::new)
    }
}

#[tonic::async_trait]
impl knarr::health_server::Health for Server {
    async fn examine(
        &self,
        request: Request<knarr::ExamineRequest>,
    ) -> Answer<knarr::ExamineResponse> {
        Ok(Response::new(rpc::examine::examine(self, request.into_inner().fix).await))
    }
}

#[tonic::async_trait]
impl knarr::images_server::Images for Server {
    type VerifyImagesStream = Streamed<knarr::LayerVerdict>;
    type SaveImagesStream = Streamed<knarr::ArchiveChunk>;

    async fn pull_image_for(
        &self,
        request: Request<knarr::PullImageForRequest>,
    ) -> Answer<knarr::PullImageForResponse> {
        let request = request.into_inner();
        rpc::pull_image_for::pull_image_for(self, request).await.map(Response::new)
    }

    async fn inspect_image(
        &self,
        request: Request<knarr::InspectImageRequest>,
    ) -> Answer<knarr::InspectImageResponse> {
        let request = request.into_inner();
        rpc::inspect_image::inspect_image(self, request).await.map(Response::new)
    }

    async fn tag_image(
        &self,
        request: Request<knarr::TagImageRequest>,
    ) -> Answer<knarr::TagImageResponse> {
        let request = request.into_inner();
        rpc::tag_image::tag_image(self, request).await.map(Response::new)
    }

    async fn verify_images(
        &self,
        request: Request<knarr::VerifyImagesRequest>,
    ) -> Answer<Self::VerifyImagesStream> {
        rpc::verify_images::verify_images(self, request.into_inner()).map(Response::new)
    }

    async fn load_images(
        &self,
        request: Request<knarr::LoadImagesRequest>,
    ) -> Answer<knarr::LoadImagesResponse> {
        let request = request.into_inner();
        rpc::load_images::load_images(self, request).await.map(Response::new)
    }

    async fn save_images(
        &self,
        request: Request<knarr::SaveImagesRequest>,
    ) -> Answer<Self::SaveImagesStream> {
        rpc::save_images::save_images(self, request.into_inner()).map(Response::new)
    }

    async fn disk_usage(
        &self,
        _request: Request<knarr::DiskUsageRequest>,
    ) -> Answer<knarr::DiskUsageResponse> {
        Ok(Response::new(rpc::disk_usage::disk_usage(self).await))
    }
}
