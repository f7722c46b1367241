//! A Pod as its author meant it: typed, complete, only what `knarr run` can do.

use std::collections::BTreeMap;

use cri_api::v1;

use super::{fields::Place, plan::PullPolicy, quantity::Quantity};

#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: Option<String>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) init_containers: Vec<Container>,
    pub(super) containers: Vec<Container>,
    pub(super) volumes: Vec<Volume>,
    pub(super) host_network: bool,
    pub(super) host_pid: bool,
    pub(super) host_ipc: bool,
    pub(super) share_pid: bool,
    pub(super) hostname: Option<String>,
    pub(super) dns_policy: Option<DnsPolicy>,
    pub(super) dns: Option<Dns>,
    pub(super) security: PodSecurity,
    pub(super) restart_policy: Option<RestartPolicy>,
    pub(super) grace_seconds: Option<i64>,
    pub(super) runtime_class: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DnsPolicy {
    ClusterFirst,
    ClusterFirstWithHostNet,
    Default,
    None,
}

#[derive(Debug)]
pub(super) struct Dns {
    pub(super) servers: Vec<String>,
    pub(super) searches: Vec<String>,
    pub(super) options: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Volume {
    pub(super) place: Place,
    pub(super) name: String,
    pub(super) source: VolumeSource,
}

#[derive(Debug)]
pub(super) enum VolumeSource {
    EmptyDir,
    HostPath { path: String, kind: HostPathKind },
    Image { reference: String, pull: Option<PullPolicy> },
}

/// What a `hostPath` must be, or be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPathKind {
    /// Whatever is there.
    Any,
    /// A directory, made if missing.
    DirectoryOrCreate,
    /// A directory.
    Directory,
    /// A file, made if missing.
    FileOrCreate,
    /// A file.
    File,
    /// A unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// User, group and profiles, as a pod or one of its containers names them.
#[derive(Debug, Clone, Default)]
pub(super) struct Identity {
    pub(super) user: Option<i64>,
    pub(super) group: Option<i64>,
    pub(super) non_root: Option<bool>,
    pub(super) seccomp: Option<v1::SecurityProfile>,
    pub(super) apparmor: Option<v1::SecurityProfile>,
    pub(super) selinux: Option<v1::SeLinuxOption>,
}

#[derive(Debug, Default)]
pub(super) struct PodSecurity {
    pub(super) identity: Identity,
    pub(super) supplemental_groups: Vec<i64>,
    pub(super) groups_policy: Option<v1::SupplementalGroupsPolicy>,
    pub(super) fs_group: Option<i64>,
    pub(super) sysctls: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(super) struct Container {
    pub(super) place: Place,
    pub(super) name: String,
    pub(super) image: String,
    pub(super) pull: Option<PullPolicy>,
    pub(super) command: Vec<String>,
    pub(super) args: Vec<String>,
    pub(super) working_dir: String,
    pub(super) env: Vec<(String, String)>,
    pub(super) ports: Vec<v1::PortMapping>,
    pub(super) mounts: Vec<VolumeMount>,
    pub(super) resources: Resources,
    pub(super) huge_pages: Vec<HugePages>,
    pub(super) security: ContainerSecurity,
    pub(super) stdin: bool,
    pub(super) stdin_once: bool,
    pub(super) tty: bool,
}

#[derive(Debug)]
pub(super) struct VolumeMount {
    pub(super) place: Place,
    pub(super) volume: String,
    pub(super) path: String,
    /// Directory of the volume; empty: all of it.
    pub(super) sub_path: String,
    pub(super) readonly: bool,
    pub(super) recursive: bool,
    pub(super) propagation: v1::MountPropagation,
}

/// A limit of pages of one size.
#[derive(Debug, Clone, Copy)]
pub(super) struct HugePages {
    /// Bytes of a page.
    pub(super) page: Quantity,
    pub(super) limit: Quantity,
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Resources {
    pub(super) cpu_limit: Option<Quantity>,
    pub(super) cpu_request: Option<Quantity>,
    pub(super) memory_limit: Option<Quantity>,
    pub(super) memory_request: Option<Quantity>,
}

#[derive(Debug, Default)]
pub(super) struct ContainerSecurity {
    pub(super) identity: Identity,
    pub(super) privileged: bool,
    pub(super) readonly_rootfs: bool,
    pub(super) allow_escalation: Option<bool>,
    pub(super) add_capabilities: Vec<String>,
    pub(super) drop_capabilities: Vec<String>,
    pub(super) unmasked_proc: bool,
}
