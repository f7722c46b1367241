//! OCI runtime spec to [`LaunchPlan`]: what `config.json` says, checked and flattened into what
//! the launcher executes.
//!
//! Never here: files, clocks, processes. What must be known about the host comes in with the
//! [`PlanContext`]. Nothing of a spec is silently left out: what the launcher cannot do is a
//! [`PlanError::Unsupported`] that names the field, and what this host lacks (a controller) comes
//! back as a [`Note`].
//!
//! Main types: [`PlanContext`], [`Planned`], [`PlanError`], [`Note`]; entry points [`plan()`],
//! [`exec_plan`], [`cgroup::update_plan`] and [`seccomp::compile`].
#![forbid(unsafe_code)]

mod capability;
pub mod cgroup;
pub mod devices;
mod error;
mod features;
mod hooks;
mod listener;
mod mounts;
mod namespaces;
mod net_devices;
mod placement;
mod process;
mod scheduling;
pub mod seccomp;
mod unsupported;
mod users;

use launch::plan::{
    ExecPlan, HooksPlan, LaunchPlan, ListenerPlan, PidNamespace, ProcessPlan, Propagation,
    RootPlan, RootSource,
};
use model::CgroupLayout;
use oci_spec::runtime::{Linux, Process, Spec};

pub use error::{Note, PlanError};
pub use features::features;

/// What a plan depends on besides the spec.
#[derive(Debug, Clone)]
pub struct PlanContext<'a> {
    /// What the root file system is made of; `root.path` of the spec is not looked at.
    pub root: RootSource,
    /// The container's id, for hooks.
    pub id: &'a str,
    /// Directory of the bundle, for relative bind sources and hooks.
    pub bundle: Option<&'a str>,
    /// The host's cgroup hierarchies.
    pub cgroup: &'a CgroupLayout,
    /// Cgroup below each hierarchy when the spec names none, e.g. `/knarr/<id>`.
    pub default_cgroup: &'a str,
    /// Bind sources that exist only in the launcher's own mount namespace (the pod's shm).
    pub launcher_paths: &'a [String],
    /// Bind sources that are images, with all below them; nothing is there on the host.
    pub image_trees: &'a [ImageTree],
    /// The launcher is a pod's shim: network, IPC and UTS namespaces given by path are its own.
    pub in_pod: bool,
    /// The namespace path by which specs name the pod's shared PID namespace.
    pub pod_pid: Option<&'a str>,
    /// The namespace path by which specs name the pod's user namespace.
    pub pod_user: Option<&'a str>,
}

/// An image that specs name by a path, to be mounted as a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageTree {
    /// The path by which specs name its root.
    pub path: String,
    /// Its layers' directories on the host, topmost first.
    pub lower: Vec<String>,
}

/// A plan and what this host could not give it.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned<T> {
    /// The plan.
    pub plan: T,
    /// Settings left out because the host lacks what they need; for the log.
    pub notes: Vec<Note>,
}

/// A process to run inside a container beside its first one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecRequest {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `KEY=value` entries that replace or extend the container's.
    pub env: Vec<String>,
    /// Working directory; `None`: the container's.
    pub cwd: Option<String>,
    /// With a terminal.
    pub terminal: bool,
}

/// Compiles `spec` into a plan for its container's first process.
///
/// # Errors
/// [`PlanError`] names the field that is missing, wrong or not supported.
pub fn plan(spec: &Spec, context: &PlanContext<'_>) -> Result<Planned<LaunchPlan>, PlanError> {
    unsupported::check(spec)?;
    let (process, linux) = parts(spec)?;
    let root = spec.root().as_ref().ok_or(PlanError::Missing { field: "root" })?;
    let (user, ids) = users::user_namespace(linux, context)?;
    let own_users = ids.is_some();
    let hooks = hooks::hooks(spec, context)?;
    // These look for the container's root on the host, where its users may not go.
    if own_users && hooks.as_ref().is_some_and(|hooks| !hooks.create_container.is_empty()) {
        return Err(PlanError::unsupported("hooks.createContainer with a user namespace"));
    }
    let (namespaces, access) = namespaces::namespaces(linux, user, context)?;
    let (cgroup, notes) = cgroup::create_plan(linux, context)?;
    let net_devices = net_devices::net_devices(linux, &namespaces, context)?;
    let mut first = process::process(process, linux, ids)?;
    first.find_home = !context.in_pod;
    listen(spec, context, &mut first)?;
    let plan = LaunchPlan {
        process: first,
        namespaces,
        root: RootPlan {
            source: context.root.clone(),
            readonly: root.readonly().unwrap_or(false),
            propagation: rootfs_propagation(linux)?,
            label: label(linux),
        },
        mounts: mounts::mounts(spec, own_users, context)?,
        devices: devices::nodes(linux)?,
        masked_paths: protected("linux.maskedPaths", linux.masked_paths())?,
        readonly_paths: protected("linux.readonlyPaths", linux.readonly_paths())?,
        sysctls: namespaces::sysctls(spec, linux, access)?,
        hostname: namespaces::hostname(spec, access)?,
        cgroup,
        hooks,
        net_devices,
    };
    Ok(Planned { plan, notes })
}

/// The hooks of a container with this spec, for those of them that run after its program has started.
///
/// # Errors
/// As [`plan()`].
pub fn hooks_plan(spec: &Spec, context: &PlanContext<'_>) -> Result<Option<HooksPlan>, PlanError> {
    hooks::hooks(spec, context)
}

/// Whether a container with this spec has a PID namespace of its own, whose processes end with its
/// first.
///
/// # Errors
/// As [`plan()`].
pub fn has_own_pids(spec: &Spec, context: &PlanContext<'_>) -> Result<bool, PlanError> {
    let linux = spec.linux().as_ref().ok_or(PlanError::Missing { field: "linux" })?;
    let (user, _) = users::user_namespace(linux, context)?;
    let (namespaces, _) = namespaces::namespaces(linux, user, context)?;
    Ok(namespaces.pid == PidNamespace::New)
}

/// Compiles a plan for a further process in the container of `spec`, with the container's user,
/// capabilities, limits, seccomp filter and cgroup.
///
/// # Errors
/// As [`plan()`].
pub fn exec_plan(
    spec: &Spec,
    request: &ExecRequest,
    context: &PlanContext<'_>,
) -> Result<ExecPlan, PlanError> {
    unsupported::check(spec)?;
    let (process, linux) = parts(spec)?;
    let (_, ids) = users::user_namespace(linux, context)?;
    let mut further = process::exec_process(process, linux, ids, request)?;
    further.find_home = !context.in_pod;
    listen(spec, context, &mut further)?;
    Ok(ExecPlan { process: further, cgroup: cgroup::join_plan(linux, context)? })
}

/// Who answers for the seccomp filter of a container with this spec, if that asks somebody.
///
/// # Errors
/// As [`plan()`].
pub fn listener_plan(
    spec: &Spec,
    context: &PlanContext<'_>,
) -> Result<Option<ListenerPlan>, PlanError> {
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    match profile.filter(|profile| seccomp::asks(profile)) {
        Some(profile) => listener::listener(spec, profile, context).map(Some),
        None => Ok(None),
    }
}

fn listen(
    spec: &Spec,
    context: &PlanContext<'_>,
    process: &mut ProcessPlan,
) -> Result<(), PlanError> {
    if let Some(filter) = &mut process.seccomp {
        filter.listener = listener_plan(spec, context)?;
    }
    Ok(())
}

fn parts(spec: &Spec) -> Result<(&Process, &Linux), PlanError> {
    let process = spec.process().as_ref().ok_or(PlanError::Missing { field: "process" })?;
    let linux = spec.linux().as_ref().ok_or(PlanError::Missing { field: "linux" })?;
    Ok((process, linux))
}

/// What files made for the container are called.
fn label(linux: &Linux) -> Option<String> {
    linux.mount_label().clone().filter(|label| !label.is_empty())
}

fn rootfs_propagation(linux: &Linux) -> Result<Propagation, PlanError> {
    match linux.rootfs_propagation().as_deref() {
        None | Some("" | "private" | "rprivate") => Ok(Propagation::Private),
        Some("slave" | "rslave") => Ok(Propagation::Slave),
        Some("shared" | "rshared") => Ok(Propagation::Shared),
        Some("unbindable" | "runbindable") => Ok(Propagation::Unbindable),
        Some(other) => Err(PlanError::Invalid {
            field: "linux.rootfsPropagation".into(),
            value: other.into(),
            want: "private, slave, shared or unbindable",
        }),
    }
}

/// Paths to protect, each once.
fn protected(field: &str, paths: &Option<Vec<String>>) -> Result<Vec<String>, PlanError> {
    let mut checked = Vec::new();
    for path in paths.iter().flatten() {
        if !path.starts_with('/') {
            return Err(PlanError::Invalid {
                field: field.into(),
                value: path.clone(),
                want: "an absolute path",
            });
        }
        if !checked.contains(path) {
            checked.push(path.clone());
        }
    }
    Ok(checked)
}

#[cfg(test)]
mod tests;
