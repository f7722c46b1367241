//! `linux.resources`: limits; 0 and empty mean "not set".

use model::Resources;
use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources};

use super::devices;
use crate::{ContainerInput, HostFacts, SpecError};

pub(super) fn resources(input: &ContainerInput<'_>) -> Result<LinuxResources, SpecError> {
    let mut resources = limits(&input.config.resources, input.host)?;
    resources.set_devices(Some(devices::rules(input)?));
    Ok(resources)
}

/// Refuses what is no limit on any host.
pub(super) fn check(limits: &Resources) -> Result<(), SpecError> {
    for (field, value) in [
        ("cpu_quota", limits.cpu_quota_us),
        ("memory_limit_in_bytes", limits.memory_limit_bytes),
        ("memory_swap_limit_in_bytes", limits.memory_swap_limit_bytes),
    ] {
        if value < -1 {
            return Err(SpecError::invalid(field, value, "-1 for no limit, or 0 or more"));
        }
    }
    for (field, list) in
        [("cpuset_cpus", &limits.cpuset_cpus), ("cpuset_mems", &limits.cpuset_mems)]
    {
        if !list.is_empty() && !list.split(',').all(is_range) {
            let want = "numbers and ranges such as 0-3,8";
            return Err(SpecError::invalid(field, list.escape_debug(), want));
        }
    }
    cpu(limits)?;
    hugepages(limits)?;
    Ok(())
}

/// `3`, `0-3`, `0-7:1/2` (of each two the first): cpuset(7), formats.
fn is_range(text: &str) -> bool {
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u32>().ok().filter(|_| digits)
    };
    let Some((first, rest)) = text.split_once('-') else { return number(text).is_some() };
    let (last, step) = rest.split_once(':').map_or((rest, None), |(l, step)| (l, Some(step)));
    let ordered = number(first).zip(number(last)).is_some_and(|(first, last)| first <= last);
    ordered
        && step.is_none_or(|step| {
            let parts = step.split_once('/').map(|(used, group)| (number(used), number(group)));
            matches!(parts, Some((Some(used), Some(group))) if 0 < used && used <= group)
        })
}

/// The limits alone, as UpdateContainerResources changes them; device rules are not touched.
///
/// # Errors
/// [`SpecError`] names the value that cannot be a limit, or not on this host.
pub fn limits(limits: &Resources, host: &HostFacts) -> Result<LinuxResources, SpecError> {
    check(limits)?;
    if !limits.unified.is_empty() && !host.cgroup.is_v2() {
        return Err(SpecError::Unsupported { what: "`unified` resources on cgroup v1" });
    }
    let unified = limits.unified.iter().map(|(file, value)| (file.clone(), value.clone()));
    let huge = hugepages(limits)?;
    let mut resources = LinuxResources::default();
    resources
        .set_cpu(Some(cpu(limits)?).filter(|cpu| *cpu != LinuxCpu::default()))
        .set_memory(memory(limits, host.swap_limit))
        .set_hugepage_limits(Some(huge).filter(|limits| !limits.is_empty()))
        .set_unified(Some(unified.collect()).filter(|_| !limits.unified.is_empty()));
    Ok(resources)
}

fn cpu(limits: &Resources) -> Result<LinuxCpu, SpecError> {
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(positive("cpu_shares", limits.cpu_shares)?)
        .set_period(positive("cpu_period", limits.cpu_period_us)?)
        .set_quota(Some(limits.cpu_quota_us).filter(|quota| *quota != 0))
        .set_cpus(text(&limits.cpuset_cpus))
        .set_mems(text(&limits.cpuset_mems));
    Ok(cpu)
}

fn positive(field: &'static str, value: i64) -> Result<Option<u64>, SpecError> {
    match u64::try_from(value) {
        Ok(value) => Ok(Some(value).filter(|value| *value != 0)),
        Err(_) => Err(SpecError::invalid(field, value, "0 or more")),
    }
}

/// A container limited in memory may not escape into swap: without a word about swap its total
/// is the memory limit, where the host can limit it.
fn memory(limits: &Resources, swap_limit: bool) -> Option<LinuxMemory> {
    let limit = Some(limits.memory_limit_bytes).filter(|limit| *limit != 0);
    let swap = Some(limits.memory_swap_limit_bytes).filter(|swap| *swap != 0).or(limit);
    let swap = swap.filter(|_| swap_limit);
    (limit.is_some() || swap.is_some()).then(|| {
        let mut memory = LinuxMemory::default();
        memory.set_limit(limit).set_swap(swap);
        memory
    })
}

fn hugepages(limits: &Resources) -> Result<Vec<LinuxHugepageLimit>, SpecError> {
    let one = |limit: &model::HugepageLimit| match i64::try_from(limit.limit_bytes) {
        Ok(bytes) => {
            let mut page = LinuxHugepageLimit::default();
            page.set_page_size(limit.page_size.clone());
            page.set_limit(bytes);
            Ok(page)
        }
        Err(_) => {
            let want = "at most 9223372036854775807 bytes";
            Err(SpecError::invalid("hugepage_limits", limit.limit_bytes, want))
        }
    };
    limits.hugepage_limits.iter().map(one).collect()
}
