//! `portmap`: ports of the host that lead to ports of the pod.
//!
//! For 127.0.0.1 of the host to lead to a pod, the kernel must route loopback addresses on the
//! pods' links (`route_localnet`). A guard keeps that from working the other way round: pods must
//! not reach what listens on the host's loopback. It is made first.
//!
//! Connections that the pod would answer past the host, or not at all, are marked when they are
//! led to it and masqueraded because of the mark, as the reference plugin does. That they were
//! rewritten would not do for a reason: so are connections to the addresses of services.

mod iptables;
mod nftables;
mod stale;

use std::net::IpAddr;

use failpoint::Point;
use serde::Deserialize;
use serde_json::Value;
use sys::netlink::IpPrefix;
use sys::netlink::nftables::Family;

use super::iptables::{Iptables, may_hold};
use super::packet_filter::PacketFilter;
use super::{BuiltInError, changed, present, sysctl};
use crate::invoke::{Call, Plugins, Verb};
use crate::result;

/// The reference plugin's `markMasqBit` when it is told none.
const MARK_BIT: u8 = 13;
const MARK: u32 = 1 << MARK_BIT;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conf {
    #[serde(default = "on")]
    snat: bool,
    #[serde(default)]
    runtime_config: RuntimeConfig,
    #[serde(default, rename = "conditionsV4")]
    conditions_v4: Option<Vec<String>>,
    #[serde(default, rename = "conditionsV6")]
    conditions_v6: Option<Vec<String>>,
    #[serde(default)]
    masq_all: bool,
    #[serde(default)]
    mark_masq_bit: Option<u8>,
    #[serde(default)]
    backend: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RuntimeConfig {
    port_mappings: Vec<Mapping>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_port: u16,
    container_port: u16,
    protocol: String,
    #[serde(default, rename = "hostIP")]
    host_ip: String,
}

fn on() -> bool {
    true
}

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.name().eq_ignore_ascii_case(text))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// One port that leads to the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Published {
    protocol: Protocol,
    /// `None`: every address of the host.
    host: Option<IpAddr>,
    host_port: u16,
    pod_port: u16,
}

/// What is asked for a pod's address of one family.
#[derive(Debug)]
struct Request<'a> {
    container: &'a str,
    family: Family,
    pod: IpAddr,
    published: Vec<Published>,
    /// Whether connections are masqueraded that would be answered past the host.
    snat: bool,
    /// Whether all connections are.
    masquerade_all: bool,
    /// The pod's networks, of both families.
    subnets: &'a [IpPrefix],
    /// What else must be true of a packet, in `iptables`' words.
    conditions: &'a [String],
}

/// Whether a pod's ports lead to it.
enum Held {
    All,
    /// This one does not.
    Not(String),
}

pub(super) fn run(plugins: &Plugins, call: &Call<'_>, conf: &Value) -> Result<Value, BuiltInError> {
    let parsed = Conf::deserialize(conf).map_err(|e| BuiltInError::configuration(e.to_string()))?;
    let published = !parsed.runtime_config.port_mappings.is_empty();
    match call.verb {
        Verb::Add => {
            let previous = conf.get("prevResult").ok_or_else(|| {
                BuiltInError::configuration(
                    "it must come after the plugin that makes the pod's link",
                )
            })?;
            if published {
                failpoint::reach(Point::CniAddPorts).map_err(BuiltInError::Socket)?;
                add(plugins, call, &parsed, previous)?;
            }
            Ok(previous.clone())
        }
        // Some runtimes do not say again what was published.
        Verb::Del if published || plugins.standalone => {
            failpoint::reach(Point::CniDelPorts).map_err(BuiltInError::Socket)?;
            remove(plugins, call.container)?;
            forget_connections(&parsed);
            Ok(result::empty())
        }
        Verb::Check if published => {
            check(plugins, call, &parsed, present::previous(conf)?).map(|()| result::empty())
        }
        Verb::Status => parsed
            .filter(plugins)?
            .supported(|| Iptables::need(&plugins.tool_dirs, Family::Ipv4).map(drop))
            .map(|()| result::empty()),
        // What GC would find was reserved by a pod that DEL knows.
        Verb::Del | Verb::Check | Verb::Gc => Ok(result::empty()),
    }
}

impl Conf {
    fn conditions(&self, family: Family) -> &[String] {
        let conditions = match family {
            Family::Ipv4 => &self.conditions_v4,
            Family::Ipv6 => &self.conditions_v6,
        };
        conditions.as_deref().unwrap_or_default()
    }

    /// Conditions are words of `iptables` or of `nft`; the latter have no meaning without `nft`.
    fn filter(&self, plugins: &Plugins) -> Result<PacketFilter, BuiltInError> {
        if self.mark_masq_bit.is_some_and(|bit| bit != MARK_BIT) {
            let what = format!("`markMasqBit` can only be {MARK_BIT} here");
            return Err(BuiltInError::configuration(what));
        }
        let asked = self.backend.as_deref().unwrap_or_default();
        let filter = plugins.packet_filter.asked("backend", asked)?;
        for family in [Family::Ipv4, Family::Ipv6] {
            let Some(first) = self.conditions(family).first() else { continue };
            if filter == PacketFilter::Nftables || !(first.starts_with('-') || first == "!") {
                let what = "`conditionsV4` and `conditionsV6` are served in the words of iptables, \
                            with its programs: those of nft need the reference portmap plugin";
                return Err(BuiltInError::configuration(what));
            }
            return Ok(PacketFilter::Iptables);
        }
        Ok(filter)
    }

    /// What is asked for the pod, for each family of its addresses.
    fn requests<'a>(
        &'a self,
        call: &'a Call<'_>,
        previous: &Value,
        subnets: &'a [IpPrefix],
    ) -> Result<Vec<Request<'a>>, BuiltInError> {
        let pods = result::pod_addresses(previous, call.ifname);
        let mut out = Vec::new();
        for family in [Family::Ipv4, Family::Ipv6] {
            let v4 = family == Family::Ipv4;
            let Some(pod) = pods.iter().find(|pod| pod.is_ipv4() == v4) else { continue };
            out.push(Request {
                container: call.container,
                family,
                pod: *pod,
                published: self.published(family)?,
                snat: self.snat,
                masquerade_all: self.masq_all,
                subnets,
                conditions: self.conditions(family),
            });
        }
        Ok(out)
    }

    /// The ports of one address family.
    fn published(&self, family: Family) -> Result<Vec<Published>, BuiltInError> {
        let mut out: Vec<Published> = Vec::new();
        for mapping in &self.runtime_config.port_mappings {
            let protocol = Protocol::named(&mapping.protocol).ok_or_else(|| {
                let what = format!("`{}` is not a protocol with ports", mapping.protocol);
                BuiltInError::configuration(what)
            })?;
            let host = match mapping.host_ip.as_str() {
                "" => None,
                text => Some(text.parse::<IpAddr>().map_err(|_| {
                    BuiltInError::configuration(format!("hostIP `{text}` is not an address"))
                })?),
            };
            if host.is_some_and(|host| host.is_ipv4() != (family == Family::Ipv4)) {
                continue;
            }
            let host = host.filter(|host| !host.is_unspecified());
            let (host_port, pod_port) = (mapping.host_port, mapping.container_port);
            let new = Published { protocol, host, host_port, pod_port };
            match out.iter().find(|other| Published { pod_port, ..**other } == new) {
                None => out.push(new),
                Some(other) if *other == new => {}
                Some(_) => {
                    let what = format!("host port {new} is to lead to two ports");
                    return Err(BuiltInError::configuration(what));
                }
            }
        }
        Ok(out)
    }
}

impl std::fmt::Display for Published {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.host_port, self.protocol.name())
    }
}

fn add(
    plugins: &Plugins,
    call: &Call<'_>,
    conf: &Conf,
    previous: &Value,
) -> Result<(), BuiltInError> {
    let filter = conf.filter(plugins)?;
    let subnets: Vec<IpPrefix> =
        result::all_addresses(previous).iter().map(IpPrefix::network).collect();
    let publish = || {
        for request in conf.requests(call, previous, &subnets)? {
            filter.apply(
                || nftables::publish(&request),
                || iptables::publish(&plugins.tool_dirs, &request),
            )?;
            if request.family == Family::Ipv4 && conf.snat {
                route_loopback(previous)?;
            }
        }
        forget_connections(conf);
        Ok(())
    };
    publish().inspect_err(|_| {
        if let Err(error) = remove(plugins, call.container) {
            tracing::warn!(%error, container = call.container, "cannot undo host ports");
        }
    })
}

/// Whether every published port still leads to the pod, by whatever means.
fn check(
    plugins: &Plugins,
    call: &Call<'_>,
    conf: &Conf,
    previous: &Value,
) -> Result<(), BuiltInError> {
    for request in conf.requests(call, previous, &[])? {
        let held = match nftables::held(&request) {
            Ok(Held::All) => continue,
            Err(error) if !matches!(error, BuiltInError::NoNftables(_)) => return Err(error),
            Ok(Held::Not(_)) | Err(_) if may_hold(request.family, iptables::PORTS)? => {
                iptables::held(&plugins.tool_dirs, &request)?
            }
            Ok(held) => held,
            Err(error) => return Err(error),
        };
        if let Held::Not(port) = held {
            return Err(changed(format!("host port {port} does not lead to the pod")));
        }
    }
    Ok(())
}

/// Takes back what was published for a container, by whatever means: what is chosen now may not
/// be what was chosen then.
pub(crate) fn remove(plugins: &Plugins, container: &str) -> Result<(), BuiltInError> {
    for family in [Family::Ipv4, Family::Ipv6] {
        nftables::remove(container, family)?;
        if may_hold(family, iptables::PORTS)? {
            iptables::remove(&plugins.tool_dirs, container, family)?;
        }
    }
    Ok(())
}

/// Has the kernel ask the rules again about UDP clients that go on from before. What fails costs
/// those clients their connection, not the pod its start or its end.
fn forget_connections(conf: &Conf) {
    for family in [Family::Ipv4, Family::Ipv6] {
        // A mapping that cannot be read was never published.
        let Ok(published) = conf.published(family) else { continue };
        if let Err(error) = stale::forget(family, &published) {
            let error = crate::engine::chain(&error);
            tracing::warn!(error, family = family.name(), "UDP clients may miss a host port");
        }
    }
}

/// Every container that host ports lead to, by whatever means, with the address they lead to.
pub(crate) fn holders(plugins: &Plugins) -> Result<Vec<(String, IpAddr)>, BuiltInError> {
    let mut found = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        found.extend(nftables::holders(family)?);
        if may_hold(family, iptables::PORTS)? {
            found.extend(iptables::holders(&plugins.tool_dirs, family)?);
        }
    }
    Ok(found)
}

/// Lets packets from 127.0.0.1 leave by the host's links of the pod, and their answers come in.
fn route_loopback(previous: &Value) -> Result<(), BuiltInError> {
    let interfaces = previous.get("interfaces").and_then(Value::as_array);
    for interface in interfaces.into_iter().flatten() {
        let text = |key| interface.get(key).and_then(Value::as_str).unwrap_or_default();
        let name = text("name");
        let is_host_side = text("sandbox").is_empty();
        if is_host_side && !name.is_empty() && !name.starts_with('.') && !name.contains('/') {
            sysctl::set(format!("/proc/sys/net/ipv4/conf/{name}/route_localnet"), "1")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn published(mappings: &Value, family: Family) -> Result<Vec<String>, String> {
        let conf = json!({"runtimeConfig": {"portMappings": mappings}});
        let conf = Conf::deserialize(&conf).map_err(|e| e.to_string())?;
        let found = conf.published(family).map_err(|e| e.to_string())?;
        let host =
            |port: &Published| port.host.map_or_else(|| "*".to_owned(), |host| host.to_string());
        Ok(found.iter().map(|port| format!("{} {port} {}", host(port), port.pod_port)).collect())
    }

    #[test]
    fn mappings_are_of_their_family() {
        let mappings = json!([
            {"hostPort": 80, "containerPort": 8080, "protocol": "tcp"},
            {"hostPort": 53, "containerPort": 53, "protocol": "UDP", "hostIP": "192.0.2.1"},
            {"hostPort": 54, "containerPort": 53, "protocol": "udp", "hostIP": "::"},
        ]);
        let v4 = published(&mappings, Family::Ipv4).unwrap();
        assert_eq!(v4, ["* 80/tcp 8080", "192.0.2.1 53/udp 53"]);
        let v6 = published(&mappings, Family::Ipv6).unwrap();
        assert_eq!(v6, ["* 80/tcp 8080", "* 54/udp 53"]);
    }

    #[test]
    fn impossible_mappings_are_refused() {
        let table = [
            json!([{"hostPort": 80, "containerPort": 80, "protocol": "icmp"}]),
            json!([{"hostPort": 80, "containerPort": 80, "protocol": "tcp", "hostIP": "here"}]),
            json!([{"hostPort": 65_536, "containerPort": 80, "protocol": "tcp"}]),
            json!([{"hostPort": 80, "containerPort": -1, "protocol": "tcp"}]),
            json!([
                {"hostPort": 80, "containerPort": 80, "protocol": "tcp"},
                {"hostPort": 80, "containerPort": 81, "protocol": "tcp"},
            ]),
        ];
        for mappings in table {
            assert!(published(&mappings, Family::Ipv4).is_err(), "{mappings}");
        }
    }
}
