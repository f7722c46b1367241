//! Measurements of containers and pods, read from their cgroups when asked. CRI ch. stats.
//!
//! A file that is absent (a controller this host lacks) leaves its field unset; it is no error.

mod files;
mod network;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::{
    CgroupLayout, ContainerStats, CpuStats, IoStats, MemoryStats, PodStats, SwapStats, UnixNanos,
};

use self::files::{keyed, number, pressure};
use crate::blocking;
use crate::context::now;
use crate::manager::Sandboxes;
use crate::record::ContainerState;
use crate::view::{ContainerView, PodView};

/// Two samples closer than this give a rate that is mostly noise.
const RATE_OVER: Duration = Duration::from_millis(500);

/// How long one container's disk is waited for.
const MEASURED_WITHIN: Duration = Duration::from_secs(2);

/// The kernel's "no limit" on v1 is the largest multiple of a page; everything this large is.
const NO_LIMIT: u64 = 1 << 62;

/// The last processor samples, for rates.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    samples: Mutex<HashMap<String, Sample>>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: UnixNanos,
    usage_ns: u64,
    nano_cores: Option<u64>,
}

impl Rates {
    /// The rate since the last sample of `key` that is old enough.
    fn rate(&self, key: &str, at: UnixNanos, usage_ns: u64) -> Option<u64> {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = samples.get(key).copied() else {
            samples.insert(key.to_owned(), Sample { at, usage_ns, nano_cores: None });
            return None;
        };
        let elapsed = u128::try_from(at.0.saturating_sub(last.at.0)).unwrap_or(0);
        if elapsed < RATE_OVER.as_nanos() {
            return last.nano_cores;
        }
        let used = u128::from(usage_ns.saturating_sub(last.usage_ns));
        let nano_cores = u64::try_from(used * 1_000_000_000 / elapsed).ok();
        samples.insert(key.to_owned(), Sample { at, usage_ns, nano_cores });
        nano_cores
    }

    /// Forgets what no longer exists.
    pub(crate) fn retain(&self, lives: impl Fn(&str) -> bool) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.retain(|key, _| lives(key));
    }
}

impl Sandboxes {
    /// What a container uses now. Reads a dozen kernel files; blocks for microseconds.
    pub fn container_stats(&self, container: &ContainerView) -> ContainerStats {
        let mut stats = match container.record.state {
            ContainerState::Running { .. } => self.group_stats(&container.cgroup_path),
            ContainerState::Created | ContainerState::Exited(_) => ContainerStats::default(),
        };
        stats.writable_layer = container.writable.as_deref().cloned();
        stats
    }

    /// As [`Self::container_stats`], with the disk measured now instead of seconds ago. For callers
    /// that ask about one container and can wait for its disk; one that is slow is not waited for.
    pub async fn fresh_container_stats(&self, container: &ContainerView) -> ContainerStats {
        let mut stats = self.container_stats(container);
        let (cx, record) = (Arc::clone(&self.cx), Arc::clone(&container.record));
        let measured = blocking::run(move || {
            let usage = crate::usage::measure(&cx, &record)?;
            cx.index.set_writable(&record.id, usage.clone());
            Some(usage)
        });
        if let Ok(Some(usage)) = tokio::time::timeout(MEASURED_WITHIN, measured).await {
            stats.writable_layer = Some(usage);
        }
        stats
    }

    /// What a pod uses now: its parent cgroup, so that pause and overhead count.
    pub fn pod_stats(&self, pod: &PodView) -> PodStats {
        let group = self.group_stats(&pod.cgroup_parent);
        let containers = self.index().containers_of(&pod.record.id);
        let processes = containers
            .iter()
            .filter_map(|container| self.group_stats(&container.cgroup_path).processes)
            .sum::<u64>()
            + u64::from(pod.pause_pid.is_some());
        let interfaces = match pod.record.shim {
            Some(shim) if pod.record.network.is_some() && pod.is_ready() => {
                network::interfaces(shim.pid)
            }
            Some(_) | None => Vec::new(),
        };
        PodStats {
            at: now(),
            cpu: group.cpu,
            memory: group.memory,
            io: group.io,
            interfaces,
            processes,
        }
    }

    fn group_stats(&self, path: &str) -> ContainerStats {
        let layout = &self.cx.parts.host.cgroup;
        match layout {
            CgroupLayout::V2(unified) => {
                self.v2(&Path::new(&unified.mountpoint).join(path.trim_start_matches('/')), path)
            }
            CgroupLayout::V1 { .. } => self.v1(layout, path),
        }
    }

    fn v2(&self, dir: &Path, key: &str) -> ContainerStats {
        let at = now();
        let cpu_stat = keyed(&dir.join("cpu.stat"));
        let cpu = cpu_stat.get("usage_usec").map(|usec| {
            let usage_ns = usec.saturating_mul(1000);
            CpuStats {
                at,
                usage_ns,
                nano_cores: self.cx.rates.rate(key, at, usage_ns),
                pressure: pressure(&dir.join("cpu.pressure")),
            }
        });
        let stat = keyed(&dir.join("memory.stat"));
        let get = |name: &str| stat.get(name).copied().unwrap_or(0);
        let memory = number(&dir.join("memory.current")).map(|usage| {
            let working_set = usage.saturating_sub(get("inactive_file"));
            MemoryStats {
                at,
                usage_bytes: usage,
                working_set_bytes: working_set,
                available_bytes: number(&dir.join("memory.max"))
                    .filter(|limit| *limit < NO_LIMIT)
                    .map(|limit| limit.saturating_sub(working_set)),
                rss_bytes: get("anon"),
                page_faults: get("pgfault"),
                major_page_faults: get("pgmajfault"),
                pressure: pressure(&dir.join("memory.pressure")),
            }
        });
        let swap = number(&dir.join("memory.swap.current")).map(|usage_bytes| SwapStats {
            at,
            usage_bytes,
            available_bytes: number(&dir.join("memory.swap.max"))
                .map(|limit| limit.saturating_sub(usage_bytes)),
        });
        let io = pressure(&dir.join("io.pressure"))
            .map(|pressure| IoStats { at, pressure: Some(pressure) });
        let processes = number(&dir.join("pids.current"));
        ContainerStats { cpu, memory, swap, io, processes, writable_layer: None }
    }

    fn v1(&self, layout: &CgroupLayout, path: &str) -> ContainerStats {
        let at = now();
        let dir = |controller: &str| -> Option<PathBuf> {
            let hierarchy = layout.controller(controller)?;
            Some(Path::new(&hierarchy.mountpoint).join(path.trim_start_matches('/')))
        };
        let usage = dir("cpuacct").and_then(|dir| number(&dir.join("cpuacct.usage")));
        let cpu = usage.map(|usage_ns| CpuStats {
            at,
            usage_ns,
            nano_cores: self.cx.rates.rate(path, at, usage_ns),
            pressure: None,
        });
        let memory_dir = dir("memory");
        let memory = memory_dir.as_deref().and_then(|dir| v1_memory(dir, at));
        let swap = memory_dir.as_deref().and_then(|dir| v1_swap(dir, at));
        let processes = dir("pids").and_then(|dir| number(&dir.join("pids.current")));
        ContainerStats { cpu, memory, swap, io: None, processes, writable_layer: None }
    }
}

fn v1_memory(dir: &Path, at: UnixNanos) -> Option<MemoryStats> {
    let usage_bytes = number(&dir.join("memory.usage_in_bytes"))?;
    let stat = keyed(&dir.join("memory.stat"));
    let get = |name: &str| stat.get(name).copied().unwrap_or(0);
    let working_set_bytes = usage_bytes.saturating_sub(get("total_inactive_file"));
    Some(MemoryStats {
        at,
        usage_bytes,
        working_set_bytes,
        available_bytes: number(&dir.join("memory.limit_in_bytes"))
            .filter(|limit| *limit < NO_LIMIT)
            .map(|limit| limit.saturating_sub(working_set_bytes)),
        rss_bytes: get("total_rss"),
        page_faults: get("total_pgfault"),
        major_page_faults: get("total_pgmajfault"),
        pressure: None,
    })
}

/// v1 counts memory and swap together.
fn v1_swap(dir: &Path, at: UnixNanos) -> Option<SwapStats> {
    let both = number(&dir.join("memory.memsw.usage_in_bytes"))?;
    let memory = number(&dir.join("memory.usage_in_bytes"))?;
    let usage_bytes = both.saturating_sub(memory);
    let limit = |file: &str| number(&dir.join(file)).filter(|limit| *limit < NO_LIMIT);
    let available_bytes = limit("memory.memsw.limit_in_bytes")
        .zip(limit("memory.limit_in_bytes"))
        .map(|(both, memory)| both.saturating_sub(memory).saturating_sub(usage_bytes));
    Some(SwapStats { at, usage_bytes, available_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_appears_with_the_second_sample_and_is_kept_between_close_ones() {
        let rates = Rates::default();
        let second = 1_000_000_000;
        assert_eq!(rates.rate("c", UnixNanos(0), 0), None);
        assert_eq!(rates.rate("c", UnixNanos(second), 500_000_000), Some(500_000_000));
        assert_eq!(rates.rate("c", UnixNanos(second + 1), 900_000_000), Some(500_000_000));
        rates.retain(|_| false);
        assert_eq!(rates.rate("c", UnixNanos(3 * second), 1), None);
    }
}
