//! What verbose status tells beyond the views: for people and tools, read when asked for.

use bundle::NamespacePaths;
use model::{NamespaceMode, SandboxId};
use serde_json::Value;

use crate::manager::Sandboxes;
use crate::view::{ContainerView, PodView};
use crate::{blocking, plan};

impl Sandboxes {
    /// Where a pod's network namespace is pinned.
    pub fn netns_path(&self, id: &SandboxId) -> String {
        self.cx.paths().netns(id).to_string_lossy().into_owned()
    }

    /// A container's OCI spec as stored; null when it cannot be read.
    pub async fn runtime_spec(&self, container: &ContainerView) -> Value {
        let path = self.cx.paths().container_spec(&container.record.sandbox, &container.record.id);
        let bytes = blocking::run(move || std::fs::read(path)).await;
        bytes.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// The OCI spec that stands for the pod itself, with its present totals; null when it cannot
    /// be made any more.
    pub async fn sandbox_spec(&self, pod: &PodView) -> Value {
        let options = &pod.record.config.security.namespaces;
        let of_shim =
            |kind: &str| pod.record.shim.map(|shim| format!("/proc/{}/ns/{kind}", shim.pid));
        let own_net = options.network != NamespaceMode::Node;
        let namespaces = NamespacePaths {
            net: own_net.then(|| self.netns_path(&pod.record.id)),
            ipc: of_shim("ipc").filter(|_| options.ipc != NamespaceMode::Node),
            uts: of_shim("uts").filter(|_| own_net),
            pid: None,
            user: options.own_users().map(|_| plan::user_path(self.cx.paths(), &pod.record.id)),
        };
        let (cx, record) = (std::sync::Arc::clone(&self.cx), std::sync::Arc::clone(&pod.record));
        let parent = std::sync::Arc::clone(&pod.cgroup_parent);
        let made = blocking::run(move || {
            plan::sandbox_spec(&cx.parts.host, &record, &parent, &namespaces)
        });
        made.await.ok().and_then(|spec| bundle::canonical_json(&spec).ok()).unwrap_or_default()
    }

    /// The network in use, in the words of containerd's `cniconfig`.
    pub async fn network_config(&self) -> Value {
        let cx = std::sync::Arc::clone(&self.cx);
        blocking::run(move || cx.parts.network.describe()).await
    }

    /// Directory of everything durable.
    pub fn root_dir(&self) -> &std::path::Path {
        self.cx.paths().root()
    }
}
