//! The CRI as a client sees it: thin wrappers that keep the gRPC status.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use cri_api::v1;
use cri_api::v1::image_service_client::ImageServiceClient;
use cri_api::v1::runtime_service_client::RuntimeServiceClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use crate::pods::{ContainerBuilder, PodBuilder};

/// What kubelet accepts at most.
const MAX_MESSAGE: usize = 16 << 20;

/// A client of both services. Cloning shares the connection.
#[derive(Debug, Clone)]
pub struct Cri {
    /// The raw runtime client, for what has no wrapper.
    pub runtime: RuntimeServiceClient<Channel>,
    /// The raw image client.
    pub images: ImageServiceClient<Channel>,
    /// The connection of both, for messages that are not the generated ones.
    pub channel: Channel,
}

/// What an exec of a command brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit code.
    pub code: i32,
    /// Standard output, lossily as text.
    pub stdout: String,
    /// Standard error, lossily as text.
    pub stderr: String,
}

impl Cri {
    /// Connects to the socket on first use, and again whenever the daemon came back.
    ///
    /// # Errors
    /// The endpoint is malformed, which no path makes it.
    pub fn connect(socket: &Path) -> Result<Self> {
        Self::connect_with(socket, None)
    }

    /// As [`Self::connect`]; a call that is not answered within `limit` fails.
    ///
    /// # Errors
    /// As there.
    pub fn connect_within(socket: &Path, limit: Duration) -> Result<Self> {
        Self::connect_with(socket, Some(limit))
    }

    fn connect_with(socket: &Path, limit: Option<Duration>) -> Result<Self> {
        let socket: PathBuf = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::try_from("http://localhost").context("endpoint")?;
        let endpoint = match limit {
            Some(limit) => endpoint.timeout(limit),
            None => endpoint,
        };
        let channel = endpoint.connect_with_connector_lazy(connector);
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
            channel,
        })
    }

    /// RunPodSandbox; the id.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn run_pod(&self, pod: &PodBuilder) -> Result<String, Status> {
        let request = v1::RunPodSandboxRequest {
            config: Some(pod.config.clone()),
            runtime_handler: pod.handler.clone(),
        };
        let answer = self.runtime.clone().run_pod_sandbox(request).await?;
        Ok(answer.into_inner().pod_sandbox_id)
    }

    /// StopPodSandbox.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn stop_pod(&self, id: &str) -> Result<(), Status> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.runtime.clone().stop_pod_sandbox(request).await.map(drop)
    }

    /// RemovePodSandbox.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn remove_pod(&self, id: &str) -> Result<(), Status> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.runtime.clone().remove_pod_sandbox(request).await.map(drop)
    }

    /// PodSandboxStatus, not verbose.
    ///
    /// # Errors
    /// The daemon's, or an answer without a status.
    pub async fn pod(&self, id: &str) -> Result<v1::PodSandboxStatus, Status> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = self.runtime.clone().pod_sandbox_status(request).await?;
        answer.into_inner().status.ok_or_else(|| Status::internal("an answer without a status"))
    }

    /// The pod's primary address.
    ///
    /// # Errors
    /// The daemon's, or a pod without a network.
    pub async fn pod_ip(&self, id: &str) -> Result<String, Status> {
        let network = self.pod(id).await?.network;
        network
            .map(|network| network.ip)
            .filter(|ip| !ip.is_empty())
            .ok_or_else(|| Status::internal(format!("pod {id} has no address")))
    }

    /// ListPodSandbox.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn pods(
        &self,
        filter: Option<v1::PodSandboxFilter>,
    ) -> Result<Vec<v1::PodSandbox>, Status> {
        let request = v1::ListPodSandboxRequest { filter };
        Ok(self.runtime.clone().list_pod_sandbox(request).await?.into_inner().items)
    }

    /// CreateContainer; the id.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn create(
        &self,
        pod_id: &str,
        pod: &PodBuilder,
        container: &ContainerBuilder,
    ) -> Result<String, Status> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod_id.to_owned(),
            config: Some(container.config.clone()),
            sandbox_config: Some(pod.config.clone()),
        };
        let answer = self.runtime.clone().create_container(request).await?;
        Ok(answer.into_inner().container_id)
    }

    /// StartContainer.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn start(&self, id: &str) -> Result<(), Status> {
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        self.runtime.clone().start_container(request).await.map(drop)
    }

    /// StopContainer with a grace period in seconds.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn stop(&self, id: &str, grace: i64) -> Result<(), Status> {
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout: grace };
        self.runtime.clone().stop_container(request).await.map(drop)
    }

    /// UpdateContainerResources.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn update(
        &self,
        id: &str,
        limits: v1::LinuxContainerResources,
    ) -> Result<(), Status> {
        let request = v1::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(limits),
            ..v1::UpdateContainerResourcesRequest::default()
        };
        self.runtime.clone().update_container_resources(request).await.map(drop)
    }

    /// RemoveContainer.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn remove(&self, id: &str) -> Result<(), Status> {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        self.runtime.clone().remove_container(request).await.map(drop)
    }

    /// ContainerStatus, not verbose.
    ///
    /// # Errors
    /// The daemon's, or an answer without a status.
    pub async fn container(&self, id: &str) -> Result<v1::ContainerStatus, Status> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.runtime.clone().container_status(request).await?;
        answer.into_inner().status.ok_or_else(|| Status::internal("an answer without a status"))
    }

    /// ListContainers.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn containers(
        &self,
        filter: Option<v1::ContainerFilter>,
    ) -> Result<Vec<v1::Container>, Status> {
        let request = v1::ListContainersRequest { filter };
        Ok(self.runtime.clone().list_containers(request).await?.into_inner().containers)
    }

    /// ExecSync with a limit in seconds, 0 for none.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn exec(&self, id: &str, cmd: &[&str], timeout: i64) -> Result<Output, Status> {
        let request = v1::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: cmd.iter().map(|&word| word.to_owned()).collect(),
            timeout,
        };
        let answer = self.runtime.clone().exec_sync(request).await?.into_inner();
        Ok(Output {
            code: answer.exit_code,
            stdout: String::from_utf8_lossy(&answer.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&answer.stderr).into_owned(),
        })
    }

    /// ExecSync of a shell command that must succeed; its trimmed standard output.
    ///
    /// # Errors
    /// The daemon's, or a non-zero exit code.
    pub async fn shell(&self, id: &str, script: &str) -> Result<String> {
        let output = self.exec(id, &["/bin/sh", "-c", script], 30).await?;
        anyhow::ensure!(output.code == 0, "`{script}`: {output:?}");
        Ok(output.stdout.trim_end().to_owned())
    }

    /// PullImage without credentials; the image id.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn pull(&self, image: &str) -> Result<String, Status> {
        let request = v1::PullImageRequest { image: Some(spec(image)), ..Default::default() };
        Ok(self.images.clone().pull_image(request).await?.into_inner().image_ref)
    }

    /// ImageStatus: the image if it is there.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn image(&self, image: &str) -> Result<Option<v1::Image>, Status> {
        let request = v1::ImageStatusRequest { image: Some(spec(image)), verbose: false };
        Ok(self.images.clone().image_status(request).await?.into_inner().image)
    }

    /// ListImages.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn image_list(&self) -> Result<Vec<v1::Image>, Status> {
        let request = v1::ListImagesRequest { filter: None };
        Ok(self.images.clone().list_images(request).await?.into_inner().images)
    }

    /// RemoveImage.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn remove_image(&self, image: &str) -> Result<(), Status> {
        let request = v1::RemoveImageRequest { image: Some(spec(image)) };
        self.images.clone().remove_image(request).await.map(drop)
    }

    /// Removes every pod with everything in it, collecting the errors.
    ///
    /// # Errors
    /// All that happened on the way.
    pub async fn remove_everything(&self) -> Result<()> {
        let mut errors = Vec::new();
        for pod in self.pods(None).await? {
            if let Err(e) = self.stop_pod(&pod.id).await {
                errors.push(format!("stop pod {}: {e}", pod.id));
            }
            if let Err(e) = self.remove_pod(&pod.id).await {
                errors.push(format!("remove pod {}: {e}", pod.id));
            }
        }
        anyhow::ensure!(errors.is_empty(), "{}", errors.join("\n"));
        Ok(())
    }
}

/// An image by its name or id.
pub fn spec(image: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: image.to_owned(), ..Default::default() }
}

/// Checks that `result` failed with `code` and that the message holds every one of `words`.
///
/// # Errors
/// It did not.
pub fn refused<T: std::fmt::Debug>(
    result: Result<T, Status>,
    code: Code,
    words: &[&str],
) -> Result<()> {
    match result {
        Ok(value) => anyhow::bail!("want {code:?}, got {value:?}"),
        Err(status) => {
            let (got, text) = (status.code(), status.message());
            anyhow::ensure!(got == code, "want {code:?}, got {got:?}: {text}");
            for word in words {
                let found = text.to_lowercase().contains(&word.to_lowercase());
                anyhow::ensure!(found, "the message lacks `{word}`: {text}");
            }
            Ok(())
        }
    }
}
