//! What an owner does otherwise for pods of other runtimes.

use std::path::Path;
use std::sync::Arc;

use bundle::NamespacePaths;
use launch::plan::RootSource;
use model::{ContainerId, NamespaceMode};
use shim_protocol::{Body, Response, StartContainer, StartExternal};

use super::Owner;
use super::run::warn;
use crate::blocking;
use crate::context::Context;
use crate::error::RunError;
use crate::external;
use crate::files;
use crate::handler::Program;
use crate::image_volumes;
use crate::link::LinkError;
use crate::plan::{self, PlanFailure};
use crate::record::{ContainerRecord, PodRecord};

impl Owner {
    /// Starts the container that stands for the pod, where its runtime wants one. The network is
    /// there by now: such a runtime takes it over.
    pub(super) async fn start_sandbox_container(&self) -> Result<(), RunError> {
        let Some(program) = self.record.runtime.sandbox_program().cloned() else { return Ok(()) };
        let sandbox = self.id().clone();
        let (cx, pod) = (Arc::clone(&self.cx), Arc::clone(&self.record));
        let parent = self.cgroup_parent.to_string();
        let body = blocking::run(move || sandbox_body(&cx, &pod, &parent, &program))
            .await
            .map_err(|source| RunError::SandboxSpec { sandbox: sandbox.clone(), source })?;
        let fail = |source| RunError::SandboxContainer { sandbox: sandbox.clone(), source };
        let link = self.link().ok_or_else(|| fail(LinkError::Gone { sandbox: sandbox.clone() }))?;
        match link.call(body, Vec::new()).await.map_err(fail)? {
            Response::Started(started) => {
                warn(&sandbox, &started.warnings);
                Ok(())
            }
            _other => Err(fail(link.confused())),
        }
    }

    /// Whether this container stands for the pod itself.
    pub(super) fn is_sandbox_container(&self, id: &ContainerId) -> bool {
        self.record.runtime.sandbox_program().is_some() && id.as_str() == self.id().as_str()
    }

    /// The group of the container that stands for the pod.
    pub(super) fn sandbox_cgroup(&self) -> String {
        format!("{}/{}", self.cgroup_parent, self.id())
    }

    /// Has the pod's runtime give up containers whose shim is gone. What fails is logged: their
    /// processes are ended in any case, and a runtime that is gone must not keep pods from going.
    pub(super) async fn delete_by_runtime(&self, mut ids: Vec<String>) {
        let Some(program) = self.record.runtime.program.clone() else { return };
        // With it, what runs in the sandbox ends: not for one container that the shim does not know.
        if program.sandbox_container && self.shim.is_none() {
            ids.insert(0, self.id().to_string());
        }
        let sandbox = self.id().clone();
        blocking::run(move || {
            for id in ids {
                if let Err(reason) = program.delete(&id) {
                    tracing::warn!(%sandbox, container = id, reason, "the runtime keeps something");
                }
            }
        })
        .await;
    }
}

/// How the shim is asked to start a container: itself, or by the pod's runtime.
pub(super) fn start_body(
    cx: &Context,
    pod: &PodRecord,
    record: &ContainerRecord,
    start: StartContainer,
) -> Result<Body, PlanFailure> {
    let Some(program) = &pod.runtime.program else {
        return Ok(Body::Start(Box::new(start)));
    };
    let paths = cx.paths();
    let images = image_volumes::trees(paths, &cx.parts.layers, record)?;
    let bundle = paths.container(&record.sandbox, &record.id);
    Ok(Body::StartExternal(Box::new(StartExternal {
        start,
        runtime: external::program(program),
        bundle: bundle.to_string_lossy().into_owned(),
        places: external::places(paths, &record.sandbox, record.id.as_str(), images),
    })))
}

/// Writes the bundle of the container that stands for a pod. Blocking.
fn sandbox_body(
    cx: &Context,
    pod: &PodRecord,
    cgroup_parent: &str,
    program: &Program,
) -> Result<Body, PlanFailure> {
    let paths = cx.paths();
    let places = external::places(paths, &pod.id, pod.id.as_str(), Vec::new());
    let options = &pod.config.security.namespaces;
    let shims = |kind: &str| pod.shim.map(|shim| format!("/proc/{}/ns/{kind}", shim.pid));
    let own_net = options.network != NamespaceMode::Node;
    let namespaces = NamespacePaths {
        net: own_net.then(|| paths.netns(&pod.id).to_string_lossy().into_owned()),
        ipc: shims("ipc").filter(|_| options.ipc != NamespaceMode::Node),
        uts: shims("uts").filter(|_| own_net),
        pid: None,
        user: options.own_users().map(|_| plan::user_path(paths, &pod.id)),
    };
    let mut spec = plan::sandbox_spec(&cx.parts.host, pod, cgroup_parent, &namespaces)?;
    plan::for_sandbox_container(&mut spec, pod, &cx.parts.host, &places.rootfs)?;
    let rootfs = Path::new(&places.rootfs);
    let write = |path: &Path, bytes: &[u8], mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::create_dir_all(rootfs)
            .and_then(|()| std::fs::write(path, bytes))
            .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)))
            .map_err(|source| PlanFailure::Write { path: path.to_owned(), source })
    };
    write(&rootfs.join("pause"), launch::pause_program(), 0o755)?;
    let config = Path::new(&places.scratch).join("config.json");
    // The plan joins a UTS namespace of the host's, which says nothing to a kernel of the sandbox's own.
    let mut told = spec.clone();
    told.set_hostname(own_net.then(|| files::hostname(&pod.config)));
    let text = plan::encode(&told)
        .map_err(|source| PlanFailure::Parse { path: config.clone(), source })?;
    write(&config, &text, 0o600)?;
    let root = RootSource::Directory(places.rootfs.clone());
    let plan = plan::of_sandbox_container(cx, pod, cgroup_parent, root, &spec)?;
    Ok(Body::StartExternal(Box::new(StartExternal {
        start: StartContainer {
            container: pod.id.to_string(),
            plan: plan.encode(),
            ..StartContainer::default()
        },
        runtime: external::program(program),
        bundle: places.scratch.clone(),
        places,
    })))
}
