//! What makes a shim come by its places, and what kubelet does next.

use anyhow::{Context, Result, bail, ensure};
use cri_api::v1;
use rustix::process::Signal;
use test_support::node::Node;
use test_support::pods::{ContainerBuilder, PodBuilder};
use test_support::proc;
use tonic::Status;

/// What a shim is asked, or what happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    RunPod,
    Start,
    Exec,
    /// A container ends by itself.
    End,
    Stop,
    Remove,
    StopPod,
    /// The shim gets SIGTERM.
    Leave,
}

/// Ends by itself.
const UNTIL_TOLD: &str = "echo asleep; while [ ! -e /end ]; do sleep 0.01; done";

/// A pod, and what of it there is before the call.
#[derive(Debug, Clone)]
pub(crate) struct Before {
    pod: PodBuilder,
    container: ContainerBuilder,
    pub(crate) pod_id: String,
    id: String,
}

impl Operation {
    pub(crate) const ALL: [Self; 8] = [
        Self::RunPod,
        Self::Start,
        Self::Exec,
        Self::End,
        Self::Stop,
        Self::Remove,
        Self::StopPod,
        Self::Leave,
    ];

    pub(crate) fn comes_by(self, place: &str) -> bool {
        let starts: &[&str] = match self {
            Self::RunPod => &["shim.begin.", "shim.setup."],
            Self::Start => &["shim.start."],
            Self::Exec => &["shim.exec."],
            Self::End => &["shim.exit."],
            Self::Stop => &["shim.kill."],
            Self::Remove => &["shim.forget."],
            Self::StopPod => &["shim.shutdown."],
            Self::Leave => &["shim.leave."],
        };
        starts.iter().any(|start| place.starts_with(start))
    }

    /// Brings about what the call needs. The pod's processes share a PID namespace.
    pub(crate) async fn prepare(self, node: &Node, name: &str) -> Result<Before> {
        let image = node.image("busybox")?;
        let shared = v1::NamespaceMode::Pod;
        let pod = node.pod(name).namespaces(|namespaces| namespaces.set_pid(shared));
        let container = pod.container("main", &image);
        let container =
            if self == Self::End { container.script(UNTIL_TOLD) } else { container.sleeper() };
        let container = container.security(|security| {
            security.namespace_options.get_or_insert_default().set_pid(shared);
        });
        let mut before = Before { pod, container, pod_id: String::new(), id: String::new() };
        if self == Self::RunPod {
            return Ok(before);
        }
        before.pod_id = node.cri.run_pod(&before.pod).await.context("RunPodSandbox")?;
        let created = node.cri.create(&before.pod_id, &before.pod, &before.container);
        before.id = created.await.context("CreateContainer")?;
        if self == Self::Start {
            return Ok(before);
        }
        node.cri.start(&before.id).await.context("StartContainer")?;
        node.wait_log(&before.id, "asleep").await?;
        if self == Self::Remove {
            node.cri.stop(&before.id, 10).await.context("StopContainer")?;
        }
        Ok(before)
    }

    pub(crate) async fn call(self, node: &Node, before: &Before) -> Result<(), Status> {
        let cri = &node.cri;
        match self {
            Self::RunPod => cri.run_pod(&before.pod).await.map(drop),
            Self::Start => cri.start(&before.id).await,
            Self::Exec => cri.exec(&before.id, &["true"], 30).await.map(drop),
            Self::End => {
                let touched = cri.exec(&before.id, &["touch", "/end"], 30).await;
                touched.map(drop)
            }
            Self::Stop => cri.stop(&before.id, 10).await,
            Self::Remove => cri.remove(&before.id).await,
            Self::StopPod => cri.stop_pod(&before.pod_id).await,
            Self::Leave => leave(&before.pod_id)
                .map_err(|error| Status::internal(format!("not signalled: {error:#}"))),
        }
    }

    /// The shim lives: the same call again, or the next attempt of what cannot be started again.
    pub(crate) async fn again(self, node: &Node, before: &Before) -> Result<()> {
        match self {
            Self::RunPod | Self::Exec | Self::Stop | Self::Remove | Self::StopPod | Self::Leave => {
                self.call(node, before).await.context("asked again")?;
            }
            Self::Start => {
                let status = node.cri.container(&before.id).await?;
                ensure!(status.reason == "StartError", "{status:?}");
                let next = before.container.clone().with(|config| {
                    config.metadata.get_or_insert_default().attempt += 1;
                });
                let id = node.cri.create(&before.pod_id, &before.pod, &next).await?;
                node.cri.start(&id).await.context("start the next attempt")?;
                ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
            }
            Self::End => {
                let status = node.wait_exited(&before.id).await?;
                ensure!((status.exit_code, status.reason.as_str()) == (0, "Completed"));
            }
        }
        Ok(())
    }

    /// The shim is gone: its pod is over, and kubelet makes the next one of the same name.
    pub(crate) async fn next_attempt(
        self,
        node: &Node,
        before: &Before,
        place: &str,
    ) -> Result<()> {
        if self != Self::RunPod {
            not_ready(node, &before.pod_id).await?;
            for container in node.cri.containers(None).await? {
                if container.state() == v1::ContainerState::ContainerRunning {
                    bail!("{container:?} runs without a shim");
                }
                let status = node.cri.container(&container.id).await?;
                // Recorded, and not told.
                let known = place == "shim.exit.tell";
                ensure!(!known || status.reason == "Completed", "{status:?}");
                node.cri.stop(&container.id, 10).await.context("stop the old one")?;
                node.cri.remove(&container.id).await.context("remove the old one")?;
            }
            node.cri.stop_pod(&before.pod_id).await.context("stop the old pod")?;
            node.cri.remove_pod(&before.pod_id).await.context("remove the old pod")?;
        }
        let (_, id) = node.run(&before.pod, &before.container).await?;
        ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
        Ok(())
    }
}

fn leave(pod: &str) -> Result<()> {
    let is_it =
        |it: &proc::Process| it.cmdline.starts_with("knarr-shim") && it.cmdline.contains(pod);
    let shim = proc::all().into_iter().find(is_it).context("no shim")?;
    proc::signal(shim.pid, Signal::TERM)
}

async fn not_ready(node: &Node, pod: &str) -> Result<()> {
    let wait = async {
        let request = v1::GetEventsRequest {};
        let events = node.cri.runtime.clone().get_container_events(request).await?;
        let mut events = events.into_inner();
        while node.cri.pod(pod).await?.state() == v1::PodSandboxState::SandboxReady {
            ensure!(events.message().await?.is_some(), "the stream of events ended");
        }
        Ok(())
    };
    tokio::time::timeout(test_support::node::PATIENCE, wait).await.context("it stays ready")?
}
