//! Limits and requests as kubelet turns them into cgroup values and OOM preference.

use cri_api::v1;

use super::manifest::{Container, HugePages, Resources};
use super::quantity::Quantity;

const CPU_PERIOD_US: i64 = 100_000;
const MIN_QUOTA_US: i64 = 1_000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const OOM_GUARANTEED: i64 = -997;
const OOM_BEST_EFFORT: i64 = 1_000;

/// How strongly a pod's demands are met. Kubernetes' `QOSClass`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub(super) fn of<'c>(containers: impl IntoIterator<Item = &'c Container>) -> Self {
        let (mut any, mut all) = (false, true);
        for container in containers {
            let it = container.resources;
            let set = |amount: Option<super::quantity::Quantity>| {
                amount.filter(|amount| amount.milli() > 0)
            };
            let (cpu, memory) = (set(it.cpu_limit), set(it.memory_limit));
            any |= cpu.is_some()
                || memory.is_some()
                || set(it.cpu_request).is_some()
                || set(it.memory_request).is_some();
            // A request that is not given equals the limit.
            let equal = it.cpu_request.is_none_or(|request| Some(request) == cpu)
                && it.memory_request.is_none_or(|request| Some(request) == memory);
            all &= cpu.is_some() && memory.is_some() && equal;
        }
        match (any, all) {
            (true, true) => Self::Guaranteed,
            (true, false) => Self::Burstable,
            (false, _) => Self::BestEffort,
        }
    }
}

pub(super) fn convert(
    resources: Resources,
    qos: Qos,
    memory_capacity: u64,
) -> v1::LinuxContainerResources {
    let cpu_limit = resources.cpu_limit.map_or(0, super::quantity::Quantity::milli);
    let cpu_request = resources.cpu_request.map_or(cpu_limit, super::quantity::Quantity::milli);
    let memory_limit = resources.memory_limit.map_or(0, super::quantity::Quantity::whole);
    let memory_request =
        resources.memory_request.map_or(memory_limit, super::quantity::Quantity::whole);
    v1::LinuxContainerResources {
        cpu_period: CPU_PERIOD_US,
        cpu_quota: quota(cpu_limit),
        cpu_shares: shares(cpu_request),
        memory_limit_in_bytes: memory_limit,
        oom_score_adj: oom_score(qos, memory_request, memory_capacity),
        ..Default::default()
    }
}

/// Limits of pages as the kernel's files name their sizes.
pub(super) fn huge_pages(limits: &[HugePages]) -> Vec<v1::HugepageLimit> {
    let one = |limit: &HugePages| {
        Some(v1::HugepageLimit {
            page_size: page_name(limit.page)?,
            limit: u64::try_from(limit.limit.whole()).ok()?,
        })
    };
    limits.iter().filter_map(one).collect()
}

/// `2MB` of 2Mi; none of what is no page size.
pub(super) fn page_name(page: Quantity) -> Option<String> {
    let bytes = u64::try_from(page.whole()).ok()?;
    if !bytes.is_power_of_two() || page.milli() % 1000 != 0 {
        return None;
    }
    let (shift, unit) = match bytes.trailing_zeros() {
        10..20 => (10, "KB"),
        20..30 => (20, "MB"),
        30..40 => (30, "GB"),
        _ => return None,
    };
    Some(format!("{}{unit}", bytes >> shift))
}

fn quota(milli_cpu: i64) -> i64 {
    if milli_cpu == 0 {
        return 0;
    }
    milli_cpu.saturating_mul(CPU_PERIOD_US / 1000).max(MIN_QUOTA_US)
}

fn shares(milli_cpu: i64) -> i64 {
    (milli_cpu.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// The more of the machine's memory a burstable container asked for, the later it is killed.
fn oom_score(qos: Qos, memory_request: i64, memory_capacity: u64) -> i64 {
    match qos {
        Qos::Guaranteed => OOM_GUARANTEED,
        Qos::BestEffort => OOM_BEST_EFFORT,
        Qos::Burstable => {
            let part = i128::from(memory_request) * 1000 / i128::from(memory_capacity.max(1));
            let score = 1000 - i64::try_from(part).unwrap_or(1000);
            score.clamp(OOM_BEST_EFFORT + OOM_GUARANTEED, OOM_BEST_EFFORT - 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_becomes_shares_and_quota() {
        for (milli, expected) in [(0, 2), (1, 2), (100, 102), (1000, 1024), (2500, 2560)] {
            assert_eq!(shares(milli), expected, "{milli}");
        }
        assert_eq!(shares(i64::MAX), MAX_SHARES);
        for (milli, expected) in [(0, 0), (5, 1000), (500, 50_000), (2000, 200_000)] {
            assert_eq!(quota(milli), expected, "{milli}");
        }
    }

    #[test]
    fn who_asked_for_more_memory_is_killed_later() {
        let gib = 1 << 30;
        assert_eq!(oom_score(Qos::Guaranteed, gib, 4 << 30), -997);
        assert_eq!(oom_score(Qos::BestEffort, 0, 4 << 30), 1000);
        assert_eq!(oom_score(Qos::Burstable, gib, 4 << 30), 750);
        assert_eq!(oom_score(Qos::Burstable, 0, 4 << 30), 999);
        assert_eq!(oom_score(Qos::Burstable, gib * 100, 4 << 30), 3);
    }
}
