//! Values for the unified hierarchy.

use launch::plan::CgroupSetting;
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::{block_io, page_size, rdma, required, wanted, weight::weight_of_shares};
use crate::{Note, PlanError};

/// The kernel's default CFS period, microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// What to write in a unified hierarchy that offers these controllers.
pub(super) fn settings(
    resources: &LinuxResources,
    controllers: &[String],
) -> Result<Vec<CgroupSetting>, PlanError> {
    let offers = |name: &str| controllers.iter().any(|controller| controller == name);
    let mut settings = Vec::new();
    if offers("cpu") {
        settings.extend(resources.cpu().iter().flat_map(cpu));
    }
    if offers("cpuset") {
        settings.extend(resources.cpu().iter().flat_map(cpuset));
    }
    if offers("memory")
        && let Some(limits) = resources.memory()
    {
        settings.extend(memory(limits)?);
    }
    if offers("pids")
        && let Some(pids) = resources.pids()
    {
        let limit = pids.limit();
        settings.extend((limit != 0).then(|| required("pids.max", or_max(limit))));
    }
    if offers("hugetlb") {
        settings.extend(hugetlb(resources)?);
    }
    if offers("io") {
        settings.extend(resources.block_io().iter().flat_map(block_io::v2));
    }
    if offers("rdma") {
        settings.extend(rdma(resources));
    }
    settings.extend(unified(resources)?);
    Ok(settings)
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

/// The burst goes last: it is bounded by the quota.
fn cpu(cpu: &LinuxCpu) -> Vec<CgroupSetting> {
    let mut settings = Vec::new();
    let idle = cpu.idle().unwrap_or(0) != 0;
    settings.extend(cpu.idle().map(|idle| required("cpu.idle", idle)));
    // The kernel refuses a weight for an idle group.
    let shares = cpu.shares().filter(|shares| *shares != 0 && !idle);
    settings.extend(shares.map(|shares| required("cpu.weight", weight_of_shares(shares))));
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    if quota.is_some() || period.is_some() {
        let quota = quota.map_or_else(|| "max".into(), or_max);
        let period = period.unwrap_or(DEFAULT_PERIOD);
        settings.push(required("cpu.max", format!("{quota} {period}")));
    }
    settings.extend(cpu.burst().map(|burst| required("cpu.max.burst", burst)));
    settings
}

fn cpuset(cpu: &LinuxCpu) -> Vec<CgroupSetting> {
    let list = |value: &Option<String>| value.clone().filter(|list| !list.is_empty());
    let mut settings = Vec::new();
    settings.extend(list(cpu.cpus()).map(|v| required("cpuset.cpus", v)));
    settings.extend(list(cpu.mems()).map(|v| required("cpuset.mems", v)));
    settings
}

/// A spec limits memory and swap together, v2 limits swap alone.
fn memory(memory: &LinuxMemory) -> Result<Vec<CgroupSetting>, PlanError> {
    super::check_memory(memory)?;
    let set = |value: Option<i64>| value.filter(|value| *value != 0);
    let limit = set(memory.limit());
    let mut settings = Vec::new();
    // Files of kernels without swap accounting are missing.
    if let Some(total) = set(memory.swap()) {
        settings.push(wanted("memory.swap.max", swap_alone(total, limit)));
    }
    settings.extend(limit.map(|limit| required("memory.max", or_max(limit))));
    settings.extend(set(memory.reservation()).map(|v| required("memory.low", or_max(v))));
    Ok(settings)
}

fn swap_alone(total: i64, limit: Option<i64>) -> String {
    match limit {
        Some(limit) if total >= 0 => (total - limit).to_string(),
        Some(_) | None => "max".into(),
    }
}

fn hugetlb(resources: &LinuxResources) -> Result<Vec<CgroupSetting>, PlanError> {
    let mut settings = Vec::new();
    for limit in resources.hugepage_limits().iter().flatten() {
        let size = page_size(limit.page_size())?;
        let file = format!("hugetlb.{size}.max");
        let value = or_max(limit.limit());
        settings.push(if limit.limit() > 0 {
            required(file, &value)
        } else {
            wanted(file, &value)
        });
        settings.push(wanted(format!("hugetlb.{size}.rsvd.max"), value));
    }
    Ok(settings)
}

/// Raw files, by name.
fn unified(resources: &LinuxResources) -> Result<Vec<CgroupSetting>, PlanError> {
    let mut settings = Vec::new();
    for (file, value) in resources.unified().iter().flatten() {
        // `cgroup.procs` and its like would move processes, not limit them.
        let core = file.starts_with("cgroup.");
        if file.is_empty() || file.contains(['/', '\0']) || !file.contains('.') || core {
            let field = "linux.resources.unified";
            return Err(PlanError::invalid(field, file, "a file of a controller"));
        }
        settings.push(required(file.clone(), value));
    }
    settings.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(settings)
}

pub(super) fn limits_memory(memory: &LinuxMemory) -> bool {
    let set = |value: Option<i64>| value.is_some_and(|value| value != 0);
    set(memory.limit()) || set(memory.swap()) || set(memory.reservation())
}

pub(super) fn limits_cpu(cpu: &LinuxCpu) -> bool {
    cpu.shares().is_some_and(|v| v != 0)
        || cpu.quota().is_some_and(|v| v != 0)
        || cpu.period().is_some_and(|v| v != 0)
        || cpu.burst().is_some()
        || cpu.idle().is_some()
        || cpu.realtime_runtime().is_some()
        || cpu.realtime_period().is_some()
}

pub(super) fn limits_cpuset(cpu: &LinuxCpu) -> bool {
    let filled = |list: &Option<String>| list.as_ref().is_some_and(|list| !list.is_empty());
    filled(cpu.cpus()) || filled(cpu.mems())
}

/// v1 settings that v2 has no file for.
pub(super) fn without_counterpart(resources: &LinuxResources) -> Vec<Note> {
    let memory = resources.memory().as_ref();
    let cpu = resources.cpu().as_ref();
    let fields = [
        ("linux.resources.memory.swappiness", memory.is_some_and(|m| m.swappiness().is_some())),
        (
            "linux.resources.memory.disableOOMKiller",
            memory.is_some_and(|m| m.disable_oom_killer().unwrap_or(false)),
        ),
        ("linux.resources.memory.kernelTCP", memory.is_some_and(|m| m.kernel_tcp().is_some())),
        (
            "linux.resources.cpu.realtimeRuntime",
            cpu.is_some_and(|c| c.realtime_runtime().is_some() || c.realtime_period().is_some()),
        ),
    ];
    fields
        .into_iter()
        .filter(|(_, set)| *set)
        .map(|(field, _)| Note::NoCounterpart { field })
        .collect()
}
