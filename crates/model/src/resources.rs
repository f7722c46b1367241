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
