//! Statistics of containers and pods.

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::node::{Node, on_a_node};

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
        let request = v1::ContainerStatsRequest { container_id: id.clone() };
        let answer = node.cri.runtime.clone().container_stats(request).await?.into_inner();
        let stats = answer.stats.context("no statistics")?;
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
        ensure!(layer.timestamp > 0 && value(layer.used_bytes) >= 3_000_000, "{layer:?}");
        ensure!(layer.fs_id.is_some_and(|fs| std::path::Path::new(&fs.mountpoint).is_dir()));
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
