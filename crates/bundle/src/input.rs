//! What a spec is made of: the requests, and the facts the caller has looked up for them.

use model::{
    CgroupLayout, ContainerConfig, ContainerId, IdMaps, ImageConfig, PodConfig, ResolvedUser,
    SandboxId, StringMap,
};

/// What the host is and offers; the same for every container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Cgroup hierarchies.
    pub cgroup: CgroupLayout,
    /// Whether memory and swap can be limited together (`memory.memsw.*`, `memory.swap.max`).
    pub swap_limit: bool,
    /// AppArmor, if it is enabled.
    pub apparmor: Option<AppArmorFacts>,
    /// SELinux, if it is enabled.
    pub selinux: Option<SelinuxFacts>,
    /// Capabilities the daemon can give: its own bounding set, as a bit mask.
    pub bounding_caps: u64,
    /// All device nodes, for privileged containers.
    pub devices: Vec<HostDevice>,
    /// Kernel version: major, minor.
    pub kernel: (u32, u32),
    /// Whether mounts can be made read-only with their submounts (`mount_setattr(2)`).
    pub recursive_read_only: bool,
}

/// What the runtime of a container has, on this host: every handler's is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuntimeFacts {
    /// Whether it makes mounts read-only with their submounts.
    pub recursive_read_only: bool,
    /// Whether it applies seccomp profiles.
    pub seccomp: bool,
}

/// What is loaded into an AppArmor host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppArmorFacts {
    /// The profile of containers that name none; loaded by the daemon.
    pub default_profile: String,
    /// Names of all loaded profiles.
    pub loaded: Vec<String>,
}

/// What an SELinux host's policy calls containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelinuxFacts {
    /// Base label of processes.
    pub process: String,
    /// Base label of files.
    pub file: String,
}

/// Kind of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Character device.
    Char,
    /// Block device.
    Block,
}

/// A device node of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// Where it is.
    pub path: String,
    /// Kind.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// One node of a requested device: symlinks followed, a directory listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedDevice {
    /// The node; its `path` is the one inside the container.
    pub node: HostDevice,
    /// `permissions` of the request it comes from.
    pub permissions: String,
}

/// Facts about one requested mount's source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedMount {
    /// The source with symlinks resolved.
    pub host_path: String,
    /// Whether the mount it lies on is shared.
    pub shared: bool,
    /// Whether the mount it lies on is a slave.
    pub slave: bool,
}

/// A directory of the host that backs an anonymous volume of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnonymousVolume {
    /// One of [`crate::image_volumes`].
    pub container_path: String,
    /// The directory.
    pub host_path: String,
}

/// Host paths of the files of the pod; shared by its containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFiles {
    /// `/etc/hostname`.
    pub hostname: String,
    /// `/etc/hosts`.
    pub hosts: String,
    /// `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// `/dev/shm`.
    pub shm: String,
}

/// Namespace files to join.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamespacePaths {
    /// The pod's network namespace, unless it has the host's.
    pub net: Option<String>,
    /// The pod's IPC namespace, unless it has the host's.
    pub ipc: Option<String>,
    /// The pod's UTS namespace, unless it has the host's.
    pub uts: Option<String>,
    /// The pod's shared PID namespace or that of the target container, if the request needs one.
    pub pid: Option<String>,
    /// The pod's user namespace, unless it has the host's.
    pub user: Option<String>,
}

/// Everything one container's spec depends on.
#[derive(Debug, Clone, Copy)]
pub struct ContainerInput<'a> {
    /// The pod's sandbox.
    pub sandbox: &'a SandboxId,
    /// The container.
    pub container: &'a ContainerId,
    /// The pod's configuration, as given to RunPodSandbox.
    pub pod: &'a PodConfig,
    /// The container's configuration.
    pub config: &'a ContainerConfig,
    /// The image's name, for annotations.
    pub image_name: &'a str,
    /// The image's configuration.
    pub image: &'a ImageConfig,
    /// From [`crate::resolve_user`].
    pub user: &'a ResolvedUser,
    /// The pod's host name in effect: the configured one or the host's.
    pub hostname: &'a str,
    /// The pod's files.
    pub files: &'a PodFiles,
    /// `root.path`.
    pub root_path: &'a str,
    /// `linux.cgroupsPath`.
    pub cgroup_path: &'a str,
    /// Namespaces to join.
    pub namespaces: &'a NamespacePaths,
    /// Facts about `config.mounts`, one for each, in the same order.
    pub mounts: &'a [ResolvedMount],
    /// Backing of [`crate::image_volumes`].
    pub volumes: &'a [AnonymousVolume],
    /// Nodes of `config.devices`.
    pub devices: &'a [ResolvedDevice],
    /// Text of the Localhost seccomp profile, if one is asked for.
    pub localhost_seccomp: Option<&'a str>,
    /// The pod's own SELinux level, on hosts with SELinux.
    pub selinux_level: Option<&'a str>,
    /// Annotations the handler lets through to the spec.
    pub annotations: &'a StringMap,
    /// The host.
    pub host: &'a HostFacts,
    /// Who runs it.
    pub runtime: RuntimeFacts,
}

impl ContainerInput<'_> {
    /// Asked to be privileged.
    pub(crate) fn privileged(&self) -> bool {
        self.config.security.privileged
    }

    /// The maps of the pod's user namespace, if it has one of its own.
    pub(crate) fn users(&self) -> Option<&IdMaps> {
        self.pod.security.namespaces.own_users()
    }
}
