//! cAdvisor's metrics of pods and containers. CRI `ListPodSandboxMetrics`.
//!
//! Values are whole numbers on the wire: seconds are cut off. What the host does not count is
//! left out, not reported as 0.

mod cgroup;
mod descriptors;
mod disk;
mod process;

use std::path::Path;
use std::sync::Arc;

use model::{InterfaceStats, Resources, UnixNanos};

use descriptors::*;
pub use descriptors::{DESCRIPTORS, Descriptor, MetricKind};

use super::group::Group;
use super::{by_pod, network};
use crate::blocking;
use crate::context::{Context, now};
use crate::manager::Sandboxes;
use crate::record::ContainerState;
use crate::view::{ContainerView, PodView};

/// What a container's processor weight is when it asks for none.
const DEFAULT_SHARES: u64 = 1024;

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Of which metric.
    pub metric: &'static Descriptor,
    /// Values of the metric's own labels, in their order.
    pub labels: Vec<String>,
    /// The value.
    pub value: u64,
}

/// The values of one container.
#[derive(Debug, Clone)]
pub struct ContainerMetrics {
    /// The container.
    pub container: Arc<ContainerView>,
    /// Its values.
    pub samples: Vec<Sample>,
}

/// The values of one pod.
#[derive(Debug, Clone)]
pub struct PodMetrics {
    /// The pod.
    pub pod: Arc<PodView>,
    /// When they were read.
    pub at: UnixNanos,
    /// Of the pod as a whole.
    pub samples: Vec<Sample>,
    /// Of its containers that run.
    pub containers: Vec<ContainerMetrics>,
}

impl Sandboxes {
    /// The metrics of the pods of `pods` that are READY.
    pub async fn pod_metrics(&self, pods: Vec<Arc<PodView>>) -> Vec<PodMetrics> {
        let cx = Arc::clone(&self.cx);
        blocking::run(move || {
            let mut containers = by_pod(&cx);
            let mut disks = disk::Devices::default();
            let of_pod = |pod: Arc<PodView>| {
                let containers = containers.remove(&pod.record.id).unwrap_or_default();
                of_pod(&cx, pod, containers, &mut disks)
            };
            pods.into_iter().filter(|pod| pod.is_ready()).map(of_pod).collect()
        })
        .await
    }
}

fn of_pod(
    cx: &Context,
    pod: Arc<PodView>,
    containers: Vec<Arc<ContainerView>>,
    disks: &mut disk::Devices,
) -> PodMetrics {
    let mut samples = Samples::default();
    let group = Group { layout: &cx.parts.host.cgroup, path: &pod.cgroup_parent };
    samples.usage(group);
    for interface in network::of_pod(&pod) {
        samples.network(&interface);
    }
    let containers = containers
        .into_iter()
        .filter_map(|container| {
            let ContainerState::Running { pid, started_at } = container.record.state else {
                return None;
            };
            let samples = of_container(cx, &container, pid, started_at, disks);
            Some(ContainerMetrics { container, samples })
        })
        .collect();
    PodMetrics { pod, at: now(), samples: samples.0, containers }
}

fn of_container(
    cx: &Context,
    container: &ContainerView,
    pid: i32,
    started_at: UnixNanos,
    disks: &mut disk::Devices,
) -> Vec<Sample> {
    let mut samples = Samples::default();
    let group = Group { layout: &cx.parts.host.cgroup, path: &container.cgroup_path };
    let limits = &container.record.resources;
    samples.put(&LAST_SEEN, seconds(now()));
    samples.put(&START_TIME, seconds(started_at));
    samples.usage(group);
    samples.throttling(group, limits);
    samples.huge_pages(group, limits);
    samples.devices(group, disks);
    samples.layer(cx.paths().root(), container.writable.as_deref(), disks);
    samples.processes(group, pid);
    samples.limits(limits);
    samples.0
}

fn seconds(at: UnixNanos) -> u64 {
    u64::try_from(at.0 / 1_000_000_000).unwrap_or_default()
}

/// Values as they are collected.
#[derive(Debug, Default)]
struct Samples(Vec<Sample>);

impl Samples {
    fn put(&mut self, metric: &'static Descriptor, value: impl Into<Option<u64>>) {
        self.labelled(metric, &[], value);
    }

    fn labelled(
        &mut self,
        metric: &'static Descriptor,
        labels: &[&str],
        value: impl Into<Option<u64>>,
    ) {
        debug_assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
        if let Some(value) = value.into() {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            self.0.push(Sample { metric, labels, value });
        }
    }

    fn network(&mut self, interface: &InterfaceStats) {
        let values = [
            (&NETWORK_RECEIVE_BYTES, interface.rx_bytes),
            (&NETWORK_RECEIVE_PACKETS, interface.rx_packets),
            (&NETWORK_RECEIVE_DROPPED, interface.rx_dropped),
            (&NETWORK_RECEIVE_ERRORS, interface.rx_errors),
            (&NETWORK_TRANSMIT_BYTES, interface.tx_bytes),
            (&NETWORK_TRANSMIT_PACKETS, interface.tx_packets),
            (&NETWORK_TRANSMIT_DROPPED, interface.tx_dropped),
            (&NETWORK_TRANSMIT_ERRORS, interface.tx_errors),
        ];
        for (metric, value) in values {
            self.labelled(metric, &[&interface.name], value);
        }
    }

    /// What was asked for, in cAdvisor's terms: 0 is no limit, the weight has a default.
    fn limits(&mut self, limits: &Resources) {
        let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
        self.put(&SPEC_CPU_PERIOD, positive(limits.cpu_period_us));
        self.put(&SPEC_CPU_QUOTA, positive(limits.cpu_quota_us));
        self.put(&SPEC_CPU_SHARES, positive(limits.cpu_shares).unwrap_or(DEFAULT_SHARES));
        let memory = positive(limits.memory_limit_bytes).unwrap_or(0);
        self.put(&SPEC_MEMORY_LIMIT, memory);
        // Without a word about swap the memory limit is the limit of both.
        let swap = match limits.memory_swap_limit_bytes {
            0 => memory,
            swap => positive(swap).unwrap_or(0),
        };
        self.put(&SPEC_MEMORY_SWAP_LIMIT, swap);
        let reserved = limits.unified.get("memory.low").and_then(|low| low.parse().ok());
        self.put(&SPEC_MEMORY_RESERVATION, reserved.unwrap_or(0));
    }

    fn layer(&mut self, root: &Path, usage: Option<&model::DiskUsage>, disks: &mut disk::Devices) {
        let Some(filesystem) = disks.filesystem(root) else { return };
        let device = [filesystem.device.as_str()];
        self.labelled(&FS_USAGE, &device, usage.map(|usage| usage.used_bytes));
        self.labelled(&FS_LIMIT, &device, filesystem.bytes);
        self.labelled(&FS_INODES, &device, filesystem.inodes);
        self.labelled(&FS_INODES_FREE, &device, filesystem.inodes_free);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn values(samples: &Samples, name: &str) -> Vec<(Vec<String>, u64)> {
        let of_name = samples.0.iter().filter(|sample| sample.metric.name == name);
        of_name.map(|sample| (sample.labels.clone(), sample.value)).collect()
    }

    fn value(samples: &Samples, name: &str) -> Option<u64> {
        values(samples, name).first().map(|(_, value)| *value)
    }

    #[test]
    fn limits_are_told_in_cadvisors_terms() {
        let mut none = Samples::default();
        none.limits(&Resources::default());
        assert_eq!(value(&none, "container_spec_cpu_shares"), Some(1024));
        assert_eq!(value(&none, "container_spec_memory_limit_bytes"), Some(0));
        assert_eq!(value(&none, "container_spec_cpu_quota"), None);
        let mut some = Samples::default();
        some.limits(&Resources {
            cpu_period_us: 100_000,
            cpu_quota_us: 50_000,
            cpu_shares: 512,
            memory_limit_bytes: 64,
            ..Resources::default()
        });
        assert_eq!(value(&some, "container_spec_cpu_period"), Some(100_000));
        assert_eq!(value(&some, "container_spec_cpu_quota"), Some(50_000));
        assert_eq!(value(&some, "container_spec_cpu_shares"), Some(512));
        assert_eq!(value(&some, "container_spec_memory_swap_limit_bytes"), Some(64));
        let mut unlimited = Samples::default();
        unlimited.limits(&Resources { memory_swap_limit_bytes: -1, ..Resources::default() });
        assert_eq!(value(&unlimited, "container_spec_memory_swap_limit_bytes"), Some(0));
    }
}
