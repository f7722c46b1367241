//! What every pod's owner works with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::{CgroupDriver, ContainerId, PodName, SandboxId, UnixNanos};
use store::{Disk, Names};

use crate::handler::{Handlers, Probes};
use crate::handles::Handles;
use crate::paths::Paths;
use crate::record::PodRecord;
use crate::scopes::CgroupDrivers;
use crate::view::Index;

/// Where pods have their control groups if kubelet names no parent.
pub(crate) const DEFAULT_PARENT: &str = "/knarr";

/// What the manager is built from.
pub struct Parts {
    /// On-disk layout.
    pub paths: Paths,
    /// The shim's program.
    pub shim: PathBuf,
    /// Runtime handlers.
    pub handlers: Handlers,
    /// Pod networks.
    pub network: cni::Engine,
    /// Whether there is one.
    pub network_monitor: cni::Monitor,
    /// How often networks are searched for what pods that are no more have left.
    pub network_gc_every: Duration,
    /// Images.
    pub images: image::Images,
    /// Layers.
    pub layers: Arc<snapshot::Layers>,
    /// This host.
    pub host: bundle::HostFacts,
    /// Who makes control groups.
    pub cgroup_drivers: CgroupDrivers,
    /// Directories of CDI specs; later ones have the higher priority.
    pub cdi_dirs: Vec<PathBuf>,
    /// The file that defines block IO classes.
    pub block_io_classes: PathBuf,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// The file system of records.
    pub disk: Box<dyn Disk>,
    /// How long after a command's end its output is waited for when something it started keeps the
    /// pipes open.
    pub exec_drain: Duration,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("paths", &self.paths).finish_non_exhaustive()
    }
}

pub(crate) struct Context {
    pub(crate) parts: Parts,
    pub(crate) index: Index,
    pub(crate) names: Names<PodName, SandboxId>,
    pub(crate) levels: crate::levels::Levels,
    pub(crate) handles: Handles,
    pub(crate) sampler: crate::sampler::Sampler,
    pub(crate) events: crate::events::Events,
    pub(crate) quarantine: crate::quarantine::Quarantine,
    pub(crate) backlog: crate::backlog::Backlog,
    /// Mount sources that do not answer.
    pub(crate) silent: crate::sources::Silent,
    /// Places where `knarr doctor` looks that do not answer.
    pub(crate) unseen: crate::sources::Silent,
    /// Why pods cannot have user namespaces here, if they cannot; found out at start.
    pub(crate) user_namespaces: Result<(), String>,
    pub(crate) exec_targets: crate::targets::ExecTargets,
    /// What says that kubelet uses the other cgroup driver.
    pub(crate) refused_parent: crate::scopes::RefusedParent,
    /// What the handlers' runtimes can do.
    pub(crate) probes: Probes,
}

impl Context {
    pub(crate) fn paths(&self) -> &Paths {
        &self.parts.paths
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        self.parts.disk.as_ref()
    }

    /// The SELinux level of a new pod: the one it asks for, or a pair of categories that no other
    /// pod has. Without SELinux, none.
    pub(crate) fn level_of(&self, config: &model::PodConfig) -> Option<String> {
        let facts = self.parts.host.selinux.as_ref()?;
        if let Some(asked) = config.security.selinux.as_ref().filter(|o| !o.level.is_empty()) {
            self.levels.hold(&asked.level);
            return Some(asked.level.clone());
        }
        let level = facts.process.splitn(4, ':').nth(3).unwrap_or("s0");
        let sensitivity = level.split(':').next().unwrap_or(level);
        self.levels.claim(sensitivity, || {
            let mut bytes = [0; 4];
            rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).ok()?;
            Some(u32::from_ne_bytes(bytes))
        })
    }

    /// Gives back what a pod that is no more had for itself alone.
    pub(crate) fn release(&self, pod: &PodRecord) {
        self.names.release(&pod.config.name, &pod.id);
        self.backlog.forget_pod(&pod.id);
        if let Some(level) = &pod.selinux_level {
            self.levels.release(level);
        }
    }
}

/// Absolute cgroup path below which a pod's containers live. Without a parent from kubelet a pod
/// gets a directory of its own, so that its total can be measured; with systemd it has a scope of
/// its own in any case.
pub(crate) fn cgroup_parent(pod: &PodRecord) -> String {
    let parent = pod.config.cgroup_parent.trim_end_matches('/');
    match pod.cgroup_driver {
        CgroupDriver::Systemd => crate::scopes::path(&pod.id, parent),
        CgroupDriver::Cgroupfs if parent.is_empty() => format!("{DEFAULT_PARENT}/{}", pod.id),
        CgroupDriver::Cgroupfs => format!("/{}", parent.trim_start_matches('/')),
    }
}

/// Whether the group below which a pod's containers live is the pod's alone, and not kubelet's.
pub(crate) fn owns_cgroup_parent(pod: &PodRecord) -> bool {
    match pod.cgroup_driver {
        CgroupDriver::Systemd => true,
        // The root is nobody's to be put into: such a pod has one of its own too.
        CgroupDriver::Cgroupfs => pod.config.cgroup_parent.trim_matches('/').is_empty(),
    }
}

/// The wall clock as the CRI counts it.
pub fn now() -> UnixNanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixNanos(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// A fresh random id.
///
/// # Errors
/// The kernel's, when it has no random bytes to give.
pub(crate) fn random_id() -> Result<[u8; 32], rustix::io::Errno> {
    let mut bytes = [0; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes)
}

pub(crate) fn cgroup_of(parent: &str, id: &ContainerId) -> String {
    format!("{parent}/{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_was_made_for_a_pod_is_the_pods() {
        let pod = |parent: &str| {
            let mut record = PodRecord::clone(&crate::view::test_pod().record);
            Arc::make_mut(&mut record.config).cgroup_parent = parent.to_owned();
            record
        };
        for (parent, own) in [("", true), ("/", true), ("/kubepods/", false), ("a", false)] {
            let record = pod(parent);
            let below = cgroup_parent(&record);
            assert_eq!(below.starts_with(DEFAULT_PARENT), own, "{parent}: {below}");
            assert_eq!(owns_cgroup_parent(&record), own, "{parent}");
        }
    }
}
