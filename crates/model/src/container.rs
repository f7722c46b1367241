//! What a container is asked to be. CRI: `ContainerConfig`.

use crate::{ContainerSecurity, IdMapping, Resources, Signal, StringMap};

/// The identity kubelet gives a container within its pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ContainerName {
    /// Container name.
    pub name: String,
    /// How many containers of this name the pod had before.
    pub attempt: u32,
}

/// How a caller names an image. CRI: `ImageSpec`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ImageSpec {
    /// Id or reference to resolve.
    pub image: String,
    /// What the pod's author wrote; echoed in status.
    pub user_specified: String,
    /// Runtime handler the image is meant for; empty: the default.
    pub runtime_handler: String,
    /// The id kubelet knows the image by.
    pub image_ref: String,
    /// Annotations, echoed.
    pub annotations: StringMap,
}

/// One environment variable; values need not be UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct EnvVar {
    /// Name.
    pub key: String,
    /// Value.
    #[cfg_attr(feature = "serde", serde(with = "bytes_as_text"))]
    pub value: Vec<u8>,
}

/// CRI: `MountPropagation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum MountPropagation {
    /// Neither way.
    #[default]
    Private,
    /// Later host mounts appear in the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// What a requested mount shows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum MountSource {
    /// A path on the host, as requested (not resolved).
    Host(String),
    /// An image, read-only, optionally a directory below its root.
    Image {
        /// The image.
        image: ImageSpec,
        /// Path below its root; empty for the root.
        sub_path: String,
    },
}

/// One requested mount. CRI: `Mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MountRequest {
    /// Path inside the container.
    pub container_path: String,
    /// What is mounted there.
    pub source: MountSource,
    /// Read-only.
    pub readonly: bool,
    /// Read-only for submounts too.
    pub recursive_read_only: bool,
    /// Relabel the source with the container's SELinux label.
    pub selinux_relabel: bool,
    /// Propagation.
    pub propagation: MountPropagation,
    /// User id mappings of an id-mapped mount.
    pub uid_mappings: Vec<IdMapping>,
    /// Group id mappings of an id-mapped mount.
    pub gid_mappings: Vec<IdMapping>,
    /// Further mount options: `noexec`, `nodev`, `nosuid`.
    pub options: Vec<String>,
}

/// A requested host device. CRI: `Device`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DeviceRequest {
    /// Path inside the container.
    pub container_path: String,
    /// Device node, or directory of nodes, on the host.
    pub host_path: String,
    /// Subset of `rwm`.
    pub permissions: String,
}

/// A requested CDI device by its qualified name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CdiDevice {
    /// `vendor.com/class=name`.
    pub name: String,
}

/// Everything a container is asked to be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ContainerConfig {
    /// Identity.
    pub name: ContainerName,
    /// Image.
    pub image: ImageSpec,
    /// Replaces the image's entrypoint (and drops its cmd).
    pub command: Vec<String>,
    /// Replaces the image's cmd.
    pub args: Vec<String>,
    /// Working directory; empty: the image's.
    pub working_dir: String,
    /// Environment, later entries win.
    pub envs: Vec<EnvVar>,
    /// Mounts.
    pub mounts: Vec<MountRequest>,
    /// Host devices.
    pub devices: Vec<DeviceRequest>,
    /// CDI devices.
    pub cdi_devices: Vec<CdiDevice>,
    /// Labels, returned byte for byte.
    pub labels: StringMap,
    /// Annotations, returned byte for byte.
    pub annotations: StringMap,
    /// Log file relative to the pod's log directory; empty: no log.
    pub log_path: String,
    /// Keep stdin open.
    pub stdin: bool,
    /// Close stdin after the first attach ends.
    pub stdin_once: bool,
    /// Give the process a terminal.
    pub tty: bool,
    /// Overrides the image's stop signal.
    pub stop_signal: Option<Signal>,
    /// Resource limits.
    pub resources: Resources,
    /// Security settings.
    pub security: ContainerSecurity,
}

impl ContainerConfig {
    /// A container of this name that asks for nothing else.
    pub fn new(name: ContainerName) -> Self {
        Self {
            name,
            image: ImageSpec::default(),
            command: Vec::new(),
            args: Vec::new(),
            working_dir: String::new(),
            envs: Vec::new(),
            mounts: Vec::new(),
            devices: Vec::new(),
            cdi_devices: Vec::new(),
            labels: StringMap::new(),
            annotations: StringMap::new(),
            log_path: String::new(),
            stdin: false,
            stdin_once: false,
            tty: false,
            stop_signal: None,
            resources: Resources::default(),
            security: ContainerSecurity::default(),
        }
    }
}

/// Records stay readable: bytes are stored as text where they are UTF-8, else as `{"hex": …}`.
#[cfg(feature = "serde")]
mod bytes_as_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Stored {
        Text(String),
        Hex { hex: String },
    }

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Stored::Text(text.to_owned()),
            Err(_) => Stored::Hex { hex: bytes.iter().map(|b| format!("{b:02x}")).collect() },
        }
        .serialize(out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<u8>, D::Error> {
        match Stored::deserialize(input)? {
            Stored::Text(text) => Ok(text.into_bytes()),
            Stored::Hex { hex } => hex
                .as_bytes()
                .chunks(2)
                .map(|pair| std::str::from_utf8(pair).ok())
                .map(|pair| pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()))
                .collect::<Option<Vec<u8>>>()
                .ok_or_else(|| D::Error::custom("an environment value is not hexadecimal")),
        }
    }
}

#[cfg(all(test, feature = "serde"))]
mod tests {
    use super::EnvVar;

    #[test]
    fn environment_values_survive_a_record_whatever_their_bytes() {
        for value in [b"plain".to_vec(), vec![0xff, 0x00, 0x41], Vec::new()] {
            let var = EnvVar { key: "K".into(), value };
            let json = serde_json::to_string(&var).unwrap();
            assert_eq!(serde_json::from_str::<EnvVar>(&json).unwrap(), var);
        }
    }
}
