//! Containers whose cgroup systemd makes: a scope each, which systemd is told the limits of.
//!
//! The scope begins with a process of ours, so that the container's is born into it like into any
//! other cgroup; systemd removes it when its last process has ended.

use launch::plan::{CgroupPlan, Hierarchy};
use model::CgroupLayout;
use oci_runtime::cgroup::SystemdScope;
use oci_spec::runtime::Spec;
use sys::process::Holder;
use systemd::{Manager, Property, Scope, SystemdError};

use crate::container::Record;
use crate::error::{At as _, OciError};

/// What keeps a new scope until the container is in it.
#[derive(Debug)]
pub(crate) struct Held {
    _process: Holder,
}

/// The container's scope, if systemd makes its cgroup.
pub(crate) fn of(spec: &Spec, record: &Record) -> Result<Option<SystemdScope>, OciError> {
    if record.systemd { Ok(Some(oci_runtime::cgroup::scope(spec, &record.id)?)) } else { Ok(None) }
}

/// Whether a specification names its cgroup in systemd's form.
pub(crate) fn is_meant(spec: &Spec) -> bool {
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
    path.and_then(|path| path.to_str())
        .is_some_and(|path| !path.starts_with('/') && path.split(':').count() == 3)
}

/// Whether systemd can be asked here, and whether it is to be.
pub(crate) fn check(spec: &Spec, record: &Record, layout: &CgroupLayout) -> Result<(), OciError> {
    let form = is_meant(spec);
    if !record.systemd {
        let option =
            "linux.cgroupsPath in systemd's form (slice:prefix:name) without --systemd-cgroup";
        return if form { Err(OciError::Unsupported { option }) } else { Ok(()) };
    }
    let refused = |why| Err(OciError::NoSystemd { why });
    if !systemd::is_running() {
        return refused("systemd does not run this host");
    }
    if !layout.is_v2() {
        return refused("that needs cgroup v2");
    }
    if !rustix::process::geteuid().is_root() {
        return refused("only root has a systemd that this runtime knows how to ask");
    }
    of(spec, record).map(drop)
}

/// Has systemd make the scope of a container with this plan.
pub(crate) fn begin(scope: &SystemdScope, id: &str, plan: &CgroupPlan) -> Result<Held, OciError> {
    let holder = Holder::start().step("make a process to begin a scope with")?;
    let limits = limits(plan)?;
    let bounded = limits.iter().any(|property| property.name() == "TasksMax");
    let unbounded = (!bounded).then(Property::any_number_of_tasks);
    Manager::system().start_scope(&Scope {
        name: scope.name.as_str(),
        description: &format!("container {id}"),
        slice: scope.slice.as_str(),
        pid: holder.pid().as_raw_nonzero().get().unsigned_abs(),
        properties: limits.into_iter().chain(unbounded).collect(),
    })?;
    Ok(Held { _process: holder })
}

/// Tells systemd what limits hold from now on: it would put the old ones back.
pub(crate) fn update(scope: &SystemdScope, plan: &CgroupPlan) -> Result<(), OciError> {
    Ok(Manager::system().set_properties(scope.name.as_str(), &limits(plan)?)?)
}

/// Ends what is left of a scope.
pub(crate) fn end(scope: &SystemdScope) -> Result<(), OciError> {
    let manager = Manager::system();
    manager.stop(scope.name.as_str())?;
    Ok(manager.reset_failed(scope.name.as_str())?)
}

fn limits(plan: &CgroupPlan) -> Result<Vec<Property>, SystemdError> {
    let unified = plan.groups.iter().filter(|group| group.hierarchy == Hierarchy::V2);
    let settings = unified.flat_map(|group| &group.settings);
    systemd::of_settings(settings.map(|it| (it.file.as_str(), it.value.as_str())))
}
