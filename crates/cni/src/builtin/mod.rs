//! The reference plugins most nodes use, in this process: same configuration, same results, no
//! `exec`. Each is used only where no binary of its name is installed.

mod bandwidth;
mod bridge;
mod firewall;
mod host_local;
mod iptables;
mod lease;
mod loopback;
mod masquerade;
mod packet_filter;
mod portmap;
mod present;
mod ptp;
mod reservations;
mod ruleset;
mod senders;
mod sysctl;
mod tuning;
mod veth;
mod vlan;

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;
use sys::netlink::{IpPrefix, NetlinkError};

use crate::invoke::{Call, PluginError, Plugins};

pub use packet_filter::PacketFilter;
pub(crate) use portmap::{holders as port_holders, remove as remove_ports};
pub(crate) use reservations::{Owner, Reservations, holder};
pub(crate) use sysctl::{Ipv6, ipv6};
pub(crate) use veth::{ENODEV, fnv, host_end, is_host_end, parse_mac, tolerate};
pub(crate) use vlan::gateway_port;

/// A plugin that is part of knarr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BuiltIn {
    Bandwidth,
    Bridge,
    Firewall,
    HostLocal,
    Loopback,
    Portmap,
    Ptp,
    Tuning,
}

impl BuiltIn {
    pub(crate) const ALL: [Self; 8] = [
        Self::Bandwidth,
        Self::Bridge,
        Self::Firewall,
        Self::HostLocal,
        Self::Loopback,
        Self::Portmap,
        Self::Ptp,
        Self::Tuning,
    ];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|built_in| built_in.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bandwidth => "bandwidth",
            Self::Bridge => "bridge",
            Self::Firewall => "firewall",
            Self::HostLocal => "host-local",
            Self::Loopback => "loopback",
            Self::Portmap => "portmap",
            Self::Ptp => "ptp",
            Self::Tuning => "tuning",
        }
    }
}

/// Why a built-in plugin failed.
#[derive(Debug, thiserror::Error)]
pub enum BuiltInError {
    /// The configuration is not one this plugin can serve.
    #[error("its configuration is unusable: {what}")]
    Configuration {
        /// What is wrong.
        what: String,
    },
    /// The pod's network namespace is not there.
    #[error("there is no network namespace at {}", path.display())]
    NoNamespace {
        /// Where it should be.
        path: PathBuf,
    },
    /// The pod's network namespace cannot be entered.
    #[error("cannot enter network namespace {}", path.display())]
    Namespace {
        /// Where it is.
        path: PathBuf,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// A netlink socket cannot be opened.
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    /// The kernel refused a change.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The name of the bridge belongs to something else.
    #[error("link {name} is a `{kind}`, not a bridge")]
    NotABridge {
        /// The link.
        name: String,
        /// Its kind.
        kind: String,
    },
    /// VLANs on a bridge that does not keep them apart.
    #[error(
        "bridge {bridge} does not filter by VLAN: turn its `vlan_filtering` on, name another, or \
         use a kernel whose bridges know VLANs"
    )]
    NoVlans {
        /// The bridge.
        bridge: String,
    },
    /// The bridge already is a gateway of another network.
    #[error("bridge {bridge} has address {present}, which is in the way of {wanted}")]
    OtherGateway {
        /// The bridge.
        bridge: String,
        /// The address it has.
        present: IpPrefix,
        /// The address it should get.
        wanted: IpPrefix,
    },
    /// The kernel cannot rewrite addresses.
    #[error(
        "this kernel has no nf_tables NAT, and there is no `iptables` instead: masquerading \
         (`ipMasq`: set it to false to go without) and host ports need one of them"
    )]
    NoNftables(#[source] NetlinkError),
    /// The kernel cannot judge what a bridge forwards.
    #[error("this kernel has no nf_tables for bridges, which `macspoofchk` needs")]
    NoBridgeFilter(#[source] NetlinkError),
    /// What was chosen to filter packets by is not installed.
    #[error(
        "{name} is not installed: it is not in {}",
        searched.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    NoIptables {
        /// `iptables` or `ip6tables`.
        name: &'static str,
        /// The directories looked in.
        searched: Vec<PathBuf>,
    },
    /// The ruleset kept changing under every attempt.
    #[error("the nf_tables ruleset changed during each of {attempts} attempts to change it")]
    RulesetBusy {
        /// How often it was tried.
        attempts: u32,
    },
    /// A host port leads to another pod.
    #[error("host port {port} already leads to sandbox {holder}")]
    PortTaken {
        /// Protocol and port.
        port: String,
        /// The sandbox that has it.
        holder: String,
    },
    /// A kernel setting cannot be changed.
    #[error("cannot set {}", path.display())]
    Setting {
        /// The file below /proc/sys.
        path: PathBuf,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// The list of settings that may be changed cannot be read.
    #[error("cannot read {}", path.display())]
    AllowList {
        /// The file.
        path: PathBuf,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// The kernel has no such setting.
    #[error("this kernel has no {}", path.display())]
    NoSetting {
        /// The file below /proc/sys.
        path: PathBuf,
    },
    /// A program that changes the host's rules failed.
    #[error("`{} {arguments}` failed: {said}", path.display())]
    Tool {
        /// The program.
        path: PathBuf,
        /// Its arguments.
        arguments: String,
        /// What it said.
        said: String,
    },
    /// A program that changes the host's rules did not run to its end.
    #[error("{} failed", path.display())]
    ToolFailed {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: sys::program::ExecError,
    },
    /// No address is left.
    #[error("network `{network}` has no free address in {ranges}: {taken} are taken")]
    Exhausted {
        /// The network.
        network: String,
        /// First and last address of each range.
        ranges: String,
        /// How many addresses of the ranges are reserved.
        taken: usize,
    },
    /// An address was asked for that is not for pods.
    #[error("requested address {address} is in none of its ranges")]
    NotInRange {
        /// The address.
        address: IpAddr,
    },
    /// An address was asked for that is the gateway's.
    #[error("requested address {address} is the gateway's")]
    IsGateway {
        /// The address.
        address: IpAddr,
    },
    /// An address was asked for that somebody has.
    #[error("requested address {address} is reserved for {holder}")]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// The sandbox that has it.
        holder: String,
    },
    /// The sandbox was attached before and not detached.
    #[error("sandbox {container} has {address} already: it was attached before")]
    Duplicate {
        /// The address.
        address: IpAddr,
        /// The sandbox.
        container: String,
    },
    /// Address management gave nothing.
    #[error("address management gave no address")]
    NoAddresses,
    /// IPv6 was asked of a kernel that lacks it.
    #[error("this kernel has no IPv6, which address {address} needs")]
    NoIpv6 {
        /// The address.
        address: IpPrefix,
    },
    /// What ADD made is not there any more.
    #[error("what was attached has changed: {what}")]
    Changed {
        /// What is missing or different.
        what: String,
    },
    /// The reservation files cannot be used.
    #[error("cannot {operation} {}", path.display())]
    Reservation {
        /// `read`, `write`, `lock` or `remove`.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// Address management failed.
    #[error("it got no addresses")]
    Addresses(#[source] Box<PluginError>),
}

impl BuiltInError {
    fn configuration(what: impl Into<String>) -> Self {
        Self::Configuration { what: what.into() }
    }
}

fn changed(what: impl Into<String>) -> BuiltInError {
    BuiltInError::Changed { what: what.into() }
}

/// Runs a built-in as `call` asks. Blocks.
pub(crate) fn run(
    built_in: BuiltIn,
    plugins: &Plugins,
    call: &Call<'_>,
    conf: &Value,
) -> Result<Value, BuiltInError> {
    match built_in {
        BuiltIn::Bandwidth => bandwidth::run(call, conf),
        BuiltIn::Bridge => bridge::run(plugins, call, conf),
        BuiltIn::Firewall => firewall::run(plugins, call, conf),
        BuiltIn::HostLocal => host_local::run(plugins, call, conf),
        BuiltIn::Loopback => loopback::run(call, conf),
        BuiltIn::Portmap => portmap::run(plugins, call, conf),
        BuiltIn::Ptp => ptp::run(plugins, call, conf),
        BuiltIn::Tuning => tuning::run(call, conf),
    }
}

/// The data directory that a `host-local` section of `plugin` names, if it names one.
pub(crate) fn explicit_data_dir(plugin: &serde_json::Map<String, Value>) -> Option<PathBuf> {
    let ipam = plugin.get("ipam").filter(|ipam| ipam["type"] == "host-local")?;
    ipam.get("dataDir").and_then(Value::as_str).filter(|dir| !dir.is_empty()).map(PathBuf::from)
}
