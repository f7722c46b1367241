//! cAdvisor's metrics, as kubelet reads them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::node::{Node, on_a_node};

/// Names with their label keys.
async fn descriptors(node: &Node) -> Result<BTreeMap<String, Vec<String>>> {
    let request = v1::ListMetricDescriptorsRequest {};
    let answer = node.cri.runtime.clone().list_metric_descriptors(request).await?.into_inner();
    for metric in &answer.descriptors {
        ensure!(!metric.help.is_empty(), "{metric:?}");
    }
    Ok(answer.descriptors.into_iter().map(|metric| (metric.name, metric.label_keys)).collect())
}

async fn metrics(node: &Node) -> Result<Vec<v1::PodSandboxMetrics>> {
    let request = v1::ListPodSandboxMetricsRequest {};
    let answer = node.cri.runtime.clone().list_pod_sandbox_metrics(request).await?;
    Ok(answer.into_inner().pod_metrics)
}

fn value(metrics: &[v1::Metric], name: &str) -> Result<u64> {
    let found = metrics.iter().find(|metric| metric.name == name);
    let metric = found.with_context(|| format!("no {name}"))?;
    metric.value.map(|value| value.value).with_context(|| format!("{name} has no value"))
}

#[test]
fn every_value_fits_its_descriptor_and_says_whose_it_is() -> Result<()> {
    on_a_node(async |node| {
        let known = descriptors(node).await?;
        let (pod_id, id) = node.sleeper("labels").await?;
        let pods = metrics(node).await?;
        ensure!(pods.len() == 1 && pods[0].pod_sandbox_id == pod_id, "{pods:?}");
        let containers = &pods[0].container_metrics;
        ensure!(containers.len() == 1 && containers[0].container_id == id, "{containers:?}");
        let mut series = BTreeSet::new();
        for metric in pods[0].metrics.iter().chain(&containers[0].metrics) {
            let keys = known.get(&metric.name).with_context(|| format!("{metric:?} is unknown"))?;
            ensure!(keys.len() == metric.label_values.len(), "{metric:?}: want {keys:?}");
            ensure!(metric.timestamp > 0 && metric.value.is_some(), "{metric:?}");
            let labels: BTreeMap<_, _> = keys.iter().zip(&metric.label_values).collect();
            let label = |key: &str| labels.get(&key.to_owned()).map(|value| value.as_str());
            ensure!(label("pod") == Some("labels") && label("namespace") == Some("tests"));
            let whose = (label("container"), label("name"));
            let expected = [(Some("main"), Some(&*id)), (Some(""), Some(&*pod_id))];
            ensure!(expected.contains(&whose), "{metric:?}");
            // Prometheus refuses a scrape with a value that comes twice.
            let new = series.insert((metric.name.clone(), metric.label_values.clone()));
            ensure!(new, "{metric:?} comes twice");
        }
        Ok(())
    })
}

#[test]
fn values_are_those_of_the_kernel() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("values");
        let script =
            "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo done; sleep 1000 & wait";
        let container = pod.container("main", &image).script(script).resources(|r| {
            r.cpu_quota = 400_000;
            r.memory_limit_in_bytes = 64 << 20;
        });
        let (_, id) = node.run(&pod, &container).await?;
        node.wait_log(&id, "done").await?;
        let pods = metrics(node).await?;
        let of_pod = &pods[0].metrics;
        let of = &pods[0].container_metrics[0].metrics;
        let started = node.cri.container(&id).await?.started_at / 1_000_000_000;
        ensure!(i64::try_from(value(of, "container_start_time_seconds")?)? == started);
        ensure!(value(of, "container_last_seen")? >= value(of, "container_start_time_seconds")?);
        ensure!(value(of, "container_spec_memory_limit_bytes")? == 64 << 20);
        ensure!(value(of, "container_spec_cpu_quota")? == 400_000);
        ensure!(value(of, "container_spec_cpu_shares")? == 102);
        let (usage, set) = (
            value(of, "container_memory_usage_bytes")?,
            value(of, "container_memory_working_set_bytes")?,
        );
        ensure!(usage > 0 && set <= usage, "{usage} {set}");
        let seconds = value(of, "container_cpu_usage_seconds_total")?;
        ensure!(value(of_pod, "container_cpu_usage_seconds_total")? >= seconds);
        ensure!(value(of, "container_processes")? >= 2, "shell and sleep");
        ensure!(value(of, "container_threads")? >= 2);
        ensure!(value(of, "container_file_descriptors")? >= 3);
        ensure!(value(of, "container_ulimits_soft")? > 0);
        ensure!(value(of, "container_oom_events_total")? == 0);
        ensure!(value(of, "container_fs_limit_bytes")? > 0);
        // Two addresses were asked for on the way up, so something went through.
        ensure!(value(of_pod, "container_network_transmit_packets_total").is_ok());
        Ok(())
    })
}

#[test]
fn what_does_not_run_is_not_measured() -> Result<()> {
    on_a_node(async |node| {
        ensure!(metrics(node).await?.is_empty());
        let (pod_id, id) = node.sleeper("done").await?;
        node.cri.stop(&id, 5).await?;
        let pods = metrics(node).await?;
        ensure!(pods.len() == 1 && pods[0].container_metrics.is_empty(), "{pods:?}");
        node.cri.stop_pod(&pod_id).await?;
        ensure!(metrics(node).await?.is_empty());
        Ok(())
    })
}
