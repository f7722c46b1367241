//! Whether the CRI's answers and the kernel agree.

use std::path::Path;

use anyhow::{Result, ensure};
use cri_api::v1;

use crate::node::Node;
use crate::proc;

/// What the CRI says is what the kernel has: a container has processes exactly if it is running, and
/// a pod that is ready has its namespace, its address and its shim.
///
/// # Errors
/// It is not; the message says whose.
pub async fn agrees(node: &Node) -> Result<()> {
    let processes = proc::all();
    for container in node.cri.containers(None).await? {
        let lives = processes.iter().any(|it| !it.zombie && it.cgroups.contains(&container.id));
        let runs = container.state() == v1::ContainerState::ContainerRunning;
        ensure!(lives == runs, "{container:?} has processes: {lives}");
        if runs {
            ensure!(node.cri.shell(&container.id, "echo alive").await? == "alive");
        }
    }
    for pod in node.cri.pods(None).await? {
        if pod.state() == v1::PodSandboxState::SandboxReady {
            let pin = Path::new("/run/netns").join(format!("knarr-{}", pod.id));
            ensure!(pin.exists(), "{pod:?} has no network namespace");
            let address = node.cri.pod_ip(&pod.id).await?;
            ensure!(address.starts_with(&node.scratch.subnet_prefix()), "{pod:?}: {address}");
            let state = node.scratch.state().join("pods").join(&pod.id).display().to_string();
            let shim = processes.iter().any(|it| it.cmdline.contains(&state));
            ensure!(shim, "{pod:?} has no shim");
        }
    }
    Ok(())
}
