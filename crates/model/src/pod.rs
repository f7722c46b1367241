//! What a pod sandbox is asked to be. CRI: `PodSandboxConfig`.

use crate::{IdMaps, Resources, SecurityProfile, SelinuxOptions, StringMap, security::RunAs};

/// The identity kubelet gives a sandbox; the four together are unique among live sandboxes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PodName {
    /// Pod name.
    pub name: String,
    /// Pod namespace.
    pub namespace: String,
    /// Pod UID.
    pub uid: String,
    /// How many sandboxes this pod had before.
    pub attempt: u32,
}

/// Where a namespace comes from. CRI: `NamespaceMode`; an unset message means `Pod`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum NamespaceMode {
    /// Shared by the containers of the pod.
    #[default]
    Pod,
    /// The container's own.
    Container,
    /// The host's.
    Node,
    /// That of the container named by `target_id`.
    Target,
}

/// A pod's user namespace. CRI: `UserNamespace`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct UserNamespace {
    /// `Pod` for an own user namespace, `Node` for none.
    pub mode: NamespaceMode,
    /// Whom it maps.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub maps: IdMaps,
}

impl NamespaceOptions {
    /// The maps of the pod's own user namespace, if it has one.
    pub fn own_users(&self) -> Option<&IdMaps> {
        let users = self.userns.as_ref().filter(|users| users.mode == NamespaceMode::Pod);
        users.map(|users| &users.maps)
    }
}

/// The requested namespaces, echoed back in status. CRI: `NamespaceOption`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NamespaceOptions {
    /// Network namespace: `Pod` or `Node`.
    pub network: NamespaceMode,
    /// PID namespace: any mode.
    pub pid: NamespaceMode,
    /// IPC namespace: `Pod` or `Node`.
    pub ipc: NamespaceMode,
    /// The container whose PID namespace `pid = Target` joins.
    pub target_id: String,
    /// User namespace, if one was asked for.
    pub userns: Option<UserNamespace>,
}

/// CRI: `Protocol` of a port mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum PortProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// One published port. CRI: `PortMapping`; `host_port` 0 or less means "not published".
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PortMapping {
    /// Transport protocol.
    pub protocol: PortProtocol,
    /// Port inside the pod.
    pub container_port: i32,
    /// Port on the host.
    pub host_port: i32,
    /// Host address to listen on; empty for all.
    pub host_ip: String,
}

/// The pod's resolver. CRI: `DNSConfig`; absent means "copy the host's resolv.conf".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DnsConfig {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// `search` line.
    pub searches: Vec<String>,
    /// `options` line.
    pub options: Vec<String>,
}

/// CRI: `LinuxSandboxSecurityContext`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PodSecurity {
    /// Namespaces of the pod.
    pub namespaces: NamespaceOptions,
    /// SELinux label parts.
    pub selinux: Option<SelinuxOptions>,
    /// User of the sandbox process.
    pub run_as: RunAs,
    /// Read-only root of the sandbox process.
    pub readonly_rootfs: bool,
    /// Whether privileged containers are allowed in this pod.
    pub privileged: bool,
    /// Seccomp profile of the sandbox process; `None` is unconfined.
    pub seccomp: Option<SecurityProfile>,
    /// AppArmor profile of the sandbox process.
    pub apparmor: Option<SecurityProfile>,
}

/// Everything a sandbox is asked to be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PodConfig {
    /// Identity.
    pub name: PodName,
    /// UTS host name; empty: the host's.
    pub hostname: String,
    /// Host directory of container logs; empty: no logs are kept.
    pub log_directory: String,
    /// Resolver settings; `None`: those of the host.
    pub dns: Option<DnsConfig>,
    /// Published ports.
    pub port_mappings: Vec<PortMapping>,
    /// Labels, returned byte for byte.
    pub labels: StringMap,
    /// Annotations, returned byte for byte.
    pub annotations: StringMap,
    /// Parent cgroup, in the form of the cgroup driver; empty: knarr's own.
    pub cgroup_parent: String,
    /// Namespaced kernel parameters.
    pub sysctls: StringMap,
    /// Pod overhead: information only.
    pub overhead: Option<Resources>,
    /// Sum of the containers' resources: information only.
    pub resources: Option<Resources>,
    /// Security settings.
    pub security: PodSecurity,
}

impl PodConfig {
    /// A pod of this name that asks for nothing else.
    pub fn new(name: PodName) -> Self {
        Self {
            name,
            hostname: String::new(),
            log_directory: String::new(),
            dns: None,
            port_mappings: Vec::new(),
            labels: StringMap::new(),
            annotations: StringMap::new(),
            cgroup_parent: String::new(),
            sysctls: StringMap::new(),
            overhead: None,
            resources: None,
            security: PodSecurity::default(),
        }
    }
}
