//! Pods: made, stopped and removed.

use model::{ContainerId, SandboxId};

use super::chain;
use crate::files::FileError;
use crate::link::LinkError;
use crate::scopes::ScopeError;
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
    /// The handler's runtime does not work.
    #[error("runtime handler `{handler}` cannot run pods: {reason}")]
    BrokenHandler {
        /// Its name.
        handler: String,
        /// One sentence with the program's path.
        reason: String,
    },
    /// The handler's runtime cannot give what the pod asks for.
    #[error("runtime handler `{handler}` has no user namespaces with mapped mounts")]
    HandlerWithoutUsers {
        /// Its name.
        handler: String,
    },
    /// The container that stands for the pod could not be made.
    #[error("cannot make the sandbox container of sandbox {sandbox}")]
    SandboxContainer {
        /// The pod.
        sandbox: SandboxId,
        /// Why.
        source: LinkError,
    },
    /// Nor be specified.
    #[error("cannot specify the sandbox container of sandbox {sandbox}")]
    SandboxSpec {
        /// The pod.
        sandbox: SandboxId,
        /// Why.
        source: crate::plan::PlanFailure,
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
    /// systemd has made no scope for it.
    #[error("cannot make the scope of sandbox {sandbox}")]
    Scope {
        /// The pod.
        sandbox: SandboxId,
        /// Why.
        source: ScopeError,
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
    /// A scope of systemd's.
    #[error("cannot end the pod's scope")]
    Scope(#[source] ScopeError),
    /// A container's writable layer.
    #[error("cannot remove the writable layer of container {container}")]
    Layer {
        /// The container.
        container: ContainerId,
        /// Why.
        source: snapshot::RootError,
    },
    /// A record that says how a container ended.
    #[error(transparent)]
    Record(store::WriteError),
    /// A file or directory.
    #[error(transparent)]
    Files(FileError),
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

/// Why `StopPodSandbox` or `RemovePodSandbox` failed. Unknown pods are not an error.
#[derive(Debug, thiserror::Error)]
pub enum StopPodError {
    /// An ambiguous or empty id.
    #[error(transparent)]
    Lookup(LookupError),
    /// Steps failed; call again.
    #[error(transparent)]
    Teardown(#[from] TeardownError),
    /// The daemon ended first; the pod is as it was.
    #[error("the daemon is shutting down")]
    ShuttingDown,
}
