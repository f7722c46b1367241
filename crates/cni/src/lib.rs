//! Pod networks: the CNI engine and the network that is built in.
//!
//! Reads CNI configurations (specification 0.1 to 1.1), runs their plugins, remembers what it
//! attached, and can undo it without the plugins' help in remembering. `bridge`, `ptp`,
//! `host-local`, `loopback`, `portmap`, `bandwidth`, `firewall` and `tuning` are part of knarr and are
//! used where no such binary is installed; with no configuration at all, pods get a bridge network.
//! The same plugins serve other runtimes that run this program by CNI's rules.
//!
//! Never here: async, CRI types, making or removing network namespaces. Calls block;
//! no thread that is not this crate's own ever changes its network namespace.
//!
//! Main types: [`Engine`], [`EngineConfig`], [`Attachment`], [`NetworkResult`], [`Monitor`].
#![forbid(unsafe_code)]

mod attach;
mod attachment;
mod bandwidth;
mod builtin;
mod cache;
mod check;
mod conf;
mod default_network;
mod detach;
mod engine;
mod errors;
mod gc;
mod inventory;
mod invoke;
mod leftover;
mod monitor;
mod networks;
mod plugin;
mod result;
mod strays;
mod version;
mod watch;

pub use attachment::{Attachment, RequestError, check_pod};
pub use bandwidth::BandwidthError;
pub use builtin::{BuiltInError, PacketFilter};
pub use cache::CacheError;
pub use conf::ConfError;
pub use default_network::{PodRanges, PodRangesError};
pub use engine::{Engine, EngineConfig, NetworkResult, NetworkStatus, OtherNetwork};
pub use errors::{AddError, CheckError, DelError};
pub use gc::{GcError, GcFailure, GcReport, Live};
pub use inventory::{AttachmentDetail, Holding, HoldingState};
pub use invoke::PluginError;
pub use monitor::Monitor;
pub use plugin::{PluginAnswer, about_plugin, is_plugin_name, run_plugin};
pub use strays::Stray;
pub use sys::netlink::{IpPrefix, IpPrefixError};
pub use sys::program::ExecError;
