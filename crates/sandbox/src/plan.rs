//! From stored specs to launch plans. Blocking: reads the spec.

use std::path::{Path, PathBuf};

use bundle::{HostFacts, NamespacePaths, PauseInput, SpecError};
use failpoint::Point;
use launch::plan::{CgroupPlan, EnvEntry, ExecPlan, LaunchPlan, RootSource};
use model::{ContainerId, EnvVar, Resources, SandboxId, SecurityProfile};
use oci_runtime::{ExecRequest, ImageTree, PlanContext, PlanError, Planned};
use oci_spec::runtime::{Process, Spec};

use crate::confinement;
use crate::context::Context;
use crate::image_volumes;
use crate::paths::Paths;
use crate::record::{ContainerRecord, PodRecord};

/// Why no plan could be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanFailure {
    /// The stored spec cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The spec.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The stored spec is not one.
    #[error("{} is not an OCI spec", path.display())]
    Parse {
        /// The spec.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The spec cannot be stored.
    #[error("cannot write {}", path.display())]
    Write {
        /// The spec.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It cannot be run on this host.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A layer of its image is not there any more.
    #[error(transparent)]
    Layers(#[from] snapshot::MissingLayer),
    /// The pod asks for what cannot be had.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The host's AppArmor.
    #[error(transparent)]
    AppArmor(#[from] lsm::apparmor::AppArmorError),
}

/// The pod's `/dev/shm` as specs name it: a mount that exists in the shim only.
pub(crate) fn shm_path(paths: &Paths, sandbox: &SandboxId) -> String {
    paths.pod_state(sandbox).join("shm").to_string_lossy().into_owned()
}

/// The pod's shared PID namespace as specs name it; the shim holds it.
pub(crate) fn pid_path(paths: &Paths, sandbox: &SandboxId) -> String {
    paths.pod_state(sandbox).join("pidns").to_string_lossy().into_owned()
}

/// The PID namespace of another container, whose first process has this number.
pub(crate) fn pid_path_of(pid: i32) -> String {
    format!("/proc/{pid}/ns/pid")
}

/// The pod's user namespace as specs name it; the shim holds it.
pub(crate) fn user_path(paths: &Paths, sandbox: &SandboxId) -> String {
    paths.pod_state(sandbox).join("userns").to_string_lossy().into_owned()
}

/// Reads a container's spec and compiles its launch plan. The spec is the one of its creation:
/// limits changed since are those of the record.
pub(crate) fn container(cx: &Context, record: &ContainerRecord) -> Result<LaunchPlan, PlanFailure> {
    let path = cx.paths().container_spec(&record.sandbox, &record.id);
    failpoint::reach(Point::StartPlan)
        .map_err(|source| PlanFailure::Read { path: path.clone(), source })?;
    let mut spec = read_spec(&path)?;
    put_limits(&mut spec, &record.resources, &cx.parts.host)?;
    of_spec(cx, record, &spec)
}

/// Compiles the launch plan of a container's spec.
pub(crate) fn of_spec(
    cx: &Context,
    record: &ContainerRecord,
    spec: &Spec,
) -> Result<LaunchPlan, PlanFailure> {
    let (sandbox, id) = (&record.sandbox, &record.id);
    let dir = cx.paths().container(sandbox, id);
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let images = image_volumes::trees(cx.paths(), &cx.parts.layers, record)?;
    let root = RootSource::Overlay {
        lower: cx.parts.layers.lower_dirs(&record.layers)?.into_iter().map(text).collect(),
        upper: text(dir.join("upper")),
        work: text(dir.join("work")),
    };
    let Planned { mut plan, notes } =
        with_context(cx, sandbox, id, root, &images, |context| oci_runtime::plan(spec, context))?;
    put_bytes(&mut plan.process.env, &record.config.envs);
    for note in notes {
        tracing::warn!(%sandbox, container = %id, %note, "not applied");
    }
    Ok(plan)
}

/// Reads a container's spec and compiles what running further commands in it needs.
pub(crate) fn exec(cx: &Context, record: &ContainerRecord) -> Result<ExecPlan, PlanFailure> {
    let (sandbox, id) = (&record.sandbox, &record.id);
    let spec = read_spec(&cx.paths().container_spec(sandbox, id))?;
    // The command is filled in per call.
    let request = ExecRequest { args: vec!["exec".into()], ..ExecRequest::default() };
    let mut plan = with_context(cx, sandbox, id, RootSource::Empty, &[], |context| {
        oci_runtime::exec_plan(&spec, &request, context)
    })?;
    put_bytes(&mut plan.process.env, &record.config.envs);
    Ok(plan)
}

/// A spec is JSON and shows a value that is not text with replacement characters; a process gets
/// the bytes. What somebody else has put in its place since stays.
fn put_bytes(env: &mut [EnvEntry], asked: &[EnvVar]) {
    for EnvVar { key, value } in asked.iter().filter(|var| str::from_utf8(&var.value).is_err()) {
        let shown = format!("{key}={}", String::from_utf8_lossy(value)).into_bytes();
        if let Some(entry) = env.iter_mut().find(|EnvEntry(entry)| *entry == shown) {
            entry.0 = [key.as_bytes(), b"=", value].concat();
        }
    }
}

/// The process of a container, for runtimes that run further ones after its pattern.
pub(crate) fn process(cx: &Context, record: &ContainerRecord) -> Result<Process, PlanFailure> {
    let spec = read_spec(&cx.paths().container_spec(&record.sandbox, &record.id))?;
    Ok(spec.process().clone().unwrap_or_default())
}

fn with_context<T>(
    cx: &Context,
    sandbox: &SandboxId,
    id: &ContainerId,
    root: RootSource,
    image_trees: &[ImageTree],
    compile: impl FnOnce(&PlanContext<'_>) -> Result<T, PlanError>,
) -> Result<T, PlanFailure> {
    let (shm, pid) = (shm_path(cx.paths(), sandbox), pid_path(cx.paths(), sandbox));
    let bundle = cx.paths().container(sandbox, id).to_string_lossy().into_owned();
    let user = user_path(cx.paths(), sandbox);
    Ok(compile(&PlanContext {
        root,
        id: id.as_str(),
        bundle: Some(&bundle),
        cgroup: &cx.parts.host.cgroup,
        default_cgroup: "/knarr",
        launcher_paths: std::slice::from_ref(&shm),
        image_trees,
        in_pod: true,
        pod_pid: Some(&pid),
        pod_user: Some(&user),
    })?)
}

fn put_limits(spec: &mut Spec, resources: &Resources, host: &HostFacts) -> Result<(), SpecError> {
    let mut limits = bundle::limits(resources, host)?;
    if let Some(linux) = spec.linux_mut() {
        // What no update changes.
        if let Some(now) = linux.resources() {
            limits.set_devices(now.devices().clone()).set_block_io(now.block_io().clone());
        }
        linux.set_resources(Some(limits));
    }
    Ok(())
}

/// Brings a container's stored spec up to date with the limits of its record, whole or not at all.
/// What there was before, to be put back.
pub(crate) fn rewrite_limits(
    cx: &Context,
    record: &ContainerRecord,
) -> Result<Vec<u8>, PlanFailure> {
    let path = cx.paths().container_spec(&record.sandbox, &record.id);
    let before =
        std::fs::read(&path).map_err(|source| PlanFailure::Read { path: path.clone(), source })?;
    let mut spec = parse_spec(&path, &before)?;
    put_limits(&mut spec, &record.resources, &cx.parts.host)?;
    let text = encode(&spec).map_err(|source| PlanFailure::Parse { path: path.clone(), source })?;
    write_spec(&path, &text)?;
    Ok(before)
}

/// A spec as it is stored.
pub(crate) fn encode(spec: &Spec) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&bundle::canonical_json(spec)?)
}

/// Replaces a stored spec: a reader finds the old one or the new one.
pub(crate) fn write_spec(path: &Path, text: &[u8]) -> Result<(), PlanFailure> {
    let new = path.with_extension("json.tmp");
    std::fs::write(&new, text)
        .and_then(|()| std::fs::rename(&new, path))
        .map_err(|source| PlanFailure::Write { path: path.to_owned(), source })
}

/// What takes a running container's group from some limits to others.
pub(crate) fn limits(
    host: &HostFacts,
    cgroup: &str,
    from: &Resources,
    to: &Resources,
) -> Result<Planned<CgroupPlan>, PlanFailure> {
    let (from, to) = (bundle::limits(from, host)?, bundle::limits(to, host)?);
    let (plan, notes) = oci_runtime::cgroup::update_plan(&to, Some(&from), cgroup, &host.cgroup)?;
    Ok(Planned { plan, notes })
}

fn read_spec(path: &Path) -> Result<Spec, PlanFailure> {
    let bytes = std::fs::read(path)
        .map_err(|source| PlanFailure::Read { path: path.to_owned(), source })?;
    parse_spec(path, &bytes)
}

fn parse_spec(path: &Path, bytes: &[u8]) -> Result<Spec, PlanFailure> {
    serde_json::from_slice(bytes)
        .map_err(|source| PlanFailure::Parse { path: path.to_owned(), source })
}

/// The spec of what stands for a pod itself, in `namespaces`.
pub(crate) fn sandbox_spec(
    host: &HostFacts,
    pod: &PodRecord,
    cgroup_parent: &str,
    namespaces: &NamespacePaths,
) -> Result<Spec, PlanFailure> {
    let localhost_seccomp = match &pod.config.security.seccomp {
        Some(SecurityProfile::Localhost(path)) => {
            let read = std::fs::read_to_string(path);
            Some(read.map_err(|source| PlanFailure::Read { path: path.into(), source })?)
        }
        Some(SecurityProfile::RuntimeDefault | SecurityProfile::Unconfined) | None => None,
    };
    let security = &pod.config.security;
    let host = &confinement::refreshed(host, security.apparmor.as_ref(), security.privileged)?;
    Ok(bundle::pause_spec(&PauseInput {
        sandbox: &pod.id,
        pod: &pod.config,
        resources: pod.resources(),
        cgroup_path: &format!("{cgroup_parent}/{}", pod.id),
        namespaces,
        localhost_seccomp: localhost_seccomp.as_deref(),
        selinux_level: pod.selinux_level.as_deref(),
        host,
    })?)
}

/// Makes the spec of what stands for a pod one of a container that holds the whole pod: in its
/// cgroup, all of the pod's processes are.
pub(crate) fn for_sandbox_container(
    spec: &mut Spec,
    pod: &PodRecord,
    host: &HostFacts,
    rootfs: &str,
) -> Result<(), PlanFailure> {
    if let Some(root) = spec.root_mut() {
        root.set_path(rootfs.into());
    }
    if let Some(process) = spec.process_mut() {
        process.set_oom_score_adj(None);
    }
    let limits = pod.resources().map(|resources| bundle::limits(resources, host)).transpose()?;
    if let Some(linux) = spec.linux_mut() {
        linux.set_resources(limits);
    }
    Ok(())
}

/// What the shim has to know of that container.
pub(crate) fn of_sandbox_container(
    cx: &Context,
    pod: &PodRecord,
    cgroup_parent: &str,
    root: RootSource,
    spec: &Spec,
) -> Result<LaunchPlan, PlanFailure> {
    let user = user_path(cx.paths(), &pod.id);
    let context = of_the_pod(root, pod, &cx.parts.host, cgroup_parent, &user);
    Ok(oci_runtime::plan(spec, &context)?.plan)
}

/// What a plan depends on that is the pod's own and no container's.
fn of_the_pod<'a>(
    root: RootSource,
    pod: &'a PodRecord,
    host: &'a HostFacts,
    cgroup_parent: &'a str,
    user: &'a str,
) -> PlanContext<'a> {
    PlanContext {
        root,
        id: pod.id.as_str(),
        bundle: None,
        cgroup: &host.cgroup,
        default_cgroup: cgroup_parent,
        launcher_paths: &[],
        image_trees: &[],
        in_pod: true,
        pod_pid: None,
        pod_user: Some(user),
    }
}

/// The plan of a pod's PID 1: an empty root, no capability, nothing to gain.
pub(crate) fn pause(
    host: &HostFacts,
    paths: &Paths,
    pod: &PodRecord,
    cgroup_parent: &str,
) -> Result<LaunchPlan, PlanFailure> {
    let user = user_path(paths, &pod.id);
    // The shim has unshared the others itself: pause inherits.
    let namespaces = NamespacePaths { user: Some(user.clone()), ..NamespacePaths::default() };
    let spec = sandbox_spec(host, pod, cgroup_parent, &namespaces)?;
    let context = of_the_pod(RootSource::Empty, pod, host, cgroup_parent, &user);
    let Planned { plan, notes } = oci_runtime::plan(&spec, &context)?;
    for note in notes {
        tracing::warn!(sandbox = %pod.id, %note, "not applied to the pause process");
    }
    Ok(plan)
}
