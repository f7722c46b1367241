//! Measurements of containers and pods. CRI ch. stats.
//!
//! What the kernel counts is read from its small files when asked, off the async workers. What
//! needs time (rates, disk use) comes from the background, and is never waited for.

mod files;
mod group;
pub(crate) mod metrics;
mod network;
mod rates;
mod sandboxed;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use model::{ContainerStats, PodStats, SandboxId};

pub(crate) use self::group::Group;
pub(crate) use self::rates::Rates;
use self::sandboxed::Told;
use crate::blocking;
use crate::context::{Context, now};
use crate::manager::Sandboxes;
use crate::record::ContainerState;
use crate::view::{ContainerView, PodView};

/// A container and what it uses.
#[derive(Debug, Clone)]
pub struct ContainerUsage {
    /// The container.
    pub container: Arc<ContainerView>,
    /// What it uses; one that does not run has its layer only.
    pub stats: ContainerStats,
}

/// A pod and what it uses.
#[derive(Debug, Clone)]
pub struct PodUsage {
    /// The pod.
    pub pod: Arc<PodView>,
    /// Its total: that of its parent cgroup, so that pause and overhead count.
    pub stats: PodStats,
    /// Its containers.
    pub containers: Vec<ContainerUsage>,
}

impl Sandboxes {
    /// What containers use now.
    pub async fn container_usage(
        &self,
        containers: Vec<Arc<ContainerView>>,
    ) -> Vec<ContainerUsage> {
        let cx = Arc::clone(&self.cx);
        blocking::run(move || {
            let told = Told::by_runtimes(&cx, containers.iter());
            containers.into_iter().map(|view| of_container(&cx, view, &told)).collect()
        })
        .await
    }

    /// What pods use now, with their containers.
    pub async fn pod_usage(&self, pods: Vec<Arc<PodView>>) -> Vec<PodUsage> {
        let cx = Arc::clone(&self.cx);
        blocking::run(move || {
            let mut containers = by_pod(&cx);
            let wanted = pods.iter().filter_map(|pod| containers.get(&pod.record.id)).flatten();
            let told = Told::by_runtimes(&cx, wanted);
            let of_pod = |pod: Arc<PodView>| {
                let containers = containers.remove(&pod.record.id).unwrap_or_default();
                usage_of_pod(&cx, pod, containers, &told)
            };
            pods.into_iter().map(of_pod).collect()
        })
        .await
    }

    /// Asks for a container's layer to be measured before its turn. Does not wait for it.
    pub fn measure_soon(&self, container: &ContainerView) {
        self.cx.sampler.want(container.record.id.clone());
    }
}

/// Every container under its pod.
pub(crate) fn by_pod(cx: &Context) -> HashMap<SandboxId, Vec<Arc<ContainerView>>> {
    let mut sorted: HashMap<SandboxId, Vec<Arc<ContainerView>>> = HashMap::new();
    for container in cx.index.containers() {
        sorted.entry(container.record.sandbox.clone()).or_default().push(container);
    }
    sorted
}

fn of_container(cx: &Context, container: Arc<ContainerView>, told: &Told) -> ContainerUsage {
    let mut stats = match container.record.state {
        ContainerState::Running { .. } => match told.of(&container.record.id) {
            Some(stats) => with_rate(cx, &container.cgroup_path, stats),
            None => of_group(cx, &container.cgroup_path),
        },
        ContainerState::Created | ContainerState::Exited(_) => ContainerStats::default(),
    };
    stats.writable_layer = container.writable.as_deref().cloned();
    ContainerUsage { container, stats }
}

fn usage_of_pod(
    cx: &Context,
    pod: Arc<PodView>,
    containers: Vec<Arc<ContainerView>>,
    told: &Told,
) -> PodUsage {
    let group = of_group(cx, &pod.cgroup_parent);
    let containers: Vec<ContainerUsage> =
        containers.into_iter().map(|view| of_container(cx, view, told)).collect();
    let processes = containers.iter().filter_map(|usage| usage.stats.processes).sum::<u64>()
        + u64::from(pod.pause_pid.is_some());
    let stats = PodStats {
        at: now(),
        cpu: group.cpu,
        memory: group.memory,
        io: group.io,
        interfaces: network::of_pod(&pod),
        processes,
    };
    PodUsage { pod, stats, containers }
}

fn of_group(cx: &Context, path: &str) -> ContainerStats {
    with_rate(cx, path, Group { layout: &cx.parts.host.cgroup, path }.stats(now()))
}

fn with_rate(cx: &Context, path: &str, mut stats: ContainerStats) -> ContainerStats {
    if let Some(cpu) = &mut stats.cpu {
        cpu.nano_cores = cx.sampler.rates.rate(path, Instant::now(), cpu.usage_ns);
    }
    stats
}
