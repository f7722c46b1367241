//! Disk use of writable layers, measured in the background so that no reader waits for a disk.

use std::sync::Arc;
use std::time::Duration;

use model::DiskUsage;
use tokio_util::sync::CancellationToken;

use crate::blocking;
use crate::context::{Context, now};
use crate::record::ContainerRecord;

/// As often as kubelet asks.
const EVERY: Duration = Duration::from_secs(10);

/// Measures every container's layer again and again until the daemon drains.
pub(crate) async fn measure_writable_layers(cx: Arc<Context>, draining: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = draining.cancelled() => return,
            _tick = ticks.tick() => {}
        }
        let containers = cx.index.containers();
        let pods = cx.index.pods();
        cx.rates.retain(|key| {
            containers.iter().any(|container| *container.cgroup_path == *key)
                || pods.iter().any(|pod| *pod.cgroup_parent == *key)
        });
        for container in containers {
            if draining.is_cancelled() {
                return;
            }
            let cx = Arc::clone(&cx);
            blocking::run(move || {
                if let Some(usage) = measure(&cx, &container.record) {
                    cx.index.set_writable(&container.record.id, usage);
                }
            })
            .await;
        }
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
