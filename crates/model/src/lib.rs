//! knarr's own words: ids, digests, lifecycle values and the requests the daemon works on.
//!
//! Never here: IO, clocks, async, protobuf. Everything is a plain value that is valid once it
//! exists: constructors parse and refuse.
//!
//! Main types: [`SandboxId`], [`ContainerId`], [`Digest`], [`PodConfig`], [`ContainerConfig`],
//! [`Resources`], [`Signal`], [`UnixNanos`].
//!
//! The optional `serde` feature derives the stored form of these types (the daemon's records), with
//! which the shim is built without; `cbor` that of the few which plans and messages hold.
#![forbid(unsafe_code)]

mod cgroup;
mod chain;
mod container;
mod digest;
mod id;
mod id_map;
mod image;
mod pod;
mod reference;
mod resources;
mod security;
mod signal;
mod slice;
mod stats;
mod time;

pub use cgroup::{CgroupDriver, CgroupHierarchy, CgroupLayout};
pub use chain::chain;
pub use container::{
    CdiDevice, ContainerConfig, ContainerName, DeviceRequest, EnvVar, ImageSpec, MountPropagation,
    MountRequest, MountSource,
};
pub use digest::{Digest, DigestError};
pub use id::{ContainerId, ExecId, IdError, SandboxId};
pub use id_map::{IdMapping, IdMaps};
pub use image::{ImageConfig, ImageDescription, ImageUser, Platform};
pub use pod::{
    DnsConfig, NamespaceMode, NamespaceOptions, PodConfig, PodName, PodSecurity, PortMapping,
    PortProtocol, UserNamespace,
};
pub use reference::{Reference, ReferenceError, ReferenceProblem};
pub use resources::{HugepageLimit, Resources};
pub use security::{
    Capabilities, ContainerSecurity, GroupsPolicy, ResolvedUser, RunAs, SecurityProfile,
    SelinuxOptions,
};
pub use signal::{Signal, SignalError};
pub use slice::{ScopeName, Slice, SliceError};
pub use stats::{
    ContainerStats, CpuStats, DiskUsage, InterfaceStats, IoStats, MemoryStats, PodStats, Pressure,
    PressureLine, SwapStats,
};
pub use time::UnixNanos;

/// String maps (labels, annotations) round-trip exactly; ordered so that output is stable.
pub type StringMap = std::collections::BTreeMap<String, String>;
