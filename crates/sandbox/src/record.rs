//! What is stored of pods and containers. These types are a contract with other versions of
//! knarr: fields are added with `#[serde(default)]`, never renamed.

use std::net::IpAddr;
use std::sync::Arc;

use model::{
    CgroupDriver, ContainerConfig, ContainerId, Digest, PodConfig, ResolvedUser, Resources,
    SandboxId, Signal, UnixNanos,
};
use serde::{Deserialize, Serialize};
use store::Record;

use crate::handler::Handler;

/// How far a pod got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodPhase {
    /// Recorded before its first side effect; a crash here leaves something to clean.
    Creating,
    /// `RunPodSandbox` has succeeded.
    Ready,
    /// Its processes and its network are gone, or are to go. Final.
    Stopped,
}

/// A pod's place in its network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// Addresses, primary first.
    pub ips: Vec<IpAddr>,
    /// The CNI result as returned.
    pub result: serde_json::Value,
}

/// Tells one process from a later one of the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Host pid.
    pub pid: i32,
    /// Clock ticks since boot at which it started (`/proc/<pid>/stat`, field 22).
    pub start_ticks: u64,
}

/// A pod, as stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodRecord {
    /// Id.
    pub id: SandboxId,
    /// As requested.
    pub config: Arc<PodConfig>,
    /// Runtime handler, as requested (empty: the default).
    pub handler: String,
    /// What that meant when the pod was made.
    #[serde(default)]
    pub runtime: Handler,
    /// Set when it first became READY, and before that when it was reserved.
    pub created_at: UnixNanos,
    /// The boot it was made in: another one means its processes and namespaces are gone.
    pub boot_id: String,
    /// How far it got.
    pub phase: PodPhase,
    /// Its shim.
    pub shim: Option<ProcessRecord>,
    /// Written before CNI ADD: CNI DEL is due.
    pub attached: bool,
    /// Result of CNI ADD.
    pub network: Option<NetworkRecord>,
    /// The pod's overhead, where it has been changed since.
    #[serde(default)]
    pub overhead: Option<Resources>,
    /// The sum of its containers' resources, where it has been changed since.
    #[serde(default)]
    pub resources: Option<Resources>,
    /// Its own SELinux level, on hosts with SELinux.
    #[serde(default)]
    pub selinux_level: Option<String>,
    /// Who made its control group: the daemon may have come to use another driver since.
    #[serde(default)]
    pub cgroup_driver: CgroupDriver,
}

impl PodRecord {
    /// What the pod costs beyond its containers, as told last.
    pub fn overhead(&self) -> Option<&Resources> {
        self.overhead.as_ref().or(self.config.overhead.as_ref())
    }

    /// The sum of its containers' resources, as told last.
    pub fn resources(&self) -> Option<&Resources> {
        self.resources.as_ref().or(self.config.resources.as_ref())
    }
}

impl Record for PodRecord {
    const KIND: &'static str = "sandbox";
    const VERSION: u32 = 1;
}

/// Why a container ended, as CRI's `reason` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// Exit code 0.
    Completed,
    /// Another exit code or a signal.
    Error,
    /// Chosen by the kernel's OOM killer.
    OomKilled,
    /// Ended by its seccomp filter.
    SeccompKilled,
    /// The program never ran.
    StartError,
    /// Lost over a crash or a reboot.
    Unknown,
}

impl ExitReason {
    /// CRI's text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::SeccompKilled => "seccomp killed",
            Self::StartError => "StartError",
            Self::Unknown => "Unknown",
        }
    }
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// When it had started; never, after a start error.
    pub started_at: Option<UnixNanos>,
    /// When.
    pub finished_at: UnixNanos,
    /// Exit code, or 128 plus the signal.
    pub code: i32,
    /// Why.
    pub reason: ExitReason,
    /// For people.
    pub message: String,
}

/// Where a container is in its life.
///
/// ```text
/// Created ──► Running ──► Exited
///    └────── start error ────┘
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Everything is prepared, nothing runs.
    Created,
    /// Its program runs.
    Running {
        /// Host pid of its first process.
        pid: i32,
        /// Since when.
        started_at: UnixNanos,
    },
    /// Ended. Final: these fields never change again.
    Exited(ExitRecord),
}

/// An image that a container mounts as a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageVolumeRecord {
    /// Its id.
    pub image_id: Digest,
    /// Its layers, base first: what must not be freed.
    pub layers: Vec<Digest>,
}

/// A container, as stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Id.
    pub id: ContainerId,
    /// Its pod.
    pub sandbox: SandboxId,
    /// As requested.
    pub config: Arc<ContainerConfig>,
    /// Id of its image.
    pub image_id: Digest,
    /// First tag of the image, or what was asked for.
    pub image_name: String,
    /// First repository digest, else the id.
    pub image_ref: String,
    /// The image's layers, base first: what must not be freed.
    pub layers: Vec<Digest>,
    /// Images it mounts, one for each mount that names one, in their order.
    #[serde(default)]
    pub image_volumes: Vec<ImageVolumeRecord>,
    /// User it runs as.
    pub user: ResolvedUser,
    /// Signal that asks it to end.
    pub stop_signal: Signal,
    /// Absolute path of its log.
    pub log_path: Option<String>,
    /// When it was made.
    pub created_at: UnixNanos,
    /// Limits now in force.
    pub resources: Resources,
    /// Where it is in its life.
    pub state: ContainerState,
}

impl ContainerRecord {
    /// Where its log is, if it has one.
    pub(crate) fn log_dir(&self) -> Option<&std::path::Path> {
        self.log_path.as_deref().and_then(|log| std::path::Path::new(log).parent())
    }

    /// Every layer it needs: its own image's and those of the images it mounts.
    pub fn all_layers(&self) -> impl Iterator<Item = Digest> {
        let volumes = self.image_volumes.iter().flat_map(|volume| &volume.layers);
        self.layers.iter().chain(volumes).copied()
    }

    /// Every image whose layers it needs.
    pub fn all_images(&self) -> impl Iterator<Item = Digest> {
        let volumes = self.image_volumes.iter().map(|volume| volume.image_id);
        std::iter::once(self.image_id).chain(volumes)
    }
}

impl Record for ContainerRecord {
    const KIND: &'static str = "container";
    const VERSION: u32 = 1;
}
