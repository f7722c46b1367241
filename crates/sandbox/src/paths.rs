//! Where everything lies: one place that knows the on-disk layout (see `docs/on-disk.md`).

use std::path::{Path, PathBuf};

use model::{ContainerId, SandboxId};

/// Where `ip netns` looks.
pub(crate) const NETNS: &str = "/run/netns";

/// The daemon's durable root (`/var/lib/knarr`) and volatile state (`/run/knarr`).
#[derive(Debug, Clone)]
pub struct Paths {
    root: PathBuf,
    state: PathBuf,
    netns: PathBuf,
}

impl Paths {
    /// Paths below `root` and `state`; network namespaces are pinned where `ip netns` looks.
    pub fn new(root: PathBuf, state: PathBuf) -> Self {
        Self { root, state, netns: PathBuf::from(NETNS) }
    }

    /// The durable root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The volatile state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Directory of all pods' durable parts.
    pub fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// Directory of all pods' volatile parts.
    pub fn pod_states(&self) -> PathBuf {
        self.state.join("pods")
    }

    /// One pod's durable part.
    pub fn pod(&self, id: &SandboxId) -> PathBuf {
        self.pods().join(id.as_str())
    }

    /// One pod's record.
    pub fn pod_record(&self, id: &SandboxId) -> PathBuf {
        self.pod(id).join("pod.json")
    }

    /// Directory of a pod's containers.
    pub fn containers(&self, id: &SandboxId) -> PathBuf {
        self.pod(id).join("containers")
    }

    /// One container's durable part: record, spec and writable layer.
    pub fn container(&self, pod: &SandboxId, id: &ContainerId) -> PathBuf {
        self.containers(pod).join(id.as_str())
    }

    /// One container's record.
    pub fn container_record(&self, pod: &SandboxId, id: &ContainerId) -> PathBuf {
        self.container(pod, id).join("container.json")
    }

    /// One container's OCI spec.
    pub fn container_spec(&self, pod: &SandboxId, id: &ContainerId) -> PathBuf {
        self.container(pod, id).join("config.json")
    }

    /// One pod's volatile part: shim socket, exit files, generated files.
    pub fn pod_state(&self, id: &SandboxId) -> PathBuf {
        self.pod_states().join(id.as_str())
    }

    /// The volatile part of a container of another runtime: its root, and what passes between shim
    /// and runtime.
    pub(crate) fn bundle(&self, pod: &SandboxId, container: &str) -> PathBuf {
        self.pod_state(pod).join("bundles").join(container)
    }

    /// The exit file a shim leaves for a container.
    pub fn exit_file(&self, pod: &SandboxId, id: &ContainerId) -> PathBuf {
        self.pod_state(pod).join("exits").join(id.as_str())
    }

    /// Where the pod's network namespace is pinned.
    pub fn netns(&self, id: &SandboxId) -> PathBuf {
        self.netns.join(format!("knarr-{id}"))
    }
}
