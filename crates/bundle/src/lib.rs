//! CRI configuration and image configuration to an OCI runtime spec.
//!
//! Pure functions over values: the caller reads files, resolves host paths and asks the kernel;
//! here is decided what they mean. Never here: files, clocks, processes, launching.
//!
//! Main types: [`ContainerInput`] in, [`oci_spec::runtime::Spec`] out, [`SpecError`];
//! [`HostFacts`] is what must be known about the host. Entry points: [`check_container`],
//! [`container_spec`], [`resolve_user`], [`image_volumes`], [`limits`], [`withheld_capabilities`],
//! [`wants_default_apparmor`], [`selinux_labels`], and for the pod itself [`pause_spec`] and [`pod_sysctls`].
//!
//! What cannot be honoured is an error that names it, never left out.
#![forbid(unsafe_code)]

mod apparmor;
mod canonical;
mod capability;
mod error;
mod image;
mod input;
mod namespaces;
mod path;
mod pod;
mod selinux;
mod spec;
mod user;

pub use apparmor::wants_default_apparmor;
pub use canonical::canonical_json;
pub use error::SpecError;
pub use image::image_spec;
pub use input::{
    AnonymousVolume, AppArmorFacts, ContainerInput, DeviceKind, HostDevice, HostFacts,
    NamespacePaths, PodFiles, ResolvedDevice, ResolvedMount, RuntimeFacts, SelinuxFacts,
};
pub use namespaces::{PidSource, pid_source};
pub use selinux::{SelinuxLabels, selinux_labels, selinux_level, selinux_merged};
pub use spec::{
    check_container, container_spec, environment, image_volumes, limits, process_args,
    seccomp::default_profile,
};
pub use user::{UserError, resolve_user};

pub use pod::{PauseInput, pause_spec, pod_sysctls};

pub use capability::{CapabilityMasks, capabilities, withheld_capabilities};
