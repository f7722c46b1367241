//! `linux.cgroupsPath` and `linux.resources`: directories to join and values to write.
//!
//! One directory per hierarchy. A v1 hierarchy gets v1 files, the unified one v2 files, so a
//! hybrid host needs no case of its own. A controller no hierarchy offers drops its settings with
//! a [`Note`]. The launcher makes the directories, enables v2 controllers on the way down and,
//! on v1, first copies `cpuset.cpus` and `cpuset.mems` from the parent: without them no process
//! can be attached. Values stand here only when the spec asks for them.

mod block_io;
mod rdt;
mod systemd;
mod v1;
mod v2;
mod weight;

use launch::plan::{CgroupDir, CgroupPlan, CgroupSetting, Hierarchy, ResctrlPlan};
use model::{CgroupHierarchy, CgroupLayout};
use oci_spec::runtime::{Linux, LinuxMemory, LinuxResources, Spec};

use crate::{Note, PlanContext, PlanError, Planned, devices::DevicePolicy};

pub use rdt::RESCTRL;
pub use systemd::{SystemdScope, scope};
pub use weight::weight_of_shares;

/// The cgroup of a new container.
pub(crate) fn create_plan(
    linux: &Linux,
    context: &PlanContext<'_>,
) -> Result<(CgroupPlan, Vec<Note>), PlanError> {
    let resources = linux.resources().as_ref();
    let policy = DevicePolicy::new(resources)?;
    let path = path(linux, context)?;
    let mut plan = with_limits(resources, context.cgroup, &path)?;
    restrict_devices(&mut plan, &policy)?;
    plan.resctrl = rdt::group(linux, &path)?;
    Ok((plan, notes(resources, context.cgroup)))
}

/// By the v1 controller where there is one, else by a program in the unified hierarchy, which on
/// a hybrid host works as well. Without either a restricted container is refused: the device
/// filter is a wall, not a limit.
fn restrict_devices(plan: &mut CgroupPlan, policy: &DevicePolicy) -> Result<(), PlanError> {
    let v1 = |group: &&mut CgroupDir| match &group.hierarchy {
        Hierarchy::V1(names) => names.iter().any(|name| name == "devices"),
        Hierarchy::V2 => false,
    };
    if let Some(group) = plan.groups.iter_mut().find(v1) {
        group.settings.extend(policy.settings()?);
    } else if let Some(program) = policy.program() {
        if !plan.groups.iter().any(|group| group.hierarchy == Hierarchy::V2) {
            return Err(PlanError::unsupported(
                "linux.resources.devices on a host without device control",
            ));
        }
        plan.device_program = Some(program);
    }
    Ok(())
}

/// The cgroup of a container, to be joined as it is.
pub(crate) fn join_plan(linux: &Linux, context: &PlanContext<'_>) -> Result<CgroupPlan, PlanError> {
    let path = path(linux, context)?;
    // The group is there by now: nothing of it is to be set.
    let resctrl =
        rdt::group(linux, &path)?.map(|group| ResctrlPlan { schemata: Vec::new(), ..group });
    Ok(CgroupPlan { groups: directories(context.cgroup, &path), resctrl, ..CgroupPlan::default() })
}

/// Where the processes of a container with this spec are.
///
/// # Errors
/// As [`crate::plan()`].
pub fn of(spec: &Spec, context: &PlanContext<'_>) -> Result<CgroupPlan, PlanError> {
    let linux = spec.linux().as_ref().ok_or(PlanError::Missing { field: "linux" })?;
    join_plan(linux, context)
}

/// As [`update_plan`], for a container with this spec.
///
/// # Errors
/// As [`crate::plan()`].
pub fn update_of(
    spec: &Spec,
    resources: Option<&LinuxResources>,
    current: Option<&LinuxResources>,
    context: &PlanContext<'_>,
) -> Result<Planned<CgroupPlan>, PlanError> {
    let linux = spec.linux().as_ref().ok_or(PlanError::Missing { field: "linux" })?;
    let none = LinuxResources::default();
    let resources = resources.unwrap_or(&none);
    let (plan, notes) = update_plan(resources, current, &path(linux, context)?, context.cgroup)?;
    Ok(Planned { plan, notes })
}

/// Other lines of `schemata` for the class of service of a container with this spec.
///
/// # Errors
/// As [`crate::plan()`]; also where the container has none.
pub fn schemata_of(
    spec: &Spec,
    lines: &[String],
    context: &PlanContext<'_>,
) -> Result<ResctrlPlan, PlanError> {
    let linux = spec.linux().as_ref().ok_or(PlanError::Missing { field: "linux" })?;
    let group = rdt::group(linux, &path(linux, context)?)?;
    let group = group.ok_or(PlanError::Missing { field: "linux.intelRdt" })?;
    Ok(ResctrlPlan { schemata: rdt::checked_lines(lines.iter())?, ..group })
}

/// New limits for a running container: the same directories, with the files to write.
///
/// `cgroups_path` as in the spec. Devices are not touched. v1 wants memory and memory+swap
/// written in the order that keeps the latter the larger, so the values in force are needed:
/// `current` is the resources last applied.
///
/// # Errors
/// As [`crate::plan()`].
pub fn update_plan(
    resources: &LinuxResources,
    current: Option<&LinuxResources>,
    cgroups_path: &str,
    layout: &CgroupLayout,
) -> Result<(CgroupPlan, Vec<Note>), PlanError> {
    let mut plan = with_limits(Some(resources), layout, &checked(cgroups_path)?)?;
    let growing = v1::memory_grows(current, resources);
    for group in &mut plan.groups {
        if growing && matches!(group.hierarchy, Hierarchy::V1(_)) {
            v1::swap_limit_first(&mut group.settings);
        }
    }
    Ok((plan, notes(Some(resources), layout)))
}

fn with_limits(
    resources: Option<&LinuxResources>,
    layout: &CgroupLayout,
    path: &str,
) -> Result<CgroupPlan, PlanError> {
    let mut groups = directories(layout, path);
    if let Some(resources) = resources {
        refuse_impossible(resources, layout)?;
        for (group, hierarchy) in groups.iter_mut().zip(hierarchies(layout)) {
            group.settings = match group.hierarchy {
                Hierarchy::V1(_) => v1::settings(resources, &hierarchy.controllers)?,
                Hierarchy::V2 => v2::settings(resources, &hierarchy.controllers)?,
            };
        }
    }
    Ok(CgroupPlan { groups, ..CgroupPlan::default() })
}

/// Hierarchies in the order they are joined, the unified one last.
fn hierarchies(layout: &CgroupLayout) -> Vec<&CgroupHierarchy> {
    match layout {
        CgroupLayout::V2(unified) => vec![unified],
        CgroupLayout::V1 { hierarchies, unified } => {
            hierarchies.iter().chain(unified.as_ref()).collect()
        }
    }
}

fn directories(layout: &CgroupLayout, path: &str) -> Vec<CgroupDir> {
    let directory = |hierarchy: &CgroupHierarchy, kind: Hierarchy| {
        let late = |name: &String| matches!(name.as_str(), "cpu" | "cpuset");
        CgroupDir {
            join_late: matches!(&kind, Hierarchy::V1(names) if names.iter().any(late)),
            hierarchy: kind,
            path: format!("{}{path}", hierarchy.mountpoint.trim_end_matches('/')),
            mountpoint: hierarchy.mountpoint.clone(),
            settings: Vec::new(),
        }
    };
    let v1 = |h: &CgroupHierarchy| directory(h, Hierarchy::V1(h.controllers.clone()));
    match layout {
        CgroupLayout::V2(unified) => vec![directory(unified, Hierarchy::V2)],
        CgroupLayout::V1 { hierarchies, unified } => {
            let unified = unified.iter().map(|h| directory(h, Hierarchy::V2));
            hierarchies.iter().map(v1).chain(unified).collect()
        }
    }
}

fn path(linux: &Linux, context: &PlanContext<'_>) -> Result<String, PlanError> {
    match linux.cgroups_path() {
        None => checked(context.default_cgroup),
        Some(path) if path.as_os_str().is_empty() => checked(context.default_cgroup),
        Some(path) => match path.to_str() {
            Some(path) => checked(path),
            None => Err(PlanError::invalid("linux.cgroupsPath", path.display(), "UTF-8")),
        },
    }
}

/// `/a/b`: absolute, clean, below the root.
fn checked(path: &str) -> Result<String, PlanError> {
    if let Some(scope) = systemd::parse(path)? {
        return Ok(scope.path());
    }
    let names: Vec<&str> = path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    if names.is_empty() || names.contains(&"..") || path.contains('\0') {
        return Err(PlanError::invalid(
            "linux.cgroupsPath",
            path,
            "a path below the hierarchy's root, without `..`",
        ));
    }
    Ok(format!("/{}", names.join("/")))
}

/// What no kernel takes, or not this layout's.
fn refuse_impossible(resources: &LinuxResources, layout: &CgroupLayout) -> Result<(), PlanError> {
    block_io::check(resources)?;
    let unified = resources.unified().as_ref().is_some_and(|files| !files.is_empty());
    if unified && !layout.is_v2() {
        return Err(PlanError::unsupported("linux.resources.unified on cgroup v1"));
    }
    Ok(())
}

/// -1 is no limit. Other negative numbers are refused by the kernel where they are written as they are.
fn check_memory(memory: &LinuxMemory) -> Result<(), PlanError> {
    for (name, value) in
        [("limit", memory.limit()), ("swap", memory.swap()), ("reservation", memory.reservation())]
    {
        if let Some(value) = value.filter(|value| *value < -1) {
            let field = format!("linux.resources.memory.{name}");
            return Err(PlanError::invalid(field, value, "bytes, or -1 for no limit"));
        }
    }
    let set = |value: Option<i64>| value.filter(|value| *value != 0);
    check_swap(set(memory.swap()), set(memory.limit()))
}

/// Memory and swap are limited together: the sum is never less than the part.
fn check_swap(total: Option<i64>, limit: Option<i64>) -> Result<(), PlanError> {
    let Some(total) = total else { return Ok(()) };
    let refuse = |want| Err(PlanError::invalid("linux.resources.memory.swap", total, want));
    match limit {
        _ if total < 0 => Ok(()),
        Some(limit) if limit < 0 => refuse("-1 beside an unlimited memory limit"),
        Some(limit) if total >= limit => Ok(()),
        Some(_) => refuse("at least the memory limit"),
        None => refuse("a memory limit beside it"),
    }
}

/// What the spec asks of controllers this host does not have.
fn notes(resources: Option<&LinuxResources>, layout: &CgroupLayout) -> Vec<Note> {
    let Some(resources) = resources else { return Vec::new() };
    let mut notes = Vec::new();
    let mut need = |wanted: bool, controller: &'static str, field: &'static str| {
        if wanted && layout.controller(controller).is_none() {
            notes.push(Note::ControllerMissing { controller, field });
        }
    };
    let memory = resources.memory().as_ref();
    need(memory.is_some_and(v2::limits_memory), "memory", "linux.resources.memory");
    let pids = resources.pids().as_ref().is_some_and(|pids| pids.limit() != 0);
    need(pids, "pids", "linux.resources.pids");
    let cpu = resources.cpu().as_ref();
    need(cpu.is_some_and(v2::limits_cpu), "cpu", "linux.resources.cpu");
    need(cpu.is_some_and(v2::limits_cpuset), "cpuset", "linux.resources.cpu.cpus");
    // Kubelet sends zeros for every size: nothing is lost where huge pages are not counted.
    let huge = resources.hugepage_limits().iter().flatten().any(|limit| limit.limit() > 0);
    need(huge, "hugetlb", "linux.resources.hugepageLimits");
    let block_io = resources.block_io().as_ref().is_some_and(block_io::limits);
    let io = if layout.is_v2() { "io" } else { "blkio" };
    need(block_io, io, "linux.resources.blockIO");
    let rdma = resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty());
    need(rdma, "rdma", "linux.resources.rdma");
    let network = resources.network().as_ref();
    let class = network.is_some_and(|network| network.class_id().is_some());
    need(class, "net_cls", "linux.resources.network.classID");
    let priorities = network.is_some_and(|n| n.priorities().iter().flatten().next().is_some());
    need(priorities, "net_prio", "linux.resources.network.priorities");
    if layout.is_v2() {
        notes.extend(v2::without_counterpart(resources));
    }
    notes
}

/// A value whose failure refuses the container.
#[allow(clippy::needless_pass_by_value, reason = "numbers and texts read better at the callers")]
fn required(file: impl Into<String>, value: impl ToString) -> CgroupSetting {
    CgroupSetting { file: file.into(), value: value.to_string(), required: true, fallback: None }
}

/// A value whose failure is only reported.
#[allow(clippy::needless_pass_by_value, reason = "numbers and texts read better at the callers")]
fn wanted(file: impl Into<String>, value: impl ToString) -> CgroupSetting {
    CgroupSetting { file: file.into(), value: value.to_string(), required: false, fallback: None }
}

/// Page sizes name files: nothing but digits and a unit.
fn page_size(size: &str) -> Result<&str, PlanError> {
    let digits = size.trim_end_matches("KB").trim_end_matches("MB").trim_end_matches("GB");
    if digits.len() + 2 == size.len()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && size.len() > 2
    {
        Ok(size)
    } else {
        Err(PlanError::invalid("linux.resources.hugepageLimits", size, "a size such as 2MB"))
    }
}

/// `rdma.max` is the same file in both versions.
fn rdma(resources: &LinuxResources) -> Vec<CgroupSetting> {
    let mut lines: Vec<String> = Vec::new();
    for (device, limit) in resources.rdma().iter().flatten() {
        let part = |name: &str, value: Option<u32>| {
            value.map_or(String::new(), |value| format!(" {name}={value}"))
        };
        let handles = part("hca_handle", limit.hca_handles());
        let objects = part("hca_object", limit.hca_objects());
        lines.push(format!("{device}{handles}{objects}"));
    }
    lines.sort();
    lines.into_iter().map(|line| required("rdma.max", line)).collect()
}

#[cfg(test)]
mod tests;
