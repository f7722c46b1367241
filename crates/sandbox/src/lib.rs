//! Pods and containers: their lifecycles, the owner task of each pod, the link to its shim, and
//! what a restarted daemon makes of all that.
//!
//! Never here: protobuf, mounts, namespaces (the shim's), image formats.
//!
//! Main types: [`Sandboxes`] (what the CRI calls), [`Index`] (what List and Status read),
//! [`PodRecord`] and [`ContainerRecord`] (what is stored).
#![forbid(unsafe_code)]

mod admission;
mod backlog;
mod blocking;
mod cdi;
mod cgroups;
mod claim;
mod classes;
mod confinement;
mod context;
mod doctor;
mod error;
mod events;
mod exec;
mod external;
mod files;
mod handler;
mod handles;
mod host;
mod image_volumes;
mod inspect;
mod levels;
mod link;
mod manager;
mod mounts;
mod networks;
mod paths;
mod pins;
mod plan;
mod pod;
mod quarantine;
mod record;
mod sampler;
mod scopes;
mod session;
mod shims;
mod sources;
mod spawn;
mod stats;
mod takeover;
mod targets;
mod validate;
mod view;
mod volumes;

pub use admission::Refusal;
pub use backlog::Behind;
pub use cdi::CdiError;
pub use cgroups::LimitError;
pub use classes::{ClassError, ClassFileError};
pub use confinement::label_storage;
pub use context::{Parts, now as clock};
pub use doctor::{Area, Finding, Outcome, Severity, examine_without_a_daemon};
pub use error::{
    AttachError, ContainerError, CreateError, ExecError, RunError, StartError, StepError,
    StopPodError, TeardownError, UpdateError, chain,
};
pub use events::{EventKind, LifecycleEvent, Lost, Subscription};
pub use exec::ExecOutput;
pub use external::BaseSpecError;
pub use files::FileError;
pub use handler::{Features, Handler, HandlerState, Handlers, Program, RuntimeKind};
pub use host::{host_facts, is_root};
pub use image_volumes::ImageVolumeError;
pub use link::LinkError;
pub use manager::Sandboxes;
pub use paths::Paths;
pub use plan::PlanFailure;
pub use pod::{OpenError, UpdatePodError};
pub use quarantine::Quarantined;
pub use record::{
    ContainerRecord, ContainerState, ExitReason, ExitRecord, ImageVolumeRecord, NetworkRecord,
    PodPhase, PodRecord, ProcessRecord,
};
pub use scopes::{CgroupDrivers, ParentError, ScopeError};
pub use session::{AttachEnding, AttachHold, ConnectError, ExecHold, Session, Streams};
pub use spawn::SpawnError;
pub use stats::metrics::{
    ContainerMetrics, DESCRIPTORS, Descriptor, MetricKind, PodMetrics, Sample,
};
pub use stats::{ContainerUsage, PodUsage};
pub use validate::InvalidPod;
pub use view::{ContainerView, Index, LookupError, PodView};
