//! `LinuxContainerResources`.

use cri_api::v1;
use model::{HugepageLimit, Resources};

pub(crate) fn from_cri(resources: v1::LinuxContainerResources) -> Resources {
    Resources {
        cpu_period_us: resources.cpu_period,
        cpu_quota_us: resources.cpu_quota,
        cpu_shares: resources.cpu_shares,
        memory_limit_bytes: resources.memory_limit_in_bytes,
        memory_swap_limit_bytes: resources.memory_swap_limit_in_bytes,
        oom_score_adj: resources.oom_score_adj,
        cpuset_cpus: resources.cpuset_cpus,
        cpuset_mems: resources.cpuset_mems,
        hugepage_limits: resources
            .hugepage_limits
            .into_iter()
            .map(|limit| HugepageLimit { page_size: limit.page_size, limit_bytes: limit.limit })
            .collect(),
        unified: resources.unified,
    }
}

pub(crate) fn to_cri(resources: &Resources) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: resources.cpu_period_us,
        cpu_quota: resources.cpu_quota_us,
        cpu_shares: resources.cpu_shares,
        memory_limit_in_bytes: resources.memory_limit_bytes,
        memory_swap_limit_in_bytes: resources.memory_swap_limit_bytes,
        oom_score_adj: resources.oom_score_adj,
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        hugepage_limits: resources
            .hugepage_limits
            .iter()
            .map(|limit| v1::HugepageLimit {
                page_size: limit.page_size.clone(),
                limit: limit.limit_bytes,
            })
            .collect(),
        unified: resources.unified.clone(),
    }
}
