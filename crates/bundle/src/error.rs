//! Why a request makes no spec.

/// Why a container's configuration cannot become a spec.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Privileged containers need a privileged pod.
    #[error("no privileged container allowed in sandbox")]
    PrivilegedContainer,
    /// Neither the request nor the image says what to run.
    #[error("no command specified")]
    NoCommand,
    /// knarr cannot do this yet.
    #[error("{what} is not supported")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
    },
    /// A value nothing can be made of.
    #[error("`{field}` is `{value}`: want {want}")]
    Invalid {
        /// Field of the CRI request.
        field: &'static str,
        /// The refused value.
        value: String,
        /// What would be right.
        want: &'static str,
    },
    /// A fact the caller must give for this request.
    #[error("the {what} is not known")]
    Missing {
        /// Which.
        what: &'static str,
    },
    /// A capability name the kernel's list does not have.
    #[error("`{name}` is not a capability")]
    UnknownCapability {
        /// As given.
        name: String,
    },
    /// A container cannot have this PID namespace in this pod.
    #[error(
        "`namespace_options.pid` of the container is {container:?}, but that of its pod is {pod:?}"
    )]
    PidMode {
        /// The container's.
        container: model::NamespaceMode,
        /// The pod's.
        pod: model::NamespaceMode,
    },
    /// A container's user namespace must be its pod's.
    #[error("`userns_options` of the container ({container}) differ from those of its pod ({pod})")]
    UserNamespace {
        /// Mode and mappings.
        container: String,
        /// Mode and mappings.
        pod: String,
    },
    /// A user of the container is nobody in the pod's user namespace.
    #[error("`{field}` is {id}: want an id that `userns_options` map")]
    Unmapped {
        /// Which id.
        field: &'static str,
        /// As requested or found in the image.
        id: u32,
    },
    /// A profile for a runtime that would start the container without it.
    #[error(
        "its runtime handler says that it applies no seccomp profiles (`linux.seccomp` of its `features`): use another handler, or ask for `Unconfined`"
    )]
    WithoutSeccomp,
    /// Recursive read-only mounts were asked for where they cannot be had.
    #[error("RROUnsupported: mount on `{destination}` asks for recursive read-only: {reason}")]
    RecursiveReadOnly {
        /// Path in the container.
        destination: String,
        /// Why not.
        reason: &'static str,
    },
    /// The source of a mount does not propagate as asked.
    #[error("mount on `{destination}`: `{source_path}` is on a mount that is not {want}")]
    Propagation {
        /// Path in the container.
        destination: String,
        /// Path on the host.
        source_path: String,
        /// `shared`, or `shared or slave`.
        want: &'static str,
    },
    /// A profile is named where there is no AppArmor.
    #[error("AppArmor profile `{profile}` is asked for, but AppArmor is not enabled on this host")]
    NoAppArmor {
        /// Its name.
        profile: String,
    },
    /// The AppArmor profile is not loaded on this host.
    #[error("AppArmor profile `{profile}` is not loaded")]
    AppArmorProfile {
        /// Its name.
        profile: String,
    },
    /// The host's policy names a base label that is none.
    #[error(
        "the SELinux policy's label for containers, `{label}`, is not of the form user:role:type:level: see lxc_contexts in the policy's directory below /etc/selinux"
    )]
    SelinuxPolicy {
        /// The label.
        label: String,
    },
    /// A Localhost seccomp profile that is not a profile.
    #[error("seccomp profile `{profile}` is not an OCI seccomp profile")]
    SeccompProfile {
        /// Path on the host.
        profile: String,
        /// The parser's complaint.
        source: serde_json::Error,
    },
    /// A profile in Docker's own format, whose conditions the OCI format would silently lose.
    #[error("seccomp profile `{profile}` uses `{key}`, which the OCI format does not have")]
    SeccompFormat {
        /// Path on the host.
        profile: String,
        /// The offending key.
        key: &'static str,
    },
    /// The pod's user.
    #[error("the pod's process cannot run as asked")]
    User(#[from] crate::UserError),
    /// The OCI type refused its own parts.
    #[error("an OCI type could not be built")]
    Build(#[from] oci_spec::OciSpecError),
}

impl SpecError {
    pub(crate) fn selinux_policy(label: &str) -> Self {
        Self::SelinuxPolicy { label: label.to_owned() }
    }

    #[allow(
        clippy::needless_pass_by_value,
        reason = "numbers and texts read better at the callers"
    )]
    pub(crate) fn invalid(field: &'static str, value: impl ToString, want: &'static str) -> Self {
        let value = value.to_string();
        Self::Invalid { field, value, want }
    }
}
