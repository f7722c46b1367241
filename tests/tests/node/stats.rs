//! Statistics of containers and pods.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::cri::refused;
use test_support::node::{Node, PATIENCE, on_a_node};
use tonic::Code;

async fn list(node: &Node, filter: Option<v1::ContainerStatsFilter>) -> Result<Vec<String>> {
    let request = v1::ListContainerStatsRequest { filter };
    let answer = node.cri.runtime.clone().list_container_stats(request).await?.into_inner();
    let mut ids = Vec::new();
    for stats in answer.stats {
        ids.push(stats.attributes.context("statistics without attributes")?.id);
    }
    ids.sort();
    Ok(ids)
}

pub(crate) fn layer_bytes(stats: &v1::ContainerStats) -> u64 {
    let used = stats.writable_layer.as_ref().and_then(|layer| layer.used_bytes);
    used.map_or(0, |used| used.value)
}

/// The statistics once the background has been there.
pub(crate) async fn measured(
    node: &Node,
    id: &str,
    enough: impl Fn(&v1::ContainerStats) -> bool,
) -> Result<v1::ContainerStats> {
    let wait = async {
        loop {
            let request = v1::ContainerStatsRequest { container_id: id.to_owned() };
            let answer = node.cri.runtime.clone().container_stats(request).await?.into_inner();
            let stats = answer.stats.context("no statistics")?;
            if enough(&stats) {
                return Ok(stats);
            }
            // Nothing tells when the background has been there.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.context("the layer is not measured")?
}

#[test]
fn a_running_container_uses_processor_memory_and_disk() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("busy");
        let container = pod.container("main", &image).script(
            "head -c 3000000 /dev/zero >/file; seq 1 200000 >/dev/null; echo done; exec sleep 1000",
        );
        let (_, id) = node.run(&pod, &container).await?;
        node.wait_log(&id, "done").await?;
        let has_rate = |stats: &v1::ContainerStats| {
            stats.cpu.as_ref().is_some_and(|cpu| cpu.usage_nano_cores.is_some())
        };
        let all = |stats: &v1::ContainerStats| layer_bytes(stats) >= 3_000_000 && has_rate(stats);
        let stats = measured(node, &id, all).await?;
        let attributes = stats.attributes.context("no attributes")?;
        ensure!(attributes.id == id && attributes.labels == container.config.labels);
        let cpu = stats.cpu.context("no cpu")?;
        let used = cpu.usage_core_nano_seconds.context("no cpu usage")?.value;
        ensure!(cpu.timestamp > 0 && used > 1_000_000, "{used}");
        let memory = stats.memory.context("no memory")?;
        let value = |v: Option<v1::UInt64Value>| v.map(|v| v.value).unwrap_or_default();
        ensure!(memory.timestamp > 0 && value(memory.usage_bytes) > 0, "{memory:?}");
        ensure!(value(memory.working_set_bytes) <= value(memory.usage_bytes), "{memory:?}");
        let layer = stats.writable_layer.context("no writable layer")?;
        ensure!(layer.timestamp > 0, "{layer:?}");
        ensure!(layer.fs_id.is_some_and(|fs| std::path::Path::new(&fs.mountpoint).is_dir()));
        Ok(())
    })
}

/// Microseconds in which some task waited, in the kernel's words.
fn some_total(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("some "))?;
    line.split_whitespace().find_map(|word| word.strip_prefix("total="))?.parse().ok()
}

#[test]
fn pressure_is_told_where_the_kernel_has_it() -> Result<()> {
    on_a_node(async |node| {
        let (pod, id) = node.sleeper("pressed").await?;
        let dir = format!("/sys/fs/cgroup/{}", node.scratch.container_cgroup(&id));
        let kernel = |what: &str| {
            let text = std::fs::read_to_string(format!("{dir}/{what}.pressure")).ok()?;
            some_total(&text).map(|usec| usec * 1000)
        };
        let request = v1::ContainerStatsRequest { container_id: id.clone() };
        let answer = node.cri.runtime.clone().container_stats(request).await?.into_inner();
        let own = answer.stats.context("no statistics")?;
        let request = v1::PodSandboxStatsRequest { pod_sandbox_id: pod };
        let answer = node.cri.runtime.clone().pod_sandbox_stats(request).await?.into_inner();
        let pods = answer.stats.and_then(|stats| stats.linux).context("no statistics")?;
        let told = [
            ("cpu", own.cpu.and_then(|cpu| cpu.psi), pods.cpu.and_then(|cpu| cpu.psi)),
            ("memory", own.memory.and_then(|m| m.psi), pods.memory.and_then(|m| m.psi)),
            ("io", own.io.and_then(|io| io.psi), pods.io.and_then(|io| io.psi)),
        ];
        for (what, own, pods) in told {
            let after = kernel(what);
            ensure!(own.is_some() == after.is_some(), "{what}: {own:?}, the kernel {after:?}");
            ensure!(pods.is_some() == after.is_some(), "{what}: {pods:?}, the kernel {after:?}");
            let Some(after) = after else { continue };
            let some = own.and_then(|psi| psi.some).context("no `some`")?;
            ensure!(some.total <= after, "{what}: {} of {after}", some.total);
            ensure!(some.avg10 >= 0.0 && some.avg10 <= 100.0, "{what}: {some:?}");
        }
        Ok(())
    })
}

#[test]
fn filters_choose_among_the_containers() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let mut started = Vec::new();
        for color in ["red", "blue", "green"] {
            let pod = node.pod(color);
            let container = pod.container("main", &image).sleeper().with(|config| {
                config.labels.insert("color".into(), color.into());
            });
            started.push(node.run(&pod, &container).await?);
        }
        let mut all: Vec<_> = started.iter().map(|(_, id)| id.clone()).collect();
        all.sort();
        ensure!(list(node, None).await? == all);
        ensure!(list(node, Some(v1::ContainerStatsFilter::default())).await? == all);
        let (pod, id) = started[1].clone();
        let by_id = v1::ContainerStatsFilter { id: id.clone(), ..Default::default() };
        ensure!(list(node, Some(by_id)).await? == [id.as_str()]);
        let by_pod = v1::ContainerStatsFilter { pod_sandbox_id: pod, ..Default::default() };
        ensure!(list(node, Some(by_pod)).await? == [id.as_str()]);
        let label = |color: &str| v1::ContainerStatsFilter {
            label_selector: [("color".to_owned(), color.to_owned())].into(),
            ..Default::default()
        };
        ensure!(list(node, Some(label("blue"))).await? == [id.as_str()]);
        ensure!(list(node, Some(label("mauve"))).await?.is_empty());
        Ok(())
    })
}

#[test]
fn a_pod_reports_its_network_and_processes() -> Result<()> {
    on_a_node(async |node| {
        let (pod, id) = node.sleeper("netstats").await?;
        let gateway = format!("{}1", node.scratch.subnet_prefix());
        node.cri.shell(&id, &format!("wget -T 2 -qO- http://{gateway}:1/ 2>&1; true")).await?;
        let request = v1::PodSandboxStatsRequest { pod_sandbox_id: pod.clone() };
        let answer = node.cri.runtime.clone().pod_sandbox_stats(request).await?.into_inner();
        let stats = answer.stats.context("no statistics")?;
        ensure!(stats.attributes.is_some_and(|attributes| attributes.id == pod));
        let linux = stats.linux.context("no linux statistics")?;
        let eth0 = linux.network.and_then(|n| n.default_interface).context("no interface")?;
        let sent = eth0.tx_bytes.map(|v| v.value).unwrap_or_default();
        ensure!(eth0.name == "eth0" && sent > 0, "{eth0:?}");
        let count = linux.process.and_then(|p| p.process_count).map(|v| v.value);
        ensure!(count.is_some_and(|count| count >= 2), "{count:?}");
        ensure!(linux.containers.len() == 1, "{:?}", linux.containers);
        let request = v1::ListPodSandboxStatsRequest { filter: None };
        let all = node.cri.runtime.clone().list_pod_sandbox_stats(request).await?.into_inner();
        ensure!(all.stats.len() == 1, "{all:?}");
        Ok(())
    })
}

/// Bytes received by each interface but loopback, as a container sees them.
async fn received(node: &Node, id: &str) -> Result<BTreeMap<String, u64>> {
    let text = node.cri.shell(id, "cat /proc/net/dev").await?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let counted = lines.map(|(name, rest)| {
        let bytes = rest.split_whitespace().next().context("no counters")?;
        Ok((name.trim().to_owned(), bytes.parse::<u64>()?))
    });
    let mut all = counted.collect::<Result<BTreeMap<_, _>>>()?;
    all.remove("lo");
    Ok(all)
}

#[test]
fn network_counters_are_those_of_the_pods_own_network() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pods = [node.pod("plain"), node.pod("mapped").users(131_072, 65_536)];
        for pod in pods {
            let (pod_id, id) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
            let request = || v1::PodSandboxStatsRequest { pod_sandbox_id: pod_id.clone() };
            for round in ["now", "after a crash"] {
                let before = received(node, &id).await?;
                let answer = node.cri.runtime.clone().pod_sandbox_stats(request()).await?;
                let after = received(node, &id).await?;
                let stats = answer.into_inner().stats.and_then(|stats| stats.linux);
                let network = stats.and_then(|linux| linux.network).context("no network")?;
                let all = network.default_interface.into_iter().chain(network.interfaces);
                let told: BTreeMap<_, _> =
                    all.map(|of| (of.name, of.rx_bytes.unwrap_or_default().value)).collect();
                ensure!(told.keys().eq(before.keys()), "{round}: {told:?} {before:?}");
                for (name, bytes) in &told {
                    let (least, most) = (before[name], after[name]);
                    ensure!(least <= *bytes && *bytes <= most, "{round}: {name} {bytes}");
                }
                node.crash_and_restart()?;
            }
        }
        let pod = node.pod("host").with(|config| config.hostname.clear());
        let pod = pod.namespaces(|namespaces| namespaces.set_network(v1::NamespaceMode::Node));
        let pod_sandbox_id = node.cri.run_pod(&pod).await?;
        let request = v1::PodSandboxStatsRequest { pod_sandbox_id };
        let answer = node.cri.runtime.clone().pod_sandbox_stats(request).await?.into_inner();
        let linux = answer.stats.and_then(|stats| stats.linux).context("no statistics")?;
        ensure!(linux.network.is_none(), "the host's traffic is not the pod's: {linux:?}");
        Ok(())
    })
}

#[test]
fn what_has_ended_has_its_layer_and_nothing_else() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("ended");
        let container = pod.container("main", &image).script("head -c 2000000 /dev/zero >/file");
        let (pod_id, id) = node.run(&pod, &container).await?;
        node.wait_exited(&id).await?;
        let stats = measured(node, &id, |stats| layer_bytes(stats) >= 2_000_000).await?;
        ensure!(stats.cpu.is_none() && stats.memory.is_none(), "{stats:?}");
        ensure!(list(node, None).await? == [id.as_str()]);
        node.cri.stop_pod(&pod_id).await?;
        let request = v1::PodSandboxStatsRequest { pod_sandbox_id: pod_id.clone() };
        let answer = node.cri.runtime.clone().pod_sandbox_stats(request).await;
        refused(answer, Code::Unavailable, &[&pod_id])?;
        let request = v1::ListPodSandboxStatsRequest { filter: None };
        let all = node.cri.runtime.clone().list_pod_sandbox_stats(request).await?.into_inner();
        ensure!(all.stats.is_empty(), "{all:?}");
        Ok(())
    })
}

#[test]
fn an_id_in_a_filter_may_be_short_but_not_ambiguous() -> Result<()> {
    on_a_node(async |node| {
        let (pod, id) = node.sleeper("short").await?;
        let short = v1::ContainerStatsFilter { id: id[..20].into(), ..Default::default() };
        ensure!(list(node, Some(short)).await? == [id.as_str()]);
        let nobodys = v1::ContainerStatsFilter { id: "0".repeat(64), ..Default::default() };
        ensure!(list(node, Some(nobodys)).await?.is_empty());
        let pods = node
            .cri
            .pods(Some(v1::PodSandboxFilter { id: pod[..20].into(), ..Default::default() }))
            .await?;
        ensure!(pods.len() == 1 && pods[0].id == pod, "{pods:?}");
        Ok(())
    })
}
