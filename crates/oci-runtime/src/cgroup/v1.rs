//! Values for the controllers of v1 hierarchies.

use launch::plan::CgroupSetting;
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::{block_io, page_size, rdma, required, wanted};
use crate::PlanError;

const MEMORY: &str = "memory.limit_in_bytes";
const MEMORY_AND_SWAP: &str = "memory.memsw.limit_in_bytes";

/// What to write in a hierarchy with these controllers.
pub(super) fn settings(
    resources: &LinuxResources,
    controllers: &[String],
) -> Result<Vec<CgroupSetting>, PlanError> {
    let mut settings = Vec::new();
    for controller in controllers {
        match controller.as_str() {
            "cpu" => settings.extend(resources.cpu().iter().flat_map(cpu)),
            "cpuset" => settings.extend(resources.cpu().iter().flat_map(cpuset)),
            "memory" => {
                if let Some(limits) = resources.memory() {
                    settings.extend(memory(limits)?);
                }
            }
            "blkio" => settings.extend(resources.block_io().iter().flat_map(block_io::v1)),
            "pids" => settings.extend(resources.pids().iter().flat_map(|p| pids(p.limit()))),
            "hugetlb" => settings.extend(hugetlb(resources)?),
            "rdma" => settings.extend(rdma(resources)),
            "net_cls" | "net_prio" => settings.extend(network(resources, controller)),
            _ => {}
        }
    }
    Ok(settings)
}

/// The period goes before the quota: a quota must make sense for the period in force. Real-time
/// periods likewise. Bursts go last, they are bounded by the quota.
fn cpu(cpu: &LinuxCpu) -> Vec<CgroupSetting> {
    let mut settings = Vec::new();
    settings.extend(cpu.idle().map(|v| required("cpu.idle", v)));
    // The kernel refuses them for an idle group.
    let shares = cpu.shares().filter(|v| *v != 0 && cpu.idle().unwrap_or(0) == 0);
    settings.extend(shares.map(|v| required("cpu.shares", v)));
    settings.extend(cpu.realtime_period().map(|v| required("cpu.rt_period_us", v)));
    settings.extend(cpu.realtime_runtime().map(|v| required("cpu.rt_runtime_us", v)));
    settings.extend(cpu.period().filter(|v| *v != 0).map(|v| required("cpu.cfs_period_us", v)));
    settings.extend(cpu.quota().filter(|v| *v != 0).map(|v| required("cpu.cfs_quota_us", v)));
    settings.extend(cpu.burst().map(|v| required("cpu.cfs_burst_us", v)));
    settings
}

fn cpuset(cpu: &LinuxCpu) -> Vec<CgroupSetting> {
    let list = |value: &Option<String>| value.clone().filter(|list| !list.is_empty());
    let mut settings = Vec::new();
    settings.extend(list(cpu.cpus()).map(|v| required("cpuset.cpus", v)));
    settings.extend(list(cpu.mems()).map(|v| required("cpuset.mems", v)));
    settings
}

/// In a new group both limits are infinite, so memory goes before memory+swap, which may never be
/// the smaller. Kernels without swap accounting lack the latter file.
fn memory(memory: &LinuxMemory) -> Result<Vec<CgroupSetting>, PlanError> {
    let mut settings = Vec::new();
    let set = |value: Option<i64>| value.filter(|value| *value != 0);
    super::check_memory(memory)?;
    settings.extend(set(memory.limit()).map(|v| required(MEMORY, v)));
    settings.extend(set(memory.swap()).map(|v| wanted(MEMORY_AND_SWAP, v)));
    settings.extend(set(memory.reservation()).map(|v| required("memory.soft_limit_in_bytes", v)));
    settings.extend(set(memory.kernel_tcp()).map(|v| wanted("memory.kmem.tcp.limit_in_bytes", v)));
    settings.extend(memory.swappiness().map(|v| required("memory.swappiness", v)));
    let killer_off = memory.disable_oom_killer().unwrap_or(false);
    settings.extend(killer_off.then(|| required("memory.oom_control", 1)));
    Ok(settings)
}

/// Whether `new` allows more memory than `current`.
pub(super) fn memory_grows(current: Option<&LinuxResources>, new: &LinuxResources) -> bool {
    let limit = |resources: &LinuxResources| {
        let limit = resources.memory().as_ref().and_then(LinuxMemory::limit);
        limit.filter(|limit| *limit > 0)
    };
    match (current.and_then(limit), limit(new)) {
        (Some(current), Some(new)) => new > current,
        (Some(_), None) => true,
        (None, Some(_) | None) => false,
    }
}

/// Makes room for a larger memory limit.
pub(super) fn swap_limit_first(settings: &mut [CgroupSetting]) {
    let at = |file: &str| settings.iter().position(|setting| setting.file == file);
    if let (Some(memory), Some(swap)) = (at(MEMORY), at(MEMORY_AND_SWAP))
        && memory < swap
    {
        settings.swap(memory, swap);
    }
}

/// 0 was "not set" for years and still is for most writers of specs.
fn pids(limit: i64) -> Option<CgroupSetting> {
    match limit {
        0 => None,
        limit if limit < 0 => Some(required("pids.max", "max")),
        limit => Some(required("pids.max", limit)),
    }
}

/// Zeros come for every page size kubelet knows; a size this kernel lacks cannot be used anyway.
fn hugetlb(resources: &LinuxResources) -> Result<Vec<CgroupSetting>, PlanError> {
    let mut settings = Vec::new();
    for limit in resources.hugepage_limits().iter().flatten() {
        let size = page_size(limit.page_size())?;
        let file = format!("hugetlb.{size}.limit_in_bytes");
        let value = limit.limit();
        settings.push(if value > 0 { required(file, value) } else { wanted(file, value) });
        settings.push(wanted(format!("hugetlb.{size}.rsvd.limit_in_bytes"), value));
    }
    Ok(settings)
}

fn network(resources: &LinuxResources, controller: &str) -> Vec<CgroupSetting> {
    let Some(network) = resources.network() else { return Vec::new() };
    let mut settings = Vec::new();
    if controller == "net_cls" {
        settings.extend(network.class_id().map(|id| required("net_cls.classid", id)));
    } else {
        let line = |p: &oci_spec::runtime::LinuxInterfacePriority| {
            required("net_prio.ifpriomap", format!("{} {}", p.name(), p.priority()))
        };
        settings.extend(network.priorities().iter().flatten().map(line));
    }
    settings
}
