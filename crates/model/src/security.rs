//! Users, capabilities and profiles. CRI: `LinuxContainerSecurityContext`.

use crate::NamespaceOptions;

/// A seccomp or AppArmor profile by kind. CRI: `SecurityProfile`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum SecurityProfile {
    /// The runtime's built-in profile.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// A file (seccomp) or a loaded profile's name (AppArmor) on this host.
    Localhost(String),
}

/// SELinux label parts. CRI: `SELinuxOption`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SelinuxOptions {
    /// User.
    pub user: String,
    /// Role.
    pub role: String,
    /// Type.
    pub r#type: String,
    /// Level.
    pub level: String,
}

/// Requested capability changes, as given (with or without `CAP_`, any case).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Capabilities {
    /// Added to the default set; `ALL` is understood.
    pub add: Vec<String>,
    /// Removed from it; `ALL` is understood.
    pub drop: Vec<String>,
    /// Added to all five sets.
    pub add_ambient: Vec<String>,
}

/// How supplemental groups of the image and of the request combine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum GroupsPolicy {
    /// Both.
    #[default]
    Merge,
    /// Only those of the request.
    Strict,
}

/// The requested user, before the image's files are looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RunAs {
    /// Numeric user.
    pub user: Option<i64>,
    /// Numeric group; needs a user.
    pub group: Option<i64>,
    /// User by name; beats the number.
    pub username: String,
    /// Further groups.
    pub supplemental_groups: Vec<i64>,
    /// How they combine with the image's.
    pub groups_policy: GroupsPolicy,
}

/// The user a container really runs as. CRI: `LinuxContainerUser`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All groups, the primary one included.
    pub groups: Vec<u32>,
    /// Home directory from the image's passwd, if listed.
    pub home: Option<String>,
}

/// Security settings of one container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ContainerSecurity {
    /// Capability changes.
    pub capabilities: Capabilities,
    /// Privileged: needs a privileged pod.
    pub privileged: bool,
    /// Namespaces.
    pub namespaces: NamespaceOptions,
    /// SELinux label parts; `None`: the pod's.
    pub selinux: Option<SelinuxOptions>,
    /// User and groups.
    pub run_as: RunAs,
    /// Read-only root file system.
    pub readonly_rootfs: bool,
    /// Forbid gaining privileges by exec.
    pub no_new_privs: bool,
    /// Paths hidden from the container.
    pub masked_paths: Vec<String>,
    /// Paths made read-only.
    pub readonly_paths: Vec<String>,
    /// Seccomp profile; `None`: unconfined.
    pub seccomp: Option<SecurityProfile>,
    /// AppArmor profile; `None`: the runtime's where the host has AppArmor.
    pub apparmor: Option<SecurityProfile>,
}
