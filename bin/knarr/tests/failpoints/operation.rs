//! What kubelet asks for, what comes before it, and asking again.

use anyhow::{Context, Result, bail, ensure};
use cri_api::v1;
use test_support::cri::Cri;
use test_support::node::Node;
use test_support::pods::{ContainerBuilder, PodBuilder};
use tonic::{Code, Status};

/// One call of kubelet's, or the daemon's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    RunPod,
    Create,
    Start,
    Stop,
    Remove,
    StopPod,
    RemovePod,
    UpdatePod,
    Update,
    Pull,
    RemoveImage,
    Recover,
}

/// The image that is pulled and removed; it has a layer that busybox has not.
const IMAGE: &str = "volumes";

/// Places of plugins that the default network does without: see `chain`.
const CHAINS: [&str; 3] = ["cni.add.shape", "cni.add.filter", "cni.del.filter"];

/// A place that is come by where systemd makes control groups only.
const SCOPE: &str = "pod.run.scope";

/// Whether no operation comes by this place here.
pub(crate) fn is_elsewhere(place: &str) -> bool {
    CHAINS.contains(&place) || (place == SCOPE && !test_support::scratch::systemd_driver())
}

/// What there is before the call.
#[derive(Debug, Clone)]
pub(crate) struct Before {
    pub(crate) pod: PodBuilder,
    pub(crate) container: ContainerBuilder,
    pub(crate) pod_id: String,
    pub(crate) id: String,
    image: String,
}

impl Operation {
    pub(crate) const ALL: [Self; 12] = [
        Self::RunPod,
        Self::Create,
        Self::Start,
        Self::Stop,
        Self::Remove,
        Self::StopPod,
        Self::RemovePod,
        Self::UpdatePod,
        Self::Update,
        Self::Pull,
        Self::RemoveImage,
        Self::Recover,
    ];

    /// The beginnings of its places' names.
    fn places(self) -> &'static [&'static str] {
        match self {
            Self::RunPod => &["pod.run.", "cni.add.", "store."],
            Self::Create => &["container.create."],
            Self::Start => &["container.start."],
            Self::Stop => &["container.stop."],
            Self::Remove => &["container.remove."],
            Self::StopPod => &["pod.stop.", "cni.del."],
            Self::RemovePod => &["pod.remove."],
            Self::UpdatePod => &["pod.update."],
            Self::Update => &["container.update."],
            Self::Pull => &["image.pull."],
            Self::RemoveImage => &["image.remove."],
            Self::Recover => &["recover."],
        }
    }

    pub(crate) fn comes_by(self, place: &str) -> bool {
        let ours = self.places().iter().any(|start| place.starts_with(start));
        ours && !is_elsewhere(place)
    }

    /// Brings about what the call needs.
    pub(crate) async fn prepare(self, node: &Node, name: &str) -> Result<Before> {
        let busybox = node.image("busybox")?;
        let pod = node.pod(name).with(|config| {
            config.port_mappings = vec![v1::PortMapping {
                protocol: v1::Protocol::Tcp.into(),
                container_port: 80,
                host_port: 8080,
                // Of the test network, so that other tests' ports are not in the way.
                host_ip: format!("{}1", node.scratch.subnet_prefix()),
            }];
        });
        let container = pod.container("main", &busybox).sleeper();
        let image = node.image(IMAGE)?;
        let mut before = Before { pod, container, pod_id: String::new(), id: String::new(), image };
        let (has_pod, has_container, runs) = match self {
            Self::RunPod | Self::Pull => (false, false, false),
            Self::RemoveImage => {
                node.cri.pull(&before.image).await.context("pull")?;
                (false, false, false)
            }
            Self::Create | Self::UpdatePod => (true, false, false),
            Self::Start => (true, true, false),
            Self::Stop
            | Self::Remove
            | Self::StopPod
            | Self::RemovePod
            | Self::Update
            | Self::Recover => (true, true, true),
        };
        if has_pod {
            before.pod_id = node.cri.run_pod(&before.pod).await.context("RunPodSandbox")?;
        }
        if has_container {
            let created = node.cri.create(&before.pod_id, &before.pod, &before.container);
            before.id = created.await.context("CreateContainer")?;
        }
        if runs {
            node.cri.start(&before.id).await.context("StartContainer")?;
            node.wait_log(&before.id, "asleep").await?;
        }
        Ok(before)
    }

    /// The call.
    pub(crate) async fn call(self, cri: &Cri, before: &Before) -> Result<(), Status> {
        match self {
            Self::RunPod => cri.run_pod(&before.pod).await.map(drop),
            Self::Create => {
                cri.create(&before.pod_id, &before.pod, &before.container).await.map(drop)
            }
            Self::Start => cri.start(&before.id).await,
            Self::Stop => cri.stop(&before.id, 10).await,
            Self::Remove => cri.remove(&before.id).await,
            Self::StopPod => cri.stop_pod(&before.pod_id).await,
            Self::RemovePod => cri.remove_pod(&before.pod_id).await,
            Self::UpdatePod => update_pod(cri, &before.pod_id).await,
            Self::Update => update(cri, &before.id).await,
            Self::Pull => cri.pull(&before.image).await.map(drop),
            Self::RemoveImage => cri.remove_image(&before.image).await,
            Self::Recover => Ok(()),
        }
    }

    /// What kubelet does when it has had no answer, or a bad one, and what must be so then.
    pub(crate) async fn again(self, node: &Node, before: &Before) -> Result<()> {
        let cri = &node.cri;
        match self {
            Self::RunPod | Self::Create | Self::UpdatePod | Self::Update => {
                self.call(cri, before).await?;
            }
            Self::Start => start_again(node, before).await?,
            Self::Stop => {
                self.call(cri, before).await?;
                let status = cri.container(&before.id).await?;
                ensure!(status.state() == v1::ContainerState::ContainerExited, "{status:?}");
            }
            Self::Remove => {
                self.call(cri, before).await?;
                let gone = cri.container(&before.id).await;
                ensure!(gone.is_err_and(|status| status.code() == Code::NotFound));
            }
            Self::StopPod => {
                self.call(cri, before).await?;
                let status = cri.pod(&before.pod_id).await?;
                ensure!(status.state() == v1::PodSandboxState::SandboxNotready, "{status:?}");
            }
            Self::RemovePod => {
                self.call(cri, before).await?;
                let listed = cri.pods(None).await?;
                ensure!(listed.iter().all(|pod| pod.id != before.pod_id), "{listed:?}");
            }
            Self::Pull => {
                self.call(cri, before).await?;
                use_image(node, before).await?;
                cri.remove_image(&before.image).await?;
            }
            Self::RemoveImage => {
                self.call(cri, before).await?;
                ensure!(cri.image(&before.image).await?.is_none(), "the image is still there");
            }
            Self::Recover => {}
        }
        Ok(())
    }
}

/// A container that cannot be started is replaced by kubelet's next attempt.
async fn start_again(node: &Node, before: &Before) -> Result<()> {
    let status = node.cri.container(&before.id).await?;
    let id = match status.state() {
        v1::ContainerState::ContainerRunning => before.id.clone(),
        v1::ContainerState::ContainerCreated => {
            node.cri.start(&before.id).await.context("start it again")?;
            before.id.clone()
        }
        v1::ContainerState::ContainerExited => {
            ensure!(status.reason == "StartError", "{status:?}");
            let next = before.container.clone().with(|config| {
                if let Some(metadata) = &mut config.metadata {
                    metadata.attempt += 1;
                }
            });
            let id = node.cri.create(&before.pod_id, &before.pod, &next).await?;
            node.cri.start(&id).await.context("start the next attempt")?;
            id
        }
        v1::ContainerState::ContainerUnknown => bail!("{status:?}"),
    };
    ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
    Ok(())
}

/// An image that is there is whole.
async fn use_image(node: &Node, before: &Before) -> Result<()> {
    let pod_id = node.cri.run_pod(&before.pod).await?;
    let container = before.pod.container("whole", &before.image).script("exit 7");
    let id = node.cri.create(&pod_id, &before.pod, &container).await?;
    node.cri.start(&id).await?;
    let status = node.wait_exited(&id).await?;
    ensure!(status.exit_code == 7, "{status:?}");
    node.cri.stop_pod(&pod_id).await?;
    node.cri.remove_pod(&pod_id).await?;
    Ok(())
}

fn limits() -> v1::LinuxContainerResources {
    v1::LinuxContainerResources { cpu_shares: 512, cpu_period: 100_000, ..Default::default() }
}

async fn update_pod(cri: &Cri, pod: &str) -> Result<(), Status> {
    let request = v1::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.to_owned(),
        resources: Some(limits()),
        ..Default::default()
    };
    cri.runtime.clone().update_pod_sandbox_resources(request).await.map(drop)
}

async fn update(cri: &Cri, id: &str) -> Result<(), Status> {
    let request = v1::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(limits()),
        ..Default::default()
    };
    cri.runtime.clone().update_container_resources(request).await.map(drop)
}
