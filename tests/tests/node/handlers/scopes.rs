//! With the systemd cgroup driver other runtimes' containers are in the pod's scope, as the built-in one's are.

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::handlers::Runtime;
use test_support::scratch::systemd_driver;
use test_support::skip;

use crate::systemd::{group, holds, limited, property, scope, systemctl};

#[test]
fn a_runtimes_containers_are_in_the_pods_delegated_scope() -> Result<()> {
    if !systemd_driver() {
        skip("systemd does not run this host");
        return Ok(());
    }
    super::under(&[Runtime::Runc, Runtime::Crun, Runtime::KnarrOci], &async |node, _| {
        let parent = node.scratch.cgroup_parent();
        let (pod, id) = limited(node, &parent).await?;
        let unit = scope(&pod);
        let group = group(&unit)?;
        let procs = std::fs::read_to_string(group.join(&id).join("cgroup.procs"));
        ensure!(!procs.context("the container's group")?.is_empty(), "nobody is in it");
        // One scope for the pod, and none that the runtime has asked for.
        ensure!(systemctl(&["list-units", "--all", "--no-legend", &format!("*{id}*")])?.is_empty());
        holds(node, &pod, &id, "at first").await?;
        systemctl(&["daemon-reload"])?;
        holds(node, &pod, &id, "daemon-reload").await?;
        let limits = v1::LinuxContainerResources {
            memory_limit_in_bytes: 96 << 20,
            ..v1::LinuxContainerResources::default()
        };
        node.cri.update(&id, limits).await?;
        systemctl(&["daemon-reload"])?;
        let limit = std::fs::read_to_string(group.join(&id).join("memory.max"))?;
        ensure!(limit.trim() == (96 << 20).to_string(), "an update outlives a reload: {limit}");
        node.crash_and_restart()?;
        ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
        node.cri.stop_pod(&pod).await?;
        ensure!(!group.exists(), "{} is left", group.display());
        ensure!(property(&unit, "LoadState")? == "not-found");
        Ok(())
    })
}
