//! The program as the CNI plugin of another runtime: Debian's containerd.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::containerd::{Containerd, Settings};
use test_support::node::on_a_node;

#[test]
fn debians_containerd_uses_the_program_as_its_plugins() -> Result<()> {
    if !Containerd::is_installed() {
        test_support::skip("containerd is not installed");
        return Ok(());
    }
    on_a_node(async |node| {
        let plugins = node.scratch.dir().join("plugins");
        fs::create_dir(&plugins).context("make a directory of plugins")?;
        for name in ["bridge", "host-local", "loopback", "portmap"] {
            symlink(node.daemon.program(), plugins.join(name)).context("link a plugin")?;
        }
        let containerd = Containerd::start(&node.scratch, Settings::new(&plugins))?;
        let cri = containerd.client().await?;
        let request = v1::StatusRequest { verbose: false };
        let status = cri.runtime.clone().status(request).await?.into_inner().status;
        let conditions = status.unwrap_or_default().conditions;
        ensure!(conditions.iter().all(|condition| condition.status), "{conditions:?}");
        let pod = node.pod("foreign").with(|config| {
            config.linux = None;
            config.port_mappings = vec![v1::PortMapping {
                protocol: v1::Protocol::Tcp.into(),
                container_port: 80,
                host_port: 41_000,
                // Of the test network, so that other tests' ports are not in the way.
                host_ip: format!("{}1", node.scratch.subnet_prefix()),
            }];
        });
        let id = cri.run_pod(&pod).await.context("RunPodSandbox of containerd")?;
        let ip = cri.pod_ip(&id).await?;
        ensure!(ip == format!("{}2", node.scratch.subnet_prefix()), "{ip}");
        let reserved = containerd.reservation(&node.scratch, &ip);
        let holder = fs::read_to_string(&reserved).context("the reservation")?;
        ensure!(holder == format!("{id}\r\neth0"), "{holder}");
        let published = || -> Result<bool> {
            let list = ["list", "map", "ip", "knarr", "ports_on"];
            let output = std::process::Command::new("nft").args(list).output()?;
            Ok(String::from_utf8_lossy(&output.stdout).contains(&id))
        };
        ensure!(published()?, "the host port does not lead to the pod");
        cri.stop_pod(&id).await?;
        ensure!(!reserved.exists(), "the address is still reserved");
        ensure!(!published()?, "the host port still leads to the pod");
        cri.remove_pod(&id).await?;
        Ok(())
    })
}
