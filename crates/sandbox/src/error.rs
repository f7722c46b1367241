//! Why an operation failed. One enum per operation; `cri-server` maps each to a gRPC code.

use model::{ContainerId, SandboxId};

use crate::admission::Refusal;
use crate::files::FileError;
use crate::link::LinkError;
use crate::spawn::SpawnError;
use crate::validate::InvalidPod;
use crate::view::LookupError;

/// Why `RunPodSandbox` failed. Nothing is left unless [`RunError::LeftBehind`] says so.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration cannot be run.
    #[error(transparent)]
    Invalid(#[from] InvalidPod),
    /// No such runtime handler.
    #[error("runtime handler `{handler}` is not configured; known: {known}")]
    UnknownHandler {
        /// As requested.
        handler: String,
        /// Configured names.
        known: String,
    },
    /// The handler names a runtime this build does not drive.
    #[error(
        "runtime handler `{handler}` uses {path}: external runtimes are not supported by this version"
    )]
    ExternalHandler {
        /// As requested.
        handler: String,
        /// Its program.
        path: String,
    },
    /// A live pod has the same name.
    #[error("pod name {name:?} is reserved for sandbox {holder}")]
    NameTaken {
        /// `name_namespace_uid_attempt`
        name: String,
        /// Who holds it.
        holder: SandboxId,
    },
    /// The kernel gave no random id.
    #[error("cannot make a sandbox id")]
    Random(#[source] rustix::io::Errno),
    /// The record could not be written.
    #[error("cannot record sandbox {sandbox}")]
    Record {
        /// The pod.
        sandbox: SandboxId,
        /// Why.
        source: store::WriteError,
    },
    /// A directory or file could not be made.
    #[error("cannot prepare sandbox {sandbox}")]
    Files {
        /// The pod.
        sandbox: SandboxId,
        /// Why.
        source: FileError,
    },
    /// A file could not be labelled.
    #[error("cannot label the files of sandbox {sandbox}")]
    Label {
        /// The pod.
        sandbox: SandboxId,
        /// Why.
        source: lsm::selinux::RelabelError,
    },
    /// The shim could not be started.
    #[error("cannot start the shim of sandbox {sandbox}")]
    Spawn {
        /// The pod.
        sandbox: SandboxId,
        /// Why.
        source: SpawnError,
    },
    /// The pause process could not be planned.
    #[error("cannot plan the pause process of sandbox {sandbox}")]
    Pause {
        /// The pod.
        sandbox: SandboxId,
        /// Why.
        source: crate::plan::PlanFailure,
    },
    /// The shim could not make the pod.
    #[error("cannot set up sandbox {sandbox}")]
    Setup {
        /// The pod.
        sandbox: SandboxId,
        /// Why.
        source: LinkError,
    },
    /// The network could not be attached.
    #[error("cannot set up the network of sandbox {sandbox}")]
    Network {
        /// The pod.
        sandbox: SandboxId,
        /// Why.
        source: cni::AddError,
    },
    /// It failed, and so did part of the roll-back: the sandbox stays listed as NOTREADY.
    #[error("{source}; roll-back of sandbox {sandbox} is incomplete: {left}")]
    LeftBehind {
        /// The pod.
        sandbox: SandboxId,
        /// The failed clean-up.
        left: TeardownError,
        /// Why it failed in the first place.
        source: Box<RunError>,
    },
    /// The pod asks for a user namespace, and this node can give none.
    #[error("user namespaces are not available on this node: {reason}")]
    UserNamespaces {
        /// What was tried at start, and the kernel's answer.
        reason: String,
    },
    /// The daemon is shutting down.
    #[error("the daemon is shutting down")]
    ShuttingDown,
}

/// One step of a teardown that failed; the others were still done.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Containers that did not die.
    #[error("container {container} did not end within {seconds} s of SIGKILL")]
    StillRunning {
        /// The container.
        container: ContainerId,
        /// How long was waited.
        seconds: u64,
    },
    /// The shim.
    #[error("cannot end the shim")]
    Shim(#[source] LinkError),
    /// The network.
    #[error("cannot release the network")]
    Network(#[source] cni::DelError),
    /// The pinned network namespace.
    #[error("cannot unpin the network namespace")]
    Netns(#[source] FileError),
    /// A control group.
    #[error(transparent)]
    Cgroup(sys::cgroup::CgroupError),
    /// A container's writable layer.
    #[error("cannot remove the writable layer of container {container}")]
    Layer {
        /// The container.
        container: ContainerId,
        /// Why.
        source: snapshot::RootError,
    },
    /// A file or directory.
    #[error(transparent)]
    Files(FileError),
    /// A record.
    #[error(transparent)]
    Record(store::WriteError),
}

/// A teardown that could not be finished; calling again resumes it.
#[derive(Debug, thiserror::Error)]
#[error("{} of the teardown steps of sandbox {sandbox} failed: {}", failed.len(), list(failed))]
pub struct TeardownError {
    /// The pod.
    pub sandbox: SandboxId,
    /// What failed.
    pub failed: Vec<StepError>,
}

fn list(failed: &[StepError]) -> String {
    failed.iter().map(|error| chain(error)).collect::<Vec<_>>().join("; ")
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Transparent errors repeat their source's words.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Why `StopPodSandbox` or `RemovePodSandbox` failed. Unknown pods are not an error.
#[derive(Debug, thiserror::Error)]
pub enum StopPodError {
    /// An ambiguous or empty id.
    #[error(transparent)]
    Lookup(LookupError),
    /// Steps failed; call again.
    #[error(transparent)]
    Teardown(#[from] TeardownError),
}

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

/// Why `StartContainer` failed. After [`StartError::Launch`] the container is EXITED.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The container.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// Its state does not allow it.
    #[error("cannot start container {container}")]
    Refused {
        /// The container.
        container: ContainerId,
        /// Why.
        source: Refusal,
    },
    /// Its spec cannot be read back or planned.
    #[error("cannot plan container {container}")]
    Plan {
        /// The container.
        container: ContainerId,
        /// Why.
        source: crate::plan::PlanFailure,
    },
    /// The shim could not launch it.
    #[error("cannot start container {container}")]
    Launch {
        /// The container.
        container: ContainerId,
        /// Why.
        source: LinkError,
    },
    /// It runs, but its record could not be written.
    #[error("cannot record container {container}")]
    Record {
        /// The container.
        container: ContainerId,
        /// Why.
        source: store::WriteError,
    },
}

/// Why a container could not be stopped, removed, or its log reopened.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The container.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// Its state does not allow it.
    #[error("cannot {what} container {container}")]
    Refused {
        /// `reopen the log of`, `run a command in`
        what: &'static str,
        /// The container.
        container: ContainerId,
        /// Why.
        source: Refusal,
    },
    /// The shim.
    #[error("cannot {what} container {container}")]
    Shim {
        /// What was tried.
        what: &'static str,
        /// The container.
        container: ContainerId,
        /// Why.
        source: LinkError,
    },
    /// Its spec cannot be read back or planned.
    #[error("cannot plan a command in container {container}")]
    Plan {
        /// The container.
        container: ContainerId,
        /// Why.
        source: Box<crate::plan::PlanFailure>,
    },
    /// It outlived SIGKILL.
    #[error("container {container} did not end within {seconds} s of SIGKILL")]
    StillRunning {
        /// The container.
        container: ContainerId,
        /// How long was waited.
        seconds: u64,
    },
    /// Parts could not be removed; call again.
    #[error("cannot remove container {container}")]
    Remove {
        /// The container.
        container: ContainerId,
        /// Why.
        source: Box<StepError>,
    },
}

/// Why a container's limits could not be changed. The old ones hold.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The container.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// Its state does not allow it.
    #[error("cannot change the limits of container {container}")]
    Refused {
        /// The container.
        container: ContainerId,
        /// Why.
        source: Refusal,
    },
    /// They cannot be limits, or not on this host.
    #[error("cannot change the limits of container {container}")]
    Limits {
        /// The container.
        container: ContainerId,
        /// Why.
        source: crate::plan::PlanFailure,
    },
    /// The kernel refused one.
    #[error("cannot change the limits of container {container}")]
    Apply {
        /// The container.
        container: ContainerId,
        /// Why.
        source: crate::cgroups::LimitError,
    },
    /// The spec cannot be brought up to date.
    #[error("cannot write the limits of container {container} into its spec")]
    Spec {
        /// The container.
        container: ContainerId,
        /// Why.
        source: crate::plan::PlanFailure,
    },
    /// They cannot be recorded.
    #[error("cannot record the limits of container {container}")]
    Record {
        /// The container.
        container: ContainerId,
        /// Why.
        source: store::WriteError,
    },
}

/// Why `ExecSync` gave no result.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The container, or its state.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// An empty command line.
    #[error("the command to run in container {container} is empty")]
    EmptyCommand {
        /// The container.
        container: ContainerId,
    },
    /// No pipes.
    #[error("cannot make pipes for a command in container {container}")]
    Pipe {
        /// The container.
        container: ContainerId,
        /// Why.
        source: std::io::Error,
    },
    /// The shim could not start it, or died.
    #[error("cannot run `{command}` in container {container}")]
    Shim {
        /// The container.
        container: ContainerId,
        /// Its first word.
        command: String,
        /// Why.
        source: LinkError,
    },
    /// It ran longer than allowed and was killed with its descendants.
    #[error("command `{command}` in container {container} timed out after {seconds} s")]
    TimedOut {
        /// The container.
        container: ContainerId,
        /// Its first word.
        command: String,
        /// The limit.
        seconds: u64,
    },
}

/// Why nobody could be attached to a container.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The container, or its state.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// Only what it does not have was asked for.
    #[error("container {container} has no standard input to attach to")]
    NoStream {
        /// The container.
        container: ContainerId,
    },
    /// No pipes.
    #[error("cannot make pipes to attach to container {container}")]
    Pipe {
        /// The container.
        container: ContainerId,
        /// Why.
        source: std::io::Error,
    },
    /// The shim refused, or died.
    #[error("cannot attach to container {container}")]
    Shim {
        /// The container.
        container: ContainerId,
        /// Why.
        source: LinkError,
    },
}
