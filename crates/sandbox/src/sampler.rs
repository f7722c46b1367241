//! What is measured in the background, so that no reader waits for it: processor samples, and the
//! disk use of writable layers. One task of the daemon, which stays cheap by itself: it rests in
//! proportion to what its work costs, and leaves containers alone that have not run meanwhile.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::{ContainerId, DiskUsage};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::blocking;
use crate::context::{Context, now};
use crate::record::{ContainerRecord, ContainerState};
use crate::stats::{Group, Rates};
use crate::view::ContainerView;

/// As often as kubelet asks.
const EVERY: Duration = Duration::from_secs(10);

/// However much there is to sample.
const AT_LEAST_EVERY: Duration = Duration::from_secs(60);

/// A round of samples is followed by this many times its duration of rest: 0.05 % of one core.
const REST: u32 = 2000;

/// A large layer is measured less often: it takes at most 1 % of the time.
const LAYER_REST: u32 = 100;

/// However large it is.
const LAYER_AT_LEAST_EVERY: Duration = Duration::from_secs(15 * 60);

/// Somebody who asks for one container's layer again and again gets a new number this often.
const WANTED_EVERY: Duration = Duration::from_secs(1);

/// The background's results, and what it is asked to do first.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    pub(crate) rates: Rates,
    wanted: Mutex<BTreeSet<ContainerId>>,
    wake: Notify,
}

impl Sampler {
    /// Measures this container's layer before its turn.
    pub(crate) fn want(&self, id: ContainerId) {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        self.wake.notify_one();
    }

    fn take_wanted(&self) -> BTreeSet<ContainerId> {
        std::mem::take(&mut self.wanted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Samples again and again until the daemon drains.
pub(crate) async fn run(cx: Arc<Context>, draining: CancellationToken) {
    let mut layers = Layers::default();
    let mut next = Instant::now();
    loop {
        let is_round = tokio::select! {
            () = draining.cancelled() => return,
            () = tokio::time::sleep_until(next) => true,
            () = cx.sampler.wake.notified() => false,
        };
        let usages = if is_round {
            let (usages, cost) = sample_all(&cx).await;
            next = Instant::now() + (cost * REST).clamp(EVERY, AT_LEAST_EVERY);
            usages
        } else {
            HashMap::new()
        };
        let wanted = cx.sampler.take_wanted();
        let containers = cx.index.containers();
        layers.retain(&containers);
        for container in containers {
            if draining.is_cancelled() {
                return;
            }
            let id = container.record.id.clone();
            let due = if is_round {
                layers.is_due(&container, usages.get(&id).copied())
            } else {
                wanted.contains(&id) && layers.may(&id, WANTED_EVERY)
            };
            if due {
                layers.measure(&cx, container, usages.get(&id).copied()).await;
            }
        }
    }
}

/// Takes a processor sample of every running container and every READY pod; what containers have
/// used, and how long it took.
async fn sample_all(cx: &Arc<Context>) -> (HashMap<ContainerId, u64>, Duration) {
    let cx = Arc::clone(cx);
    blocking::run(move || {
        let begun = std::time::Instant::now();
        let layout = &cx.parts.host.cgroup;
        let sample = |path: &Arc<str>| {
            let usage = Group { layout, path }.cpu_usage_ns()?;
            cx.sampler.rates.sample(path, std::time::Instant::now(), usage);
            Some(usage)
        };
        let (containers, pods) = (cx.index.containers(), cx.index.pods());
        let of_containers = containers.iter().map(|container| &*container.cgroup_path);
        let lives: HashSet<&str> =
            of_containers.chain(pods.iter().map(|pod| &*pod.cgroup_parent)).collect();
        cx.sampler.rates.retain(|key| lives.contains(key));
        let running = |view: &&Arc<ContainerView>| {
            matches!(view.record.state, ContainerState::Running { .. })
        };
        let usages = containers
            .iter()
            .filter(running)
            .filter_map(|view| Some((view.record.id.clone(), sample(&view.cgroup_path)?)))
            .collect();
        for pod in pods.iter().filter(|pod| pod.is_ready()) {
            sample(&pod.cgroup_parent);
        }
        (usages, begun.elapsed())
    })
    .await
}

/// What is known about each layer's last measurement.
#[derive(Debug, Default)]
struct Layers(HashMap<ContainerId, Measured>);

#[derive(Debug, Clone, Copy)]
struct Measured {
    at: Instant,
    cost: Duration,
    /// Processor time its container had used by then.
    usage: Option<u64>,
    /// Measured again after its container had stopped changing: what is written late is in it.
    settled: bool,
}

impl Layers {
    fn retain(&mut self, containers: &[Arc<ContainerView>]) {
        let lives: BTreeSet<&ContainerId> = containers.iter().map(|view| &view.record.id).collect();
        self.0.retain(|id, _| lives.contains(id));
    }

    /// Whether the last measurement is old enough.
    fn may(&self, id: &ContainerId, every: Duration) -> bool {
        self.0.get(id).is_none_or(|last| {
            let rest = (last.cost * LAYER_REST).clamp(every, LAYER_AT_LEAST_EVERY);
            last.at.elapsed() >= rest
        })
    }

    /// Whether a container may have written since it was measured.
    fn is_due(&self, view: &ContainerView, usage: Option<u64>) -> bool {
        let Some(last) = self.0.get(&view.record.id) else { return true };
        let unchanged = match view.record.state {
            ContainerState::Created | ContainerState::Exited(_) => last.usage.is_none(),
            // Who has not run has not written.
            ContainerState::Running { .. } => usage.is_some() && usage == last.usage,
        };
        // Half a round: a round that is a little early still counts.
        !(unchanged && last.settled) && self.may(&view.record.id, EVERY / 2)
    }

    async fn measure(&mut self, cx: &Arc<Context>, view: Arc<ContainerView>, usage: Option<u64>) {
        let id = view.record.id.clone();
        let at = Instant::now();
        let cx = Arc::clone(cx);
        blocking::run(move || {
            if let Some(usage) = measure(&cx, &view.record) {
                cx.index.set_writable(&view.record.id, usage);
            }
        })
        .await;
        let settled = self.0.get(&id).is_some_and(|last| last.usage == usage);
        self.0.insert(id, Measured { at, cost: at.elapsed(), usage, settled });
    }
}

/// What a container's own layer takes up; `None` when it was removed meanwhile. Blocking.
pub(crate) fn measure(cx: &Context, record: &ContainerRecord) -> Option<DiskUsage> {
    let dir = cx.paths().container(&record.sandbox, &record.id);
    match snapshot::ContainerRoot::usage(&dir) {
        Ok((used_bytes, inodes_used)) => Some(DiskUsage {
            at: now(),
            mountpoint: cx.paths().root().to_string_lossy().into_owned(),
            used_bytes,
            inodes_used,
        }),
        // The next round says so too, if it is still there.
        Err(error) => {
            let error = crate::error::chain(&error);
            tracing::debug!(container = %record.id, error, "layer not measured");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::test_view;
    use model::UnixNanos;

    fn running() -> ContainerState {
        ContainerState::Running { pid: 2, started_at: UnixNanos(1) }
    }

    fn known(id: &ContainerId, usage: Option<u64>, settled: bool) -> Layers {
        let at = Instant::now().checked_sub(EVERY).unwrap();
        let measured = Measured { at, cost: Duration::ZERO, usage, settled };
        Layers(HashMap::from([(id.clone(), measured)]))
    }

    #[test]
    fn who_has_not_run_is_measured_once_more_and_then_left_alone() {
        let view = test_view(running());
        let id = &view.record.id;
        assert!(Layers::default().is_due(&view, Some(5)), "never measured");
        assert!(known(id, Some(4), true).is_due(&view, Some(5)), "it has run");
        assert!(known(id, Some(5), false).is_due(&view, Some(5)), "what was written late");
        assert!(!known(id, Some(5), true).is_due(&view, Some(5)));
        assert!(known(id, None, true).is_due(&view, None), "nobody counts: it may have run");
    }

    #[test]
    fn who_does_not_run_any_more_is_measured_to_the_end_and_then_left_alone() {
        let view = test_view(ContainerState::Created);
        let id = &view.record.id;
        assert!(known(id, Some(5), true).is_due(&view, None), "it has run since");
        assert!(known(id, None, false).is_due(&view, None));
        assert!(!known(id, None, true).is_due(&view, None));
    }

    #[test]
    fn a_large_layer_is_measured_less_often() {
        let view = test_view(running());
        let mut layers = known(&view.record.id, Some(1), false);
        assert!(layers.may(&view.record.id, WANTED_EVERY));
        if let Some(last) = layers.0.get_mut(&view.record.id) {
            last.cost = Duration::from_secs(1);
        }
        assert!(!layers.may(&view.record.id, WANTED_EVERY));
        assert!(!layers.is_due(&view, Some(2)));
    }
}
