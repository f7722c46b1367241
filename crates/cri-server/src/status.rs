//! Every error's gRPC code, in one place. Kubelet shows the messages in pod events, and tells
//! NotFound, AlreadyExists, InvalidArgument, DeadlineExceeded, Unavailable and Unknown apart.
#![expect(
    clippy::needless_pass_by_value,
    reason = "these stand behind `map_err`, which hands the error over"
)]

use cni::{GcError, PodRangesError};
use image::{LoadError, PullError, RemoveError, ResolveError, SaveError, TagError};
use model::ReferenceError;
use sandbox::{
    ConnectError, ContainerError, CreateError, ExecError, LookupError, RunError, StartError,
    StopPodError, UpdateError, UpdatePodError, chain,
};
use streaming::{StreamsError, TooManyRequests};
use tonic::{Code, Status};

use crate::convert::{ConvertError, FilterError};

/// For what is new: what ends something may take the last descriptors.
pub(crate) fn room() -> Result<(), Status> {
    sys::descriptors::room().map_err(|scarce| status(Code::ResourceExhausted, &scarce))
}

fn status(code: Code, error: &dyn std::error::Error) -> Status {
    Status::new(code, chain(error))
}

pub(crate) fn invalid(error: ConvertError) -> Status {
    status(Code::InvalidArgument, &error)
}

pub(crate) fn from_pod_ranges(error: PodRangesError) -> Status {
    let code = match &error {
        PodRangesError::Malformed { .. } => Code::InvalidArgument,
        PodRangesError::Write { .. } => Code::Unknown,
    };
    status(code, &error)
}

pub(crate) fn from_networks(error: GcError) -> Status {
    status(Code::Unknown, &error)
}

/// Checkpoints would need CRIU and all a process holds; what that costs is not worth it so far.
pub(crate) fn no_checkpoints(rpc: &str) -> Status {
    Status::unimplemented(format!(
        "{rpc} is not served: knarr cannot freeze a container's processes into files. Keep the \
         state in a volume and start the container anew, or run this pod on a node whose runtime \
         supports checkpoints"
    ))
}

fn lookup_code(error: &LookupError) -> Code {
    match error {
        LookupError::NotFound { .. } => Code::NotFound,
        LookupError::Ambiguous { .. } | LookupError::Empty { .. } => Code::InvalidArgument,
    }
}

pub(crate) fn from_lookup(error: LookupError) -> Status {
    status(lookup_code(&error), &error)
}

pub(crate) fn from_filter(error: FilterError) -> Status {
    let code = match &error {
        FilterError::Convert(_) => Code::InvalidArgument,
        FilterError::Lookup(lookup) => lookup_code(lookup),
    };
    status(code, &error)
}

pub(crate) fn from_run(error: RunError) -> Status {
    let code = match &error {
        RunError::Invalid(_)
        | RunError::UnknownHandler { .. }
        | RunError::HandlerWithoutUsers { .. } => Code::InvalidArgument,
        RunError::NameTaken { .. } => Code::AlreadyExists,
        RunError::ShuttingDown => Code::Unavailable,
        RunError::UserNamespaces { .. } | RunError::BrokenHandler { .. } => {
            Code::FailedPrecondition
        }
        RunError::Random(_)
        | RunError::Record { .. }
        | RunError::Files { .. }
        | RunError::Label { .. }
        | RunError::Spawn { .. }
        | RunError::Scope { .. }
        | RunError::Pause { .. }
        | RunError::SandboxContainer { .. }
        | RunError::SandboxSpec { .. }
        | RunError::Setup { .. }
        | RunError::Network { .. }
        | RunError::LeftBehind { .. } => Code::Unknown,
    };
    status(code, &error)
}

pub(crate) fn from_stop_pod(error: StopPodError) -> Status {
    let code = match &error {
        StopPodError::Lookup(lookup) => lookup_code(lookup),
        StopPodError::Teardown(_) => Code::Unknown,
        StopPodError::ShuttingDown => Code::Unavailable,
    };
    status(code, &error)
}

pub(crate) fn from_create(error: CreateError) -> Status {
    let code = match &error {
        CreateError::Lookup(lookup) => lookup_code(lookup),
        CreateError::ImageNotFound { .. } | CreateError::PodGone { .. } => Code::NotFound,
        CreateError::ImageVolume { source, .. } if source.is_not_pulled() => Code::NotFound,
        CreateError::NameTaken { .. } => Code::AlreadyExists,
        CreateError::Refused { .. } => Code::FailedPrecondition,
        CreateError::EmptyName
        | CreateError::Image(_)
        | CreateError::User { .. }
        | CreateError::Host { .. }
        | CreateError::ImageVolume { .. }
        | CreateError::RecursiveReadOnly(_)
        | CreateError::Cdi { .. }
        | CreateError::Class { .. }
        | CreateError::BaseSpec { .. }
        | CreateError::Relabel { .. }
        | CreateError::LogPath { .. }
        | CreateError::Spec { .. }
        | CreateError::Plan { .. } => Code::InvalidArgument,
        CreateError::Accounts { .. }
        | CreateError::AppArmor { .. }
        | CreateError::Layer { .. }
        | CreateError::Volumes { .. }
        | CreateError::Files { .. }
        | CreateError::Record { .. }
        | CreateError::Random(_) => Code::Unknown,
    };
    status(code, &error)
}

pub(crate) fn from_start(error: StartError) -> Status {
    let code = match &error {
        StartError::Lookup(lookup) => lookup_code(lookup),
        StartError::Refused { .. } => Code::FailedPrecondition,
        StartError::Plan { .. } | StartError::Silent { .. } | StartError::Launch { .. } => {
            Code::Unknown
        }
    };
    status(code, &error)
}

fn container_code(error: &ContainerError) -> Code {
    match error {
        ContainerError::Lookup(lookup) => lookup_code(lookup),
        ContainerError::Refused { .. } => Code::FailedPrecondition,
        ContainerError::ShuttingDown => Code::Unavailable,
        ContainerError::Shim { .. }
        | ContainerError::Log { .. }
        | ContainerError::Plan { .. }
        | ContainerError::StillRunning { .. }
        | ContainerError::Remove { .. } => Code::Unknown,
    }
}

pub(crate) fn from_container(error: ContainerError) -> Status {
    status(container_code(&error), &error)
}

pub(crate) fn from_update(error: UpdateError) -> Status {
    let code = match &error {
        UpdateError::Lookup(lookup) => lookup_code(lookup),
        UpdateError::Refused { .. } => Code::FailedPrecondition,
        UpdateError::Limits { .. } => Code::InvalidArgument,
        UpdateError::Apply { .. } | UpdateError::Spec { .. } | UpdateError::Record { .. } => {
            Code::Unknown
        }
    };
    status(code, &error)
}

pub(crate) fn from_update_pod(error: UpdatePodError) -> Status {
    let code = match &error {
        UpdatePodError::Lookup(lookup) => lookup_code(lookup),
        UpdatePodError::Refused { .. } => Code::FailedPrecondition,
        UpdatePodError::Limits { .. } => Code::InvalidArgument,
        UpdatePodError::Record { .. } => Code::Unknown,
    };
    status(code, &error)
}

pub(crate) fn from_exec(error: ExecError) -> Status {
    let code = match &error {
        ExecError::Container(container) => container_code(container),
        ExecError::EmptyCommand { .. } => Code::InvalidArgument,
        ExecError::TimedOut { .. } => Code::DeadlineExceeded,
        ExecError::Pipe { .. } | ExecError::Shim { .. } => Code::Unknown,
    };
    status(code, &error)
}

pub(crate) fn from_streams(error: StreamsError) -> Status {
    status(Code::InvalidArgument, &error)
}

/// Kubelet answers its client with 429 and tells it to try again.
pub(crate) fn from_too_many(error: TooManyRequests) -> Status {
    status(Code::ResourceExhausted, &error)
}

pub(crate) fn from_connect(error: ConnectError) -> Status {
    let code = match &error {
        ConnectError::Lookup(lookup) => lookup_code(lookup),
        ConnectError::NotReady { .. } => Code::FailedPrecondition,
        ConnectError::Namespace { .. } | ConnectError::Unreachable { .. } => Code::Unknown,
    };
    status(code, &error)
}

pub(crate) fn from_reference(error: &ReferenceError) -> Status {
    status(Code::InvalidArgument, error)
}

pub(crate) fn from_resolve(error: &ResolveError) -> Status {
    status(Code::InvalidArgument, error)
}

/// Kubelet recognises `RegistryUnavailable` and `SignatureValidationFailed` only at the start of a
/// message of code Unknown.
pub(crate) fn from_pull(error: &PullError) -> Status {
    let code = match error {
        PullError::RegistryUnavailable { .. } => {
            return Status::unknown(format!("RegistryUnavailable: {}", chain(error)));
        }
        PullError::Refused { .. } => {
            return Status::unknown(format!("SignatureValidationFailed: {}", chain(error)));
        }
        PullError::NotFound { .. } => Code::NotFound,
        PullError::Unauthorized { .. } => Code::PermissionDenied,
        PullError::ShuttingDown { .. } => Code::Unavailable,
        PullError::Registry { .. }
        | PullError::Config { .. }
        | PullError::Fixup { .. }
        | PullError::Layer { .. }
        | PullError::Record { .. } => Code::Unknown,
    };
    status(code, error)
}

pub(crate) fn from_tag(error: &TagError) -> Status {
    let code = match error {
        TagError::Resolve(_) | TagError::Digest { .. } => Code::InvalidArgument,
        TagError::NotFound { .. } => Code::NotFound,
        TagError::ShuttingDown => Code::Unavailable,
        TagError::Record { .. } => Code::Unknown,
    };
    status(code, error)
}

pub(crate) fn from_load(error: &LoadError) -> Status {
    let code = match error {
        LoadError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Code::NotFound
        }
        LoadError::NotATar { .. }
        | LoadError::Inflate { .. }
        | LoadError::NoImages { .. }
        | LoadError::Missing { .. }
        | LoadError::TooLarge { .. }
        | LoadError::Json { .. }
        | LoadError::Digest { .. }
        | LoadError::Manifest(_)
        | LoadError::Name { .. }
        | LoadError::ForeignName { .. }
        | LoadError::Config { .. } => Code::InvalidArgument,
        LoadError::ShuttingDown => Code::Unavailable,
        LoadError::Read { .. }
        | LoadError::Scratch { .. }
        | LoadError::Layer { .. }
        | LoadError::Fixup { .. }
        | LoadError::Record { .. } => Code::Unknown,
    };
    status(code, error)
}

pub(crate) fn from_save(error: &SaveError) -> Status {
    let code = match error {
        SaveError::NoSource { .. } => Code::FailedPrecondition,
        SaveError::Stored { .. }
        | SaveError::Layer { .. }
        | SaveError::Pack { .. }
        | SaveError::Fetch { .. }
        | SaveError::Digest { .. } => Code::Unknown,
    };
    status(code, error)
}

/// What the caller can do nothing about.
pub(crate) fn internal(error: &dyn std::error::Error) -> Status {
    status(Code::Unknown, error)
}

pub(crate) fn from_remove_image(error: &RemoveError) -> Status {
    let code = match error {
        RemoveError::Resolve(_) => Code::InvalidArgument,
        RemoveError::ShuttingDown => Code::Unavailable,
        RemoveError::Record { .. } => Code::Unknown,
    };
    status(code, error)
}
