//! Containers: made.

use model::{ContainerId, SandboxId};

use crate::admission::Refusal;
use crate::files::FileError;
use crate::view::LookupError;

/// Why `CreateContainer` failed. Nothing is left.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The pod.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The pod is not READY.
    #[error("cannot create container `{name}` in sandbox {sandbox}")]
    Refused {
        /// Container name.
        name: String,
        /// The pod.
        sandbox: SandboxId,
        /// Why.
        source: Refusal,
    },
    /// `metadata.name` is empty.
    #[error("metadata.name of the container is empty")]
    EmptyName,
    /// A live container of the pod has the same name.
    #[error("container name {name:?} is reserved for container {holder}")]
    NameTaken {
        /// `name_attempt`
        name: String,
        /// Who holds it.
        holder: ContainerId,
    },
    /// No such image here; the caller pulls it first.
    #[error("image `{image}` is not present")]
    ImageNotFound {
        /// As requested.
        image: String,
    },
    /// The image's name cannot be read.
    #[error(transparent)]
    Image(image::ResolveError),
    /// The image's user files cannot be read.
    #[error("cannot read the users of image `{image}`")]
    Accounts {
        /// As requested.
        image: String,
        /// Why.
        source: image::AccountsError,
    },
    /// The user cannot be resolved.
    #[error("cannot resolve the user of container `{name}`")]
    User {
        /// Container name.
        name: String,
        /// Why.
        source: bundle::UserError,
    },
    /// A host path or device cannot be used.
    #[error("cannot use {what} of container `{name}`")]
    Host {
        /// `mount source /x`
        what: String,
        /// Container name.
        name: String,
        /// Why.
        source: FileError,
    },
    /// An image cannot be mounted. Kubelet knows this by the first word.
    #[error("ImageVolumeMountFailed: cannot mount an image on `{destination}`")]
    ImageVolume {
        /// Path in the container.
        destination: String,
        /// Why.
        source: Box<crate::image_volumes::ImageVolumeError>,
    },
    /// A mount cannot be recursively read-only. Kubelet knows this by the first word.
    #[error(transparent)]
    RecursiveReadOnly(bundle::SpecError),
    /// A CDI device.
    #[error("cannot give container `{name}` its devices")]
    Cdi {
        /// Container name.
        name: String,
        /// Why.
        source: Box<crate::cdi::CdiError>,
    },
    /// The handler's base spec.
    #[error("cannot specify container `{name}`")]
    BaseSpec {
        /// Container name.
        name: String,
        /// Why.
        source: crate::external::BaseSpecError,
    },
    /// A class of service.
    #[error("cannot put container `{name}` into its class")]
    Class {
        /// Container name.
        name: String,
        /// Why.
        source: Box<crate::classes::ClassError>,
    },
    /// A mount could not be labelled.
    #[error("cannot relabel a mount of container `{name}`")]
    Relabel {
        /// Container name.
        name: String,
        /// Why.
        source: lsm::selinux::RelabelError,
    },
    /// The host's AppArmor.
    #[error("cannot confine container `{name}`")]
    AppArmor {
        /// Container name.
        name: String,
        /// Why.
        source: lsm::apparmor::AppArmorError,
    },
    /// The log path leaves the pod's log directory.
    #[error("log path `{path}` of container `{name}` leaves the pod's log directory")]
    LogPath {
        /// As requested.
        path: String,
        /// Container name.
        name: String,
    },
    /// No OCI spec can be made of the request.
    #[error("cannot configure container `{name}`")]
    Spec {
        /// Container name.
        name: String,
        /// Why.
        source: bundle::SpecError,
    },
    /// The spec cannot be run on this host.
    #[error("cannot plan container `{name}`")]
    Plan {
        /// Container name.
        name: String,
        /// Why.
        source: crate::plan::PlanFailure,
    },
    /// The writable layer cannot be made.
    #[error("cannot prepare the writable layer of container `{name}`")]
    Layer {
        /// Container name.
        name: String,
        /// Why.
        source: snapshot::RootError,
    },
    /// The image cannot be looked into for its volumes.
    #[error("cannot prepare the image's volumes for container `{name}`")]
    Volumes {
        /// Container name.
        name: String,
        /// Why.
        source: snapshot::ViewError,
    },
    /// Files or the record cannot be written.
    #[error("cannot store container `{name}`")]
    Files {
        /// Container name.
        name: String,
        /// Why.
        source: FileError,
    },
    /// The record cannot be written.
    #[error("cannot record container `{name}`")]
    Record {
        /// Container name.
        name: String,
        /// Why.
        source: store::WriteError,
    },
    /// The kernel gave no random id.
    #[error("cannot make a container id")]
    Random(#[source] rustix::io::Errno),
    /// The pod went away meanwhile.
    #[error("sandbox {sandbox} was removed meanwhile")]
    PodGone {
        /// The pod.
        sandbox: SandboxId,
    },
}
