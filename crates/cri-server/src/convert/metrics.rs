//! Metrics, with the labels that say whose they are.

use cri_api::v1;
use sandbox::{
    ContainerMetrics, ContainerView, Descriptor, MetricKind, PodMetrics, PodView, Sample,
};

/// Whose a value is, in cAdvisor's words: `id` is the cgroup, `name` the id; a pod's own values have
/// no `container` and no `image`.
const OWNER: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

pub(crate) fn descriptor(metric: &Descriptor) -> v1::MetricDescriptor {
    let labels = OWNER.iter().chain(metric.labels).map(|label| (*label).to_owned());
    v1::MetricDescriptor {
        name: metric.name.to_owned(),
        help: metric.help.to_owned(),
        label_keys: labels.collect(),
    }
}

pub(crate) fn pod(measured: &PodMetrics) -> v1::PodSandboxMetrics {
    let owner = of_pod(&measured.pod);
    let containers = measured.containers.iter();
    v1::PodSandboxMetrics {
        pod_sandbox_id: measured.pod.record.id.to_string(),
        metrics: values(&owner, measured.at.0, &measured.samples),
        container_metrics: containers.map(|one| container(measured, one)).collect(),
    }
}

fn container(pod: &PodMetrics, measured: &ContainerMetrics) -> v1::ContainerMetrics {
    let owner = of_container(&pod.pod, &measured.container);
    v1::ContainerMetrics {
        container_id: measured.container.record.id.to_string(),
        metrics: values(&owner, pod.at.0, &measured.samples),
    }
}

fn of_pod(pod: &PodView) -> [String; 6] {
    let (record, empty) = (&pod.record, String::new);
    let name = &record.config.name;
    let id = pod.cgroup_parent.to_string();
    [empty(), id, empty(), record.id.to_string(), name.namespace.clone(), name.name.clone()]
}

fn of_container(pod: &PodView, container: &ContainerView) -> [String; 6] {
    let (record, name) = (&container.record, &pod.record.config.name);
    let asked = &record.config.image.user_specified;
    let image = if asked.is_empty() { &record.image_name } else { asked };
    [
        record.config.name.name.clone(),
        container.cgroup_path.to_string(),
        image.clone(),
        record.id.to_string(),
        name.namespace.clone(),
        name.name.clone(),
    ]
}

/// CRI: label values in the order of the descriptor's keys.
fn values(owner: &[String; 6], timestamp: i64, samples: &[Sample]) -> Vec<v1::Metric> {
    let one = |sample: &Sample| v1::Metric {
        name: sample.metric.name.to_owned(),
        timestamp,
        metric_type: match sample.metric.kind {
            MetricKind::Counter => v1::MetricType::Counter,
            MetricKind::Gauge => v1::MetricType::Gauge,
        }
        .into(),
        label_values: owner.iter().chain(&sample.labels).cloned().collect(),
        value: Some(v1::UInt64Value { value: sample.value }),
    };
    samples.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_says_whose_it_is_and_repeats_no_label() {
        for metric in sandbox::DESCRIPTORS {
            let keys = descriptor(metric).label_keys;
            assert_eq!(keys[..6], OWNER, "{}", metric.name);
            let unique: std::collections::BTreeSet<_> = keys.iter().collect();
            assert_eq!(unique.len(), keys.len(), "{}", metric.name);
        }
    }
}
