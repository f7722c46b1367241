//! Pod networks: the CNI engine and the network that is built in.
//!
//! Reads CNI configurations (specification 0.1 to 1.1), runs their plugins, remembers what it
//! attached, and can undo it without the plugins' help in remembering. `bridge`, `host-local`,
//! `loopback` and `portmap` are part of knarr and are used where no such binary is installed; with no
//! configuration at all, pods get a bridge network.
//!
//! Never here: async, CRI types, making or removing network namespaces, iptables. Calls block;
//! no thread that is not this crate's own ever changes its network namespace.
//!
//! Main types: [`Engine`], [`EngineConfig`], [`Attachment`], [`NetworkResult`].
#![forbid(unsafe_code)]

mod attachment;
mod bandwidth;
mod builtin;
mod cache;
mod conf;
mod engine;
mod errors;
mod exec;
mod gc;
mod invoke;
mod result;
mod version;

pub use attachment::{Attachment, RequestError};
pub use bandwidth::BandwidthError;
pub use builtin::BuiltInError;
pub use cache::CacheError;
pub use conf::ConfError;
pub use engine::{Engine, EngineConfig, NetworkResult, NetworkStatus};
pub use errors::{AddError, DelError};
pub use exec::ExecError;
pub use gc::{GcError, GcFailure, GcReport};
pub use invoke::PluginError;
pub use sys::netlink::{IpPrefix, IpPrefixError};
