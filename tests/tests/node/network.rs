//! Pod networks: addresses, reachability, published ports, exhaustion, release.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::http;
use test_support::node::{on_a_node, on_a_node_with};

/// Fetches a page from `host:port`: its body.
pub(crate) fn get(host: &str, path: &str) -> Result<String> {
    let address = host.parse().with_context(|| host.to_owned())?;
    Ok(http::get(address, path)?.1)
}

/// Serves one line on TCP port 8080, again and again, once `up` is logged: `httpd` goes into the
/// background after it listens.
const SERVER: &str = "mkdir /www; echo hello from $HOSTNAME >/www/index.html; \
                      httpd -p 8080 -h /www; echo up; \
                      trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done";

#[test]
fn a_pod_has_an_address_that_the_host_and_other_pods_reach() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("server");
        let (pod_id, id) = node.run(&pod, &pod.container("main", &image).script(SERVER)).await?;
        let ip = node.cri.pod_ip(&pod_id).await?;
        ensure!(ip.starts_with(&node.scratch.subnet_prefix()), "{ip}");
        node.cri.shell(&id, "until wget -qO- http://127.0.0.1:8080/; do :; done").await?;
        let page = get(&format!("{ip}:8080"), "/")?;
        ensure!(page.contains("hello from server"), "{page}");
        let (_, other) = node.sleeper("client").await?;
        let page = node.cri.shell(&other, &format!("wget -qO- http://{ip}:8080/")).await?;
        ensure!(page == "hello from server", "{page}");
        let links = node.cri.shell(&other, "ls /sys/class/net").await?;
        ensure!(links.split_whitespace().eq(["eth0", "lo"]), "{links}");
        let route = node.cri.shell(&other, "ip route").await?;
        ensure!(route.contains("default via"), "{route}");
        Ok(())
    })
}

#[test]
fn a_published_port_is_reached_on_the_host() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let host_port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let pod = node.pod("published").with(|config| {
            config.port_mappings = vec![v1::PortMapping {
                protocol: v1::Protocol::Tcp.into(),
                container_port: 8080,
                host_port: host_port.into(),
                host_ip: String::new(),
            }];
        });
        let (pod_id, id) = node.run(&pod, &pod.container("main", &image).script(SERVER)).await?;
        node.cri.shell(&id, "until wget -qO- http://127.0.0.1:8080/; do :; done").await?;
        let page = get(&format!("127.0.0.1:{host_port}"), "/")?;
        ensure!(page.contains("hello from published"), "{page}");
        node.cri.remove_pod(&pod_id).await?;
        ensure!(get(&format!("127.0.0.1:{host_port}"), "/").is_err(), "still published");
        Ok(())
    })
}

#[test]
fn addresses_differ_and_are_given_back() -> Result<()> {
    on_a_node(async |node| {
        let mut addresses = BTreeSet::new();
        let mut ids = Vec::new();
        for number in 0..4 {
            let id = node.cri.run_pod(&node.pod(&format!("pod{number}"))).await?;
            addresses.insert(node.cri.pod_ip(&id).await?);
            ids.push(id);
        }
        ensure!(addresses.len() == 4, "{addresses:?}");
        node.cri.stop_pod(&ids[0]).await?;
        let stopped = node.cri.pod(&ids[0]).await?.network.unwrap_or_default().ip;
        ensure!(stopped.is_empty(), "a stopped pod has no address: {stopped}");
        Ok(())
    })
}

#[test]
fn a_full_address_range_is_an_error_that_ends_with_the_next_free_address() -> Result<()> {
    on_a_node_with(
        // A /29 has six hosts, one of which is the gateway.
        |settings, scratch| settings.subnet = Some(format!("{}0/29", scratch.subnet_prefix())),
        async |node| {
            let mut ids = Vec::new();
            let full = loop {
                match node.cri.run_pod(&node.pod(&format!("pod{}", ids.len()))).await {
                    Ok(id) => ids.push(id),
                    Err(status) => break status,
                }
                ensure!(ids.len() < 8, "more pods than addresses");
            };
            ensure!(ids.len() == 5, "{} pods fit into a /29", ids.len());
            ensure!(full.message().contains("address"), "{}", full.message());
            ensure!(node.cri.pods(None).await?.len() == 5, "the refused pod is listed");
            node.cri.remove_pod(&ids[2]).await?;
            node.cri.run_pod(&node.pod("again")).await?;
            Ok(())
        },
    )
}

#[test]
fn runtime_and_network_are_ready() -> Result<()> {
    on_a_node(async |node| {
        let request = v1::StatusRequest { verbose: false };
        let status = node.cri.runtime.clone().status(request).await?.into_inner();
        let conditions = status.status.clone().unwrap_or_default().conditions;
        for name in ["RuntimeReady", "NetworkReady"] {
            let condition = conditions.iter().find(|condition| condition.r#type == name);
            ensure!(condition.is_some_and(|condition| condition.status), "{conditions:?}");
        }
        ensure!(status.runtime_handlers.iter().any(|h| h.name.is_empty()), "{status:?}");
        let version = v1::VersionRequest::default();
        let version = node.cri.runtime.clone().version(version).await?.into_inner();
        ensure!(version.version == "0.1.0" && version.runtime_api_version == "v1", "{version:?}");
        ensure!(!version.runtime_name.is_empty(), "{version:?}");
        let parts: Vec<_> = version.runtime_version.split(['.', '-', '+']).collect();
        ensure!(parts.len() >= 3 && parts[..3].iter().all(|p| p.parse::<u32>().is_ok()));
        Ok(())
    })
}

#[test]
fn a_configured_network_of_real_plugins_is_used() -> Result<()> {
    const PLUGINS: &str = "/usr/lib/cni";
    if !std::path::Path::new(PLUGINS).join("bridge").exists() {
        test_support::skip("containernetworking-plugins is not installed");
        return Ok(());
    }
    on_a_node_with(
        |settings, scratch| {
            let conf = format!(
                r#"{{"cniVersion": "1.0.0", "name": "{mark}", "plugins": [
                    {{"type": "bridge", "bridge": "{mark}", "isGateway": true, "ipMasq": false,
                      "ipam": {{"type": "host-local", "dataDir": "{data}",
                               "ranges": [[{{"subnet": "{subnet}"}}]],
                               "routes": [{{"dst": "0.0.0.0/0"}}]}}}}]}}"#,
                mark = scratch.mark(),
                data = scratch.root().join("ipam").display(),
                subnet = scratch.subnet(),
            );
            let file = scratch.dir().join("cni.d/10-test.conflist");
            std::fs::write(&file, conf).ok();
            settings.cni_bin_dir = Some(PLUGINS.into());
        },
        async |node| {
            let (pod, id) = node.sleeper("plugged").await?;
            let ip = node.cri.pod_ip(&pod).await?;
            ensure!(ip.starts_with(&node.scratch.subnet_prefix()), "{ip}");
            let inside = node.cri.shell(&id, "ip -o addr show eth0").await?;
            ensure!(inside.contains(&ip), "{inside}");
            Ok(())
        },
    )
}

#[test]
fn pods_get_addresses_of_the_range_that_kubelet_names() -> Result<()> {
    on_a_node(async |node| {
        let range = format!("{}128/25", node.scratch.subnet_prefix());
        let network_config = Some(v1::NetworkConfig { pod_cidr: range });
        let runtime_config = Some(v1::RuntimeConfig { network_config });
        let request = v1::UpdateRuntimeConfigRequest { runtime_config };
        node.cri.runtime.clone().update_runtime_config(request.clone()).await?;
        node.cri.runtime.clone().update_runtime_config(request).await?;
        let pod = node.cri.run_pod(&node.pod("ranged")).await?;
        let ip = node.cri.pod_ip(&pod).await?;
        ensure!(ip == format!("{}130", node.scratch.subnet_prefix()), "{ip}");
        let network_config = Some(v1::NetworkConfig { pod_cidr: "all of it".to_owned() });
        let runtime_config = Some(v1::RuntimeConfig { network_config });
        let request = v1::UpdateRuntimeConfigRequest { runtime_config };
        let refused = node.cri.runtime.clone().update_runtime_config(request).await;
        ensure!(refused.is_err_and(|status| status.code() == tonic::Code::InvalidArgument));
        Ok(())
    })
}

#[test]
fn the_node_is_not_ready_while_its_network_configuration_is_broken() -> Result<()> {
    on_a_node(async |node| {
        let condition = async || -> Result<v1::RuntimeCondition> {
            let request = v1::StatusRequest { verbose: false };
            let status = node.cri.runtime.clone().status(request).await?.into_inner();
            let conditions = status.status.unwrap_or_default().conditions;
            conditions.into_iter().find(|c| c.r#type == "NetworkReady").context("no condition")
        };
        ensure!(condition().await?.status);
        let file = node.scratch.dir().join("cni.d/10-broken.conflist");
        std::fs::write(&file, "{")?;
        let broken = loop {
            let condition = condition().await?;
            if !condition.status {
                break condition;
            }
        };
        ensure!(broken.reason == "NetworkPluginNotReady", "{broken:?}");
        let want = "Network plugin returns error: cni plugin not initialized: ";
        ensure!(broken.message.starts_with(want), "{broken:?}");
        std::fs::remove_file(&file)?;
        while !condition().await?.status {}
        Ok(())
    })
}

#[test]
fn who_holds_which_address_is_told_and_what_nobody_holds_is_released() -> Result<()> {
    on_a_node(async |node| {
        let pod = node.pod("holder");
        let id = node.cri.run_pod(&pod).await?;
        let ip = node.cri.pod_ip(&id).await?;
        let left = node.scratch.root().join("networks/knarr").join("192.0.2.77");
        std::fs::write(&left, format!("{}\r\neth0", "7".repeat(64)))?;
        let listed = super::cli::on(node, &["net", "ls"])?;
        let line = |text: &str| listed.lines().find(|line| line.contains(text)).unwrap_or_default();
        ensure!(line(&ip).contains("holder") && line(&ip).contains("Attached"), "{listed}");
        ensure!(line("192.0.2.77").contains("Left"), "{listed}");
        let inspected = super::cli::on(node, &["net", "inspect", "holder"])?;
        ensure!(inspected.contains(&format!("\"{ip}/24\"")), "{inspected}");
        let collected = super::cli::on(node, &["net", "gc"])?;
        ensure!(collected.contains("0 attachments and 1 further addresses"), "{collected}");
        ensure!(!left.exists());
        ensure!(!super::cli::on(node, &["net", "ls"])?.contains("Left"));
        Ok(())
    })
}
