//! Debian's containerd runs its pods with the program in runc's place.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::containerd::{Containerd, Settings};
use test_support::node::on_a_node;

#[test]
fn debians_containerd_runs_pods_with_it() -> Result<()> {
    if !Containerd::is_installed() {
        test_support::skip("containerd is not installed");
        return Ok(());
    }
    on_a_node(async |node| {
        let dir = node.scratch.dir();
        let plugins = dir.join("plugins");
        fs::create_dir(&plugins).context("make a directory of plugins")?;
        for name in ["bridge", "host-local", "loopback", "portmap"] {
            symlink(node.daemon.program(), plugins.join(name)).context("link a plugin")?;
        }
        let runtime = dir.join("knarr-oci");
        symlink(node.daemon.program(), &runtime).context("link the runtime")?;
        let settings = Settings { runtime: Some(&runtime), ..Settings::new(&plugins) };
        let containerd = Containerd::start(&node.scratch, settings)?;
        let cri = containerd.client().await?;
        let image = node.image("busybox")?;
        cri.pull(&image).await.context("PullImage of containerd")?;
        let pod = node.pod("foreign").with(|config| config.linux = None);
        let sandbox = cri.run_pod(&pod).await.context("RunPodSandbox of containerd")?;
        let container = pod.container("main", &image).sleeper();
        let id = cri.create(&sandbox, &pod, &container).await.context("CreateContainer")?;
        let started = cri.start(&id).await;
        started.with_context(|| containerd.log_text())?;
        ensure!(cri.container(&id).await?.state() == v1::ContainerState::ContainerRunning);
        let said = cri.shell(&id, "cat /proc/1/comm; ls /proc/self/fd | wc -l").await?;
        ensure!(said.lines().count() == 2, "{said}");
        // The state of this runtime, not of runc.
        let states = containerd.runtime_root().join("k8s.io");
        let left = || fs::read_dir(&states).map_or(0, Iterator::count);
        ensure!(left() == 2, "{} containers in {}", left(), states.display());
        cri.stop_pod(&sandbox).await?;
        ensure!(cri.container(&id).await?.state() == v1::ContainerState::ContainerExited);
        cri.remove_pod(&sandbox).await?;
        ensure!(left() == 0, "state is left in {}", states.display());
        Ok(())
    })
}
