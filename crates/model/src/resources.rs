//! Resource limits. CRI: `LinuxContainerResources`; 0 and empty mean "not set".

use crate::StringMap;

/// A limit for one size of huge page.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct HugepageLimit {
    /// `2MB`, `1GB`, …
    pub page_size: String,
    /// Bytes.
    pub limit_bytes: u64,
}

/// Limits and shares of one container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Resources {
    /// CFS period, microseconds.
    pub cpu_period_us: i64,
    /// CFS quota per period, microseconds; -1: unlimited.
    pub cpu_quota_us: i64,
    /// Relative weight, 2…262144.
    pub cpu_shares: i64,
    /// Memory limit, bytes.
    pub memory_limit_bytes: i64,
    /// Memory plus swap limit, bytes; -1: unlimited.
    pub memory_swap_limit_bytes: i64,
    /// OOM killer adjustment, always written.
    pub oom_score_adj: i64,
    /// CPUs, in the kernel's list form.
    pub cpuset_cpus: String,
    /// Memory nodes, in the kernel's list form.
    pub cpuset_mems: String,
    /// Huge page limits.
    pub hugepage_limits: Vec<HugepageLimit>,
    /// Raw cgroup v2 files and values.
    pub unified: StringMap,
}

impl Resources {
    /// What holds once `change` is applied. CRI: what a change leaves at 0 or empty stays as it is.
    ///
    /// A swap limit that was equal to the memory limit follows it. The OOM adjustment belongs to
    /// processes that run already, and stays.
    #[must_use]
    pub fn changed_by(&self, change: &Self) -> Self {
        let number = |old: i64, new: i64| if new == 0 { old } else { new };
        let text = |old: &String, new: &String| if new.is_empty() { old } else { new }.clone();
        let memory = number(self.memory_limit_bytes, change.memory_limit_bytes);
        let tied = self.memory_swap_limit_bytes == self.memory_limit_bytes;
        let swap = if tied && self.memory_swap_limit_bytes != 0 {
            memory
        } else {
            self.memory_swap_limit_bytes
        };
        let sizes = |size: &str| change.hugepage_limits.iter().any(|new| new.page_size == size);
        let kept = self.hugepage_limits.iter().filter(|old| !sizes(&old.page_size));
        let files = self.unified.iter().chain(&change.unified);
        Self {
            cpu_period_us: number(self.cpu_period_us, change.cpu_period_us),
            cpu_quota_us: number(self.cpu_quota_us, change.cpu_quota_us),
            cpu_shares: number(self.cpu_shares, change.cpu_shares),
            memory_limit_bytes: memory,
            memory_swap_limit_bytes: number(swap, change.memory_swap_limit_bytes),
            oom_score_adj: self.oom_score_adj,
            cpuset_cpus: text(&self.cpuset_cpus, &change.cpuset_cpus),
            cpuset_mems: text(&self.cpuset_mems, &change.cpuset_mems),
            hugepage_limits: kept.chain(&change.hugepage_limits).cloned().collect(),
            unified: files.map(|(file, value)| (file.clone(), value.clone())).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_change_does_not_name_stays() {
        let old = Resources {
            cpu_quota_us: 50_000,
            cpuset_cpus: "0".into(),
            memory_limit_bytes: 64,
            oom_score_adj: 7,
            ..Resources::default()
        };
        let change = Resources { memory_limit_bytes: 96, ..Resources::default() };
        let new = old.changed_by(&change);
        assert_eq!(new, Resources { memory_limit_bytes: 96, ..old.clone() });
        assert_eq!(old.changed_by(&Resources::default()), old);
    }

    #[test]
    fn a_swap_limit_equal_to_the_memory_limit_follows_it() {
        let limits = |memory, swap| Resources {
            memory_limit_bytes: memory,
            memory_swap_limit_bytes: swap,
            ..Resources::default()
        };
        assert_eq!(limits(64, 64).changed_by(&limits(96, 0)), limits(96, 96));
        assert_eq!(limits(64, 128).changed_by(&limits(96, 0)), limits(96, 128));
        assert_eq!(limits(64, 64).changed_by(&limits(96, 100)), limits(96, 100));
    }

    #[test]
    fn a_page_sizes_limit_is_replaced_by_name() {
        let huge = |limits: &[(&str, u64)]| Resources {
            hugepage_limits: limits
                .iter()
                .map(|(size, bytes)| HugepageLimit {
                    page_size: (*size).into(),
                    limit_bytes: *bytes,
                })
                .collect(),
            ..Resources::default()
        };
        let new = huge(&[("1GB", 1), ("2MB", 2)]).changed_by(&huge(&[("2MB", 3)]));
        assert_eq!(new, huge(&[("1GB", 1), ("2MB", 3)]));
    }
}
