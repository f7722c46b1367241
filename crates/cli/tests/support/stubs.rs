//! The fake runtime's two services.

use std::sync::{Arc, Mutex, MutexGuard};

use cri_api::server::{
    self as v1,
    image_service_server::{ImageService, ImageServiceServer},
    runtime_service_server::{RuntimeService, RuntimeServiceServer},
};
use prost::Message;
use tokio::sync::oneshot;
use tokio_stream::{Empty, wrappers::UnixListenerStream};
use tonic::{Request, Response, Status};

use super::World;

type Answer<T> = Result<Response<T>, Status>;

struct Fake(Arc<Mutex<World>>);

pub(super) async fn serve(
    world: Arc<Mutex<World>>,
    listener: UnixListenerStream,
    stopped: oneshot::Receiver<()>,
) {
    tonic::transport::Server::builder()
        .add_service(RuntimeServiceServer::new(Fake(Arc::clone(&world))))
        .add_service(ImageServiceServer::new(Fake(world)))
        .serve_with_incoming_shutdown(listener, async {
            stopped.await.unwrap_or_default();
        })
        .await
        .unwrap();
}

impl Fake {
    fn world(&self, asked: Option<String>) -> MutexGuard<'_, World> {
        let mut world = self.0.lock().unwrap();
        world.asked.extend(asked);
        world
    }
}

fn ok<T>(message: T) -> Answer<T> {
    Ok(Response::new(message))
}

fn unknown<T>(id: &str) -> Answer<T> {
    Err(Status::not_found(format!("rpc error: code = NotFound desc = {id} is not known")))
}

async fn make_pod(
    world: Arc<Mutex<World>>,
    config: v1::PodSandboxConfig,
) -> Answer<v1::RunPodSandboxResponse> {
    let metadata = config.metadata.unwrap();
    let gate = {
        let mut world = world.lock().unwrap();
        world.asked.push(format!("run {}", metadata.name));
        Arc::clone(&world.gate)
    };
    if metadata.name == "slow" {
        gate.begun.notify_one();
        gate.open.notified().await;
    }
    if metadata.name == "refused" {
        return Err(Status::unknown("no network today"));
    }
    let mut world = world.lock().unwrap();
    let id = world.next_id("aaa");
    world.log_dir = config.log_directory.into();
    let created_at = i64::try_from(world.asked.len()).unwrap();
    world.pods.push(v1::PodSandbox {
        id: id.clone(),
        metadata: Some(metadata),
        created_at,
        labels: config.labels,
        annotations: config.annotations,
        ..Default::default()
    });
    ok(v1::RunPodSandboxResponse { pod_sandbox_id: id })
}

/// What a container does is its command: `exit N`, or run on.
fn exit_code(config: &v1::ContainerConfig) -> Option<i32> {
    match config.command.as_slice() {
        [word, code] if word == "exit" => code.parse().ok(),
        _ => None,
    }
}

macro_rules! runtime_service {
    ({ $($done:tt)* } unary { $($name:ident($request:ident) -> $answer:ident;)* }
     streams { $($stream:ident: $call:ident($of:ident) -> $item:ident;)* }) => {
        #[tonic::async_trait]
        impl RuntimeService for Fake {
            $($done)*
            $(async fn $name(&self, _: Request<v1::$request>) -> Answer<v1::$answer> {
                Err(Status::unimplemented(""))
            })*
            $(type $stream = Empty<Result<v1::$item, Status>>;
            async fn $call(&self, _: Request<v1::$of>) -> Answer<Self::$stream> {
                Err(Status::unimplemented(""))
            })*
        }
    };
}

runtime_service! {
    {
        async fn version(&self, _: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
            ok(v1::VersionResponse {
                version: "0.1.0".into(),
                runtime_name: "fake".into(),
                runtime_version: "9.8.7".into(),
                runtime_api_version: "v1".into(),
            })
        }

        async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
            let condition = v1::RuntimeCondition {
                r#type: "RuntimeReady".into(),
                status: true,
                ..Default::default()
            };
            let status = Some(v1::RuntimeStatus { conditions: vec![condition] });
            let config = ("config".to_owned(), "{\"stateDir\":\"/x\"}".to_owned());
            let info = request.into_inner().verbose.then_some(config).into_iter().collect();
            ok(v1::StatusResponse { status, info, ..Default::default() })
        }

        async fn run_pod_sandbox(
            &self,
            request: Request<v1::RunPodSandboxRequest>,
        ) -> Answer<v1::RunPodSandboxResponse> {
            let config = request.into_inner().config.unwrap();
            // As with knarr's daemon, it goes on when the caller goes away.
            tokio::spawn(make_pod(Arc::clone(&self.0), config)).await.unwrap()
        }

        async fn stop_pod_sandbox(
            &self,
            request: Request<v1::StopPodSandboxRequest>,
        ) -> Answer<v1::StopPodSandboxResponse> {
            let id = request.into_inner().pod_sandbox_id;
            let mut world = self.world(Some("stop pod".into()));
            for pod in world.pods.iter_mut().filter(|pod| pod.id == id) {
                pod.set_state(v1::PodSandboxState::SandboxNotready);
            }
            ok(v1::StopPodSandboxResponse {})
        }

        async fn remove_pod_sandbox(
            &self,
            request: Request<v1::RemovePodSandboxRequest>,
        ) -> Answer<v1::RemovePodSandboxResponse> {
            let id = request.into_inner().pod_sandbox_id;
            self.world(Some("remove pod".into())).pods.retain(|pod| pod.id != id);
            ok(v1::RemovePodSandboxResponse {})
        }

        async fn pod_sandbox_status(
            &self,
            request: Request<v1::PodSandboxStatusRequest>,
        ) -> Answer<v1::PodSandboxStatusResponse> {
            let id = request.into_inner().pod_sandbox_id;
            let world = self.world(None);
            let Some(pod) = world.pods.iter().find(|pod| pod.id == id) else { return unknown(&id) };
            let network = v1::PodSandboxNetworkStatus { ip: "10.88.0.7".into(), ..Default::default() };
            let status = v1::PodSandboxStatus {
                id,
                metadata: pod.metadata.clone(),
                network: Some(network),
                ..Default::default()
            };
            ok(v1::PodSandboxStatusResponse { status: Some(status), ..Default::default() })
        }

        async fn list_pod_sandbox(
            &self,
            request: Request<v1::ListPodSandboxRequest>,
        ) -> Answer<v1::ListPodSandboxResponse> {
            let state = request.into_inner().filter.and_then(|filter| filter.state);
            let mut items = self.world(None).pods.clone();
            items.retain(|pod| state.is_none_or(|state| pod.state == state.state));
            let items = items.iter().map(|item| item.encode_to_vec().into()).collect();
            ok(v1::ListPodSandboxResponse { items })
        }

        async fn create_container(
            &self,
            request: Request<v1::CreateContainerRequest>,
        ) -> Answer<v1::CreateContainerResponse> {
            let request = request.into_inner();
            let config = request.config.unwrap();
            let name = config.metadata.clone().unwrap().name;
            let mut world = self.world(Some(format!("create {name}")));
            let id = world.next_id("ccc");
            let log_path = world.log_dir.join(&config.log_path);
            std::fs::create_dir_all(log_path.parent().unwrap()).unwrap();
            let time = "2026-01-02T03:04:05.6Z";
            let log = format!(
                "{time} stdout F hello from {name}\n{time} stderr F to stderr\n\
                 {time} stdout P half \n{time} stdout F line\n"
            );
            std::fs::write(&log_path, log).unwrap();
            let created_at = i64::try_from(world.asked.len()).unwrap();
            world.owners.push(request.pod_sandbox_id);
            world.containers.push(v1::ContainerStatus {
                id: id.clone(),
                metadata: config.metadata.clone(),
                created_at,
                image: config.image.clone(),
                log_path: log_path.display().to_string(),
                annotations: config.annotations.clone(),
                exit_code: exit_code(&config).unwrap_or(-1),
                ..Default::default()
            });
            ok(v1::CreateContainerResponse { container_id: id })
        }

        async fn start_container(
            &self,
            request: Request<v1::StartContainerRequest>,
        ) -> Answer<v1::StartContainerResponse> {
            let id = request.into_inner().container_id;
            let mut world = self.world(None);
            let status = world.containers.iter_mut().find(|status| status.id == id).unwrap();
            status.set_state(match status.exit_code {
                -1 => v1::ContainerState::ContainerRunning,
                _ => v1::ContainerState::ContainerExited,
            });
            let name = status.metadata.clone().unwrap().name;
            world.asked.push(format!("start {name}"));
            ok(v1::StartContainerResponse {})
        }

        async fn stop_container(
            &self,
            request: Request<v1::StopContainerRequest>,
        ) -> Answer<v1::StopContainerResponse> {
            let request = request.into_inner();
            let mut world = self.world(Some(format!("stop container {}", request.timeout)));
            for status in world.containers.iter_mut().filter(|it| it.id == request.container_id) {
                status.set_state(v1::ContainerState::ContainerExited);
            }
            ok(v1::StopContainerResponse {})
        }

        async fn remove_container(
            &self,
            request: Request<v1::RemoveContainerRequest>,
        ) -> Answer<v1::RemoveContainerResponse> {
            let id = request.into_inner().container_id;
            let mut world = self.world(Some("remove container".into()));
            if let Some(index) = world.containers.iter().position(|status| status.id == id) {
                world.containers.remove(index);
                world.owners.remove(index);
            }
            ok(v1::RemoveContainerResponse {})
        }

        async fn list_containers(
            &self,
            request: Request<v1::ListContainersRequest>,
        ) -> Answer<v1::ListContainersResponse> {
            let filter = request.into_inner().filter.unwrap_or_default();
            let world = self.world(None);
            let containers = world
                .containers
                .iter()
                .zip(&world.owners)
                .filter(|(status, _)| filter.state.is_none_or(|it| it.state == status.state))
                .filter(|(_, pod)| {
                    filter.pod_sandbox_id.is_empty() || filter.pod_sandbox_id == **pod
                })
                .map(|(status, pod)| v1::Container {
                    id: status.id.clone(),
                    pod_sandbox_id: pod.clone(),
                    metadata: status.metadata.clone(),
                    image: status.image.clone(),
                    state: status.state,
                    created_at: status.created_at,
                    annotations: status.annotations.clone(),
                    ..Default::default()
                })
                .map(|item| item.encode_to_vec().into())
                .collect();
            ok(v1::ListContainersResponse { containers })
        }

        async fn container_status(
            &self,
            request: Request<v1::ContainerStatusRequest>,
        ) -> Answer<v1::ContainerStatusResponse> {
            let request = request.into_inner();
            let world = self.world(None);
            let status = world.containers.iter().find(|it| it.id == request.container_id);
            let Some(status) = status else { return unknown(&request.container_id) };
            let info = ("info".to_owned(), "{\"pid\":7}".to_owned());
            let info = request.verbose.then_some(info).into_iter().collect();
            ok(v1::ContainerStatusResponse { status: Some(status.clone()), info })
        }

        async fn exec_sync(
            &self,
            request: Request<v1::ExecSyncRequest>,
        ) -> Answer<v1::ExecSyncResponse> {
            let cmd = request.into_inner().cmd;
            if cmd == ["hang"] {
                std::future::pending::<()>().await;
            }
            ok(v1::ExecSyncResponse {
                stdout: cmd.join(" ").into_bytes(),
                stderr: b"complaint".to_vec(),
                exit_code: 42,
            })
        }

        async fn list_container_stats(
            &self,
            _: Request<v1::ListContainerStatsRequest>,
        ) -> Answer<v1::ListContainerStatsResponse> {
            let world = self.world(None);
            let number = |value| Some(v1::UInt64Value { value });
            let stats = |status: &v1::ContainerStatus| v1::ContainerStats {
                attributes: Some(v1::ContainerAttributes {
                    id: status.id.clone(),
                    metadata: status.metadata.clone(),
                    ..Default::default()
                }),
                cpu: Some(v1::CpuUsage {
                    timestamp: 1,
                    usage_nano_cores: number(250_000_000),
                    ..Default::default()
                }),
                memory: Some(v1::MemoryUsage {
                    working_set_bytes: number(3 << 20),
                    ..Default::default()
                }),
                ..Default::default()
            };
            let stats = world.containers.iter().map(stats).collect();
            ok(v1::ListContainerStatsResponse { stats })
        }
    }
    unary {
        update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
        reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
        exec(ExecRequest) -> ExecResponse;
        attach(AttachRequest) -> AttachResponse;
        port_forward(PortForwardRequest) -> PortForwardResponse;
        container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
        pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
        list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
        update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
        checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse;
        checkpoint_pod(CheckpointPodRequest) -> CheckpointPodResponse;
        restore_pod(RestorePodRequest) -> RestorePodResponse;
        list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
        list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
        runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
        update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse;
    }
    streams {
        StreamPodSandboxesStream: stream_pod_sandboxes(StreamPodSandboxesRequest) -> StreamPodSandboxesResponse;
        StreamContainersStream: stream_containers(StreamContainersRequest) -> StreamContainersResponse;
        StreamContainerStatsStream: stream_container_stats(StreamContainerStatsRequest) -> StreamContainerStatsResponse;
        StreamPodSandboxStatsStream: stream_pod_sandbox_stats(StreamPodSandboxStatsRequest) -> StreamPodSandboxStatsResponse;
        StreamPodSandboxMetricsStream: stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest) -> StreamPodSandboxMetricsResponse;
        GetContainerEventsStream: get_container_events(GetEventsRequest) -> ContainerEventResponse;
    }
}

#[tonic::async_trait]
impl ImageService for Fake {
    async fn list_images(
        &self,
        _: Request<v1::ListImagesRequest>,
    ) -> Answer<v1::ListImagesResponse> {
        ok(v1::ListImagesResponse { images: self.world(None).images.clone() })
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Answer<v1::ImageStatusResponse> {
        let name = request.into_inner().image.unwrap().image;
        let world = self.world(None);
        let image = world.images.iter().find(|it| it.id == name || it.repo_tags.contains(&name));
        ok(v1::ImageStatusResponse { image: image.cloned(), ..Default::default() })
    }

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Answer<v1::PullImageResponse> {
        let request = request.into_inner();
        let name = request.image.unwrap().image;
        let user = request.auth.map(|auth| auth.username).unwrap_or_default();
        let mut world = self.world(Some(format!("pull {name} {user}").trim_end().to_owned()));
        if name.contains("missing") {
            let said = "failed to pull: rpc error: code = NotFound desc = no such image";
            return Err(Status::not_found(said));
        }
        let image_ref = format!("sha256:{:064}", name.len());
        world.images.retain(|image| image.id != image_ref);
        world.images.push(v1::Image {
            id: image_ref.clone(),
            repo_tags: vec![name],
            uid: Some(v1::Int64Value { value: 0 }),
            ..Default::default()
        });
        ok(v1::PullImageResponse { image_ref })
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Answer<v1::RemoveImageResponse> {
        let name = request.into_inner().image.unwrap().image;
        let mut world = self.world(Some(format!("remove image {name}")));
        world.images.retain(|image| !image.repo_tags.contains(&name));
        ok(v1::RemoveImageResponse {})
    }

    async fn image_fs_info(
        &self,
        _: Request<v1::ImageFsInfoRequest>,
    ) -> Answer<v1::ImageFsInfoResponse> {
        Err(Status::unimplemented(""))
    }

    type StreamImagesStream = Empty<Result<v1::StreamImagesResponse, Status>>;

    async fn stream_images(
        &self,
        _: Request<v1::StreamImagesRequest>,
    ) -> Answer<Self::StreamImagesStream> {
        Err(Status::unimplemented(""))
    }
}
