//! `portmap`: ports of the host that lead to ports of the pod.
//!
//! One element per published port, in a map that the pods of the node share; DEL finds a pod's
//! elements by their comment, the sandbox id. The rules are there once:
//!
//! ```text
//! map ports    { type inet_proto . inet_service : ipv4_addr . inet_service }
//! map ports_on { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
//! chain ports_in  { type nat hook prerouting; the same two rules }
//! chain ports_out { type nat hook output      # local processes
//!     fib daddr type local dnat to ip daddr . meta l4proto . th dport map @ports_on
//!     fib daddr type local dnat to meta l4proto . th dport map @ports }
//! chain ports_back { type nat hook postrouting; before masquerading
//!     ct status dnat ip saddr 127.0.0.0/8 masquerade      # the pod could not answer these
//!     ct status dnat ip saddr @ports_local masquerade }   # would answer past the host
//! chain ports_guard { type filter hook prerouting priority raw
//!     iifname != "lo" ip daddr 127.0.0.0/8 drop }
//! ```
//!
//! For 127.0.0.1 of the host to lead to a pod, the kernel must route loopback addresses on the
//! pods' links (`route_localnet`). The guard keeps that from working the other way round: pods
//! must not reach what listens on the host's loopback.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;
use sys::netlink::IpPrefix;
use sys::netlink::nftables::{BaseChain, DataType, Element, Expression, Family, Hook, Nftables};

use super::ruleset::{self, Chain, Edit, REGISTER, address_type, octets};
use super::{BuiltInError, changed, present, sysctl};
use crate::invoke::{Call, Plugins, Verb};
use crate::result;

const ANY: &str = "ports";
const ON: &str = "ports_on";
const LOCAL: &str = "ports_local";
const MAPS: [&str; 2] = [ANY, ON];
/// Where the map's value goes: behind the largest key.
const VALUE: u32 = REGISTER + 8;
const RTN_LOCAL: u32 = 2;
const IPS_DST_NAT: u32 = 1 << 5;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conf {
    #[serde(default = "on")]
    snat: bool,
    #[serde(default)]
    runtime_config: RuntimeConfig,
    #[serde(default, rename = "conditionsV4")]
    conditions_v4: Vec<Value>,
    #[serde(default, rename = "conditionsV6")]
    conditions_v6: Vec<Value>,
    #[serde(default)]
    masq_all: bool,
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
                add(call, &parsed, previous)?;
            }
            Ok(previous.clone())
        }
        // Some runtimes do not say again what was published.
        Verb::Del if published || plugins.standalone => {
            remove(call.container).map(|()| result::empty())
        }
        Verb::Check if published => {
            check(call, &parsed, present::previous(conf)?).map(|()| result::empty())
        }
        Verb::Status => ruleset::supported().map(|()| result::empty()),
        // What GC would find was reserved by a pod that DEL knows.
        Verb::Del | Verb::Check | Verb::Gc => Ok(result::empty()),
    }
}

fn add(call: &Call<'_>, conf: &Conf, previous: &Value) -> Result<(), BuiltInError> {
    let refused = [
        (!conf.conditions_v4.is_empty(), "conditionsV4"),
        (!conf.conditions_v6.is_empty(), "conditionsV6"),
        (conf.masq_all, "masqAll"),
    ];
    if let Some((_, option)) = refused.iter().find(|(set, _)| *set) {
        let what = format!("`{option}` needs the reference portmap plugin to be installed");
        return Err(BuiltInError::configuration(what));
    }
    let pods = result::pod_addresses(previous, call.ifname);
    let subnets: Vec<IpPrefix> =
        result::all_addresses(previous).iter().map(IpPrefix::network).collect();
    let mut nft = Nftables::open().map_err(BuiltInError::Socket)?;
    for family in [Family::Ipv4, Family::Ipv6] {
        let v4 = family == Family::Ipv4;
        let Some(pod) = pods.iter().find(|pod| pod.is_ipv4() == v4) else { continue };
        let elements = elements(conf, family, *pod, call.container)?;
        if v4 && conf.snat {
            route_loopback(previous)?;
        }
        let added = ruleset::update(&mut nft, family, |nft, edit| {
            make_rules(nft, edit, family, conf.snat.then_some(&subnets[..]))?;
            publish(nft, edit, family, &elements)
        });
        if let Err(error) = added {
            if let Err(error) = remove(call.container) {
                tracing::warn!(%error, container = call.container, "cannot undo host ports");
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Whether every published port still leads to the pod.
fn check(call: &Call<'_>, conf: &Conf, previous: &Value) -> Result<(), BuiltInError> {
    let pods = result::pod_addresses(previous, call.ifname);
    let mut nft = Nftables::open().map_err(BuiltInError::Socket)?;
    for family in [Family::Ipv4, Family::Ipv6] {
        let v4 = family == Family::Ipv4;
        let Some(pod) = pods.iter().find(|pod| pod.is_ipv4() == v4) else { continue };
        for (map, wanted) in elements(conf, family, *pod, call.container)? {
            if !ruleset::read(&mut nft, family, map)?.contains(&wanted) {
                let port = port_text(&wanted.key);
                return Err(changed(format!("host port {port} does not lead to the pod")));
            }
        }
    }
    Ok(())
}

/// Deletes every element of a container.
fn remove(container: &str) -> Result<(), BuiltInError> {
    let mut nft = Nftables::open().map_err(BuiltInError::Socket)?;
    for family in [Family::Ipv4, Family::Ipv6] {
        ruleset::update(&mut nft, family, |nft, edit| {
            for map in MAPS {
                let mut elements = ruleset::read(nft, family, map)?;
                elements.retain(|element| element.comment == container);
                edit.delete(map, &elements);
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Adds the elements; a port that leads elsewhere already is an error that says where to.
fn publish(
    nft: &mut Nftables,
    edit: &mut Edit,
    family: Family,
    elements: &[(&'static str, Element)],
) -> Result<(), BuiltInError> {
    for map in MAPS {
        let present = ruleset::read(nft, family, map)?;
        let wanted: Vec<Element> =
            elements.iter().filter(|(of, _)| *of == map).map(|(_, e)| e.clone()).collect();
        for element in &wanted {
            let holder = present.iter().find(|other| other.key == element.key);
            if let Some(holder) = holder.filter(|holder| holder.comment != element.comment) {
                let holder = holder.comment.clone();
                return Err(BuiltInError::PortTaken { port: port_text(&element.key), holder });
            }
        }
        edit.add(map, &wanted);
    }
    Ok(())
}

fn elements(
    conf: &Conf,
    family: Family,
    pod: IpAddr,
    container: &str,
) -> Result<Vec<(&'static str, Element)>, BuiltInError> {
    let mut out: Vec<(&'static str, Element)> = Vec::new();
    for mapping in &conf.runtime_config.port_mappings {
        let protocol = match mapping.protocol.to_ascii_lowercase().as_str() {
            "tcp" => 6,
            "udp" => 17,
            "sctp" => 132,
            other => {
                let what = format!("`{other}` is not a protocol with ports");
                return Err(BuiltInError::configuration(what));
            }
        };
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
        let mut key = host.map(octets).unwrap_or_default();
        key.extend_from_slice(&[protocol, 0, 0, 0]);
        key.extend_from_slice(&padded(mapping.host_port));
        let mut value = octets(pod);
        value.extend_from_slice(&padded(mapping.container_port));
        let comment = container.to_owned();
        let element = Element { key, value: Some(value), interval_end: false, comment };
        let map = if host.is_some() { ON } else { ANY };
        match out.iter().find(|(of, other)| *of == map && other.key == element.key) {
            None => out.push((map, element)),
            Some((_, other)) if other.value == element.value => {}
            Some(_) => {
                let what = format!("host port {} is to lead to two ports", port_text(&element.key));
                return Err(BuiltInError::configuration(what));
            }
        }
    }
    Ok(out)
}

/// Parts of a concatenation take whole registers of four bytes.
fn padded(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// Protocol and port are the last two registers of either map's key.
fn port_text(key: &[u8]) -> String {
    let part = |from_end: usize| key.len().checked_sub(from_end).and_then(|at| key.get(at));
    let byte = |from_end| part(from_end).copied().unwrap_or(0);
    let protocol = match byte(8) {
        6 => "tcp",
        17 => "udp",
        _ => "sctp",
    };
    format!("{}/{protocol}", u16::from_be_bytes([byte(4), byte(3)]))
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

fn make_rules(
    nft: &mut Nftables,
    edit: &mut Edit,
    family: Family,
    local: Option<&[IpPrefix]>,
) -> Result<(), BuiltInError> {
    let address = address_type(family);
    // `nft` numbers a concatenation by its parts, six bits each: inet_proto 12, inet_service 13.
    let port = DataType { id: 12 << 6 | 13, len: 8 };
    let port_on = DataType { id: address.id << 12 | 12 << 6 | 13, len: address.len + 8 };
    let target = DataType { id: address.id << 6 | 13, len: address.len + 4 };
    edit.map(ANY, port, target);
    edit.map(ON, port_on, target);
    let destination = |name, hook| Chain {
        base: BaseChain { name, nat: true, hook, priority: -100 },
        rules: vec![
            ("knarr: host ports of one address (1)", to_pod(family, true)),
            ("knarr: host ports (1)", to_pod(family, false)),
        ],
    };
    edit.chain(nft, &destination("ports_in", Hook::Prerouting))?;
    edit.chain(nft, &destination("ports_out", Hook::Output))?;
    if let Some(local) = local {
        edit.networks(nft, LOCAL, local)?;
        edit.chain(nft, &back(family))?;
        if family == Family::Ipv4 {
            edit.chain(nft, &guard())?;
        }
    }
    Ok(())
}

/// Header offset of the source and the destination address.
fn offsets(family: Family) -> (u32, u32) {
    match family {
        Family::Ipv4 => (12, 16),
        Family::Ipv6 => (8, 24),
    }
}

fn to_pod(family: Family, one_address: bool) -> Vec<Expression> {
    let address = address_type(family).len;
    let mut rule = vec![
        Expression::destination_kind(REGISTER),
        Expression::compare(REGISTER, true, &RTN_LOCAL.to_ne_bytes()),
    ];
    let mut at = REGISTER;
    if one_address {
        rule.push(Expression::network_header(offsets(family).1, address, at));
        at += address / 4;
    }
    rule.push(Expression::transport_protocol(at));
    // The destination port, at the same place in TCP, UDP and SCTP.
    rule.push(Expression::transport_header(2, 2, at + 1));
    rule.push(Expression::map(REGISTER, if one_address { ON } else { ANY }, VALUE));
    rule.push(Expression::destination_nat(family, VALUE, VALUE + address / 4));
    rule
}

fn back(family: Family) -> Chain<'static> {
    let redirected = || {
        vec![
            Expression::conntrack_status(REGISTER),
            Expression::mask(REGISTER, &IPS_DST_NAT.to_ne_bytes()),
            Expression::compare(REGISTER, false, &[0; 4]),
        ]
    };
    let source = offsets(family).0;
    let mut rules = Vec::new();
    if family == Family::Ipv4 {
        let mut rule = redirected();
        rule.push(Expression::network_header(source, 1, REGISTER));
        rule.push(Expression::compare(REGISTER, true, &[127]));
        rule.push(Expression::masquerade());
        rules.push(("knarr: host ports from loopback (1)", rule));
    }
    let mut rule = redirected();
    rule.push(Expression::network_header(source, address_type(family).len, REGISTER));
    rule.push(Expression::in_set(REGISTER, LOCAL, true));
    rule.push(Expression::masquerade());
    rules.push(("knarr: host ports from pods (1)", rule));
    let base = BaseChain { name: "ports_back", nat: true, hook: Hook::Postrouting, priority: 99 };
    Chain { base, rules }
}

fn guard() -> Chain<'static> {
    let mut loopback = [0; 16];
    loopback[..2].copy_from_slice(b"lo");
    let rule = vec![
        Expression::incoming_link(REGISTER),
        Expression::compare(REGISTER, false, &loopback),
        Expression::network_header(16, 1, REGISTER),
        Expression::compare(REGISTER, true, &[127]),
        Expression::drop(),
    ];
    let base =
        BaseChain { name: "ports_guard", nat: false, hook: Hook::Prerouting, priority: -300 };
    Chain { base, rules: vec![("knarr: no way to the host's loopback (1)", rule)] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn keys(mappings: &Value, family: Family, pod: &str) -> Result<Vec<(String, usize)>, String> {
        let conf = json!({"runtimeConfig": {"portMappings": mappings}});
        let conf = Conf::deserialize(&conf).map_err(|e| e.to_string())?;
        let found = elements(&conf, family, pod.parse().unwrap(), "c");
        let found = found.map_err(|e| e.to_string())?;
        Ok(found
            .iter()
            .map(|(map, e)| (format!("{map} {}", port_text(&e.key)), e.key.len()))
            .collect())
    }

    #[test]
    fn mappings_become_elements_of_their_family() {
        let mappings = json!([
            {"hostPort": 80, "containerPort": 8080, "protocol": "tcp"},
            {"hostPort": 53, "containerPort": 53, "protocol": "UDP", "hostIP": "192.0.2.1"},
            {"hostPort": 54, "containerPort": 53, "protocol": "udp", "hostIP": "::"},
        ]);
        let v4 = keys(&mappings, Family::Ipv4, "10.0.0.2").unwrap();
        assert_eq!(v4, [("ports 80/tcp".to_owned(), 8), ("ports_on 53/udp".to_owned(), 12)]);
        let v6 = keys(&mappings, Family::Ipv6, "fd00::2").unwrap();
        assert_eq!(v6, [("ports 80/tcp".to_owned(), 8), ("ports 54/udp".to_owned(), 8)]);
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
            assert!(keys(&mappings, Family::Ipv4, "10.0.0.2").is_err(), "{mappings}");
        }
    }
}
