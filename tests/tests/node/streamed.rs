//! The lists that come in several messages: the same as their unary twins, then the end.

use anyhow::{Result, ensure};
use cri_api::v1;
use test_support::cri::refused;
use test_support::node::{Node, on_a_node};
use tonic::{Code, Streaming};

/// Every message; none may be empty.
async fn all<M, T>(mut stream: Streaming<M>, items: impl Fn(M) -> Vec<T>) -> Result<Vec<T>> {
    let mut found = Vec::new();
    while let Some(message) = stream.message().await? {
        let more = items(message);
        ensure!(!more.is_empty(), "a message without items");
        found.extend(more);
    }
    Ok(found)
}

async fn pods(node: &Node, filter: Option<v1::PodSandboxFilter>) -> Result<Vec<v1::PodSandbox>> {
    let request = v1::StreamPodSandboxesRequest { filter };
    let stream = node.cri.runtime.clone().stream_pod_sandboxes(request).await?.into_inner();
    all(stream, |message| message.pod_sandboxes).await
}

async fn containers(
    node: &Node,
    filter: Option<v1::ContainerFilter>,
) -> Result<Vec<v1::Container>> {
    let request = v1::StreamContainersRequest { filter };
    let stream = node.cri.runtime.clone().stream_containers(request).await?.into_inner();
    all(stream, |message| message.containers).await
}

#[test]
fn nothing_is_an_immediate_end() -> Result<()> {
    on_a_node(async |node| {
        ensure!(pods(node, None).await?.is_empty());
        ensure!(containers(node, None).await?.is_empty());
        let mut runtime = node.cri.runtime.clone();
        let stats = runtime.stream_container_stats(v1::StreamContainerStatsRequest::default());
        ensure!(all(stats.await?.into_inner(), |m| m.container_stats).await?.is_empty());
        let stats = runtime.stream_pod_sandbox_stats(v1::StreamPodSandboxStatsRequest::default());
        ensure!(all(stats.await?.into_inner(), |m| m.pod_sandbox_stats).await?.is_empty());
        let metrics = runtime.stream_pod_sandbox_metrics(v1::StreamPodSandboxMetricsRequest {});
        ensure!(all(metrics.await?.into_inner(), |m| m.pod_sandbox_metrics).await?.is_empty());
        let images =
            node.cri.images.clone().stream_images(v1::StreamImagesRequest::default()).await?;
        ensure!(all(images.into_inner(), |m| m.images).await?.is_empty());
        Ok(())
    })
}

#[test]
fn pods_containers_and_images_are_those_of_the_lists() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        node.pulled("entrypoint").await?;
        let mut ids = Vec::new();
        for name in ["one", "two"] {
            let pod = node.pod(name);
            ids.push(node.run(&pod, &pod.container("main", &image).sleeper()).await?);
        }
        ensure!(pods(node, None).await? == node.cri.pods(None).await?);
        ensure!(containers(node, None).await? == node.cri.containers(None).await?);
        let filter = v1::ContainerFilter { id: ids[1].1.clone(), ..Default::default() };
        let found = containers(node, Some(filter)).await?;
        ensure!(found.len() == 1 && found[0].id == ids[1].1, "{found:?}");
        let state = Some(v1::PodSandboxStateValue { state: 99 });
        let filter = v1::PodSandboxFilter { state, ..Default::default() };
        let request = v1::StreamPodSandboxesRequest { filter: Some(filter) };
        let answer = node.cri.runtime.clone().stream_pod_sandboxes(request).await;
        refused(answer.map(drop), Code::InvalidArgument, &["state", "99"])?;
        let request = v1::StreamImagesRequest::default();
        let stream = node.cri.images.clone().stream_images(request).await?.into_inner();
        let images = all(stream, |message| message.images).await?;
        ensure!(images == node.cri.image_list().await?, "{images:?}");
        Ok(())
    })
}

#[test]
fn statistics_and_metrics_are_of_the_same_pods_and_containers() -> Result<()> {
    on_a_node(async |node| {
        let (pod_id, id) = node.sleeper("figures").await?;
        let mut runtime = node.cri.runtime.clone();
        let stream = runtime.stream_container_stats(v1::StreamContainerStatsRequest::default());
        let stats = all(stream.await?.into_inner(), |message| message.container_stats).await?;
        let attributes = stats.iter().filter_map(|stats| stats.attributes.clone());
        ensure!(attributes.map(|a| a.id).eq([id.clone()]), "{stats:?}");
        let filter = Some(v1::PodSandboxStatsFilter { id: pod_id.clone(), ..Default::default() });
        let request = v1::StreamPodSandboxStatsRequest { filter };
        let stream = runtime.stream_pod_sandbox_stats(request).await?.into_inner();
        let stats = all(stream, |message| message.pod_sandbox_stats).await?;
        ensure!(stats.len() == 1, "{stats:?}");
        let stream = runtime.stream_pod_sandbox_metrics(v1::StreamPodSandboxMetricsRequest {});
        let metrics =
            all(stream.await?.into_inner(), |message| message.pod_sandbox_metrics).await?;
        ensure!(metrics.len() == 1 && metrics[0].pod_sandbox_id == pod_id, "{metrics:?}");
        Ok(())
    })
}
