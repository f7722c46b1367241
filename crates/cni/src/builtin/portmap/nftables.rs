//! Host ports by nf_tables.
//!
//! One element per published port, in a map that the pods of the node share; DEL finds a pod's
//! elements by their comment, the sandbox id. The rules are there once:
//!
//! ```text
//! map ports       { type inet_proto . inet_service : ipv4_addr . inet_service }
//! map ports_on    { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
//! set ports_all   { type inet_proto . inet_service }   # `masqAll`
//! set ports_local { type ipv4_addr; flags interval }   # networks of the pods
//! chain ports_in  { type nat hook prerouting; the same rules }
//! chain ports_out { type nat hook output               # local processes
//!     fib daddr type local ip saddr 127.0.0.0/8 meta mark set mark or 0x2000   # no way to answer
//!     fib daddr type local ip saddr @ports_local meta mark set mark or 0x2000  # past the host
//!     fib daddr type local meta l4proto . th dport @ports_all meta mark set mark or 0x2000
//!     fib daddr type local dnat to ip daddr . meta l4proto . th dport map @ports_on
//!     fib daddr type local dnat to meta l4proto . th dport map @ports
//!     fib daddr type local meta mark set mark and 0xffffdfff }       # for none of the ports
//! chain ports_back { type nat hook postrouting; before masquerading
//!     meta mark & 0x2000 != 0 masquerade }
//! chain ports_guard { type filter hook prerouting priority raw
//!     iifname != "lo" ip daddr 127.0.0.0/8 drop }
//! ```

use std::net::IpAddr;

use sys::netlink::nftables::{BaseChain, DataType, Element, Expression, Family, Hook, Nftables};

use super::{Held, MARK, Published, Request};
use crate::builtin::BuiltInError;
use crate::builtin::ruleset::{self, Chain, Edit, REGISTER, address_type, octets};

const ANY: &str = "ports";
const ON: &str = "ports_on";
const LOCAL: &str = "ports_local";
const ALL: &str = "ports_all";
const SETS: [&str; 3] = [ANY, ON, ALL];
/// Where the map's value goes: behind the largest key.
const VALUE: u32 = REGISTER + 8;
const RTN_LOCAL: u32 = 2;

/// Leads the request's ports to its pod, or nothing of it.
pub(super) fn publish(request: &Request<'_>) -> Result<(), BuiltInError> {
    let wanted = elements(request);
    ruleset::update(&mut ruleset::open()?, request.family, |nft, edit| {
        make_rules(nft, edit, request)?;
        for set in SETS {
            let present = ruleset::read(nft, request.family, set)?;
            let of_set = wanted.iter().filter(|(of, _)| *of == set);
            let wanted: Vec<Element> = of_set.map(|(_, element)| element.clone()).collect();
            let taken =
                wanted.iter().filter(|element| element.value.is_some()).find_map(|element| {
                    let other = present.iter().find(|other| other.key == element.key)?;
                    (other.comment != element.comment).then_some(other)
                });
            if let Some(other) = taken {
                let (port, holder) = (port_text(&other.key), other.comment.clone());
                return Err(BuiltInError::PortTaken { port, holder });
            }
            edit.add(set, &wanted);
        }
        Ok(())
    })
}

/// Whether all of the request is there.
pub(super) fn held(request: &Request<'_>) -> Result<Held, BuiltInError> {
    let mut nft = ruleset::open()?;
    for (set, wanted) in elements(request) {
        if !ruleset::read(&mut nft, request.family, set)?.contains(&wanted) {
            return Ok(Held::Not(port_text(&wanted.key)));
        }
    }
    Ok(Held::All)
}

/// Deletes every element of a container. A kernel without nf_tables has none.
pub(super) fn remove(container: &str, family: Family) -> Result<(), BuiltInError> {
    let removed = ruleset::open().and_then(|mut nft| {
        ruleset::update(&mut nft, family, |nft, edit| {
            for set in SETS {
                let mut elements = ruleset::read(nft, family, set)?;
                elements.retain(|element| element.comment == container);
                edit.delete(set, &elements);
            }
            Ok(())
        })
    });
    match removed {
        Err(BuiltInError::NoNftables(_)) => Ok(()),
        removed => removed,
    }
}

/// Every container with a port, and its address. A kernel without nf_tables has none.
pub(super) fn holders(family: Family) -> Result<Vec<(String, IpAddr)>, BuiltInError> {
    let mut found = Vec::new();
    let read = ruleset::open().and_then(|mut nft| {
        for set in SETS {
            for element in ruleset::read(&mut nft, family, set)? {
                let address = element.value.as_deref().and_then(|value| address(family, value));
                found.extend(address.map(|address| (element.comment, address)));
            }
        }
        Ok(())
    });
    match read {
        Ok(()) | Err(BuiltInError::NoNftables(_)) => Ok(found),
        Err(error) => Err(error),
    }
}

/// The address that a map's value begins with.
fn address(family: Family, value: &[u8]) -> Option<IpAddr> {
    match family {
        Family::Ipv4 => value.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        Family::Ipv6 => value.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
    }
}

fn elements(request: &Request<'_>) -> Vec<(&'static str, Element)> {
    let comment = || request.container.to_owned();
    let port = |published: &Published| {
        let mut key = published.host.map(octets).unwrap_or_default();
        key.extend(port_key(published));
        let mut value = octets(request.pod);
        value.extend_from_slice(&padded(published.pod_port));
        let map = if published.host.is_some() { ON } else { ANY };
        (map, Element { key, value: Some(value), interval_end: false, comment: comment() })
    };
    let mut out: Vec<_> = request.published.iter().map(port).collect();
    if request.masquerade_all {
        out.extend(request.published.iter().map(|published| {
            let key = port_key(published);
            (ALL, Element { key, value: None, interval_end: false, comment: comment() })
        }));
    }
    out
}

fn port_key(published: &Published) -> Vec<u8> {
    [[published.protocol.number(), 0, 0, 0], padded(published.host_port)].concat()
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

fn make_rules(
    nft: &mut Nftables,
    edit: &mut Edit,
    request: &Request<'_>,
) -> Result<(), BuiltInError> {
    let family = request.family;
    let address = address_type(family);
    // `nft` numbers a concatenation by its parts, six bits each: inet_proto 12, inet_service 13.
    let port = DataType { id: 12 << 6 | 13, len: 8 };
    let port_on = DataType { id: address.id << 12 | 12 << 6 | 13, len: address.len + 8 };
    let target = DataType { id: address.id << 6 | 13, len: address.len + 4 };
    edit.map(ANY, port, target);
    edit.map(ON, port_on, target);
    edit.set(ALL, port);
    edit.networks(nft, family, LOCAL, if request.snat { request.subnets } else { &[] })?;
    let destination = |name, hook| Chain {
        base: BaseChain { name, nat: true, hook, priority: -100 },
        rules: to_pod(family),
    };
    edit.chain(nft, &destination("ports_in", Hook::Prerouting))?;
    edit.chain(nft, &destination("ports_out", Hook::Output))?;
    edit.chain(nft, &back())?;
    if family == Family::Ipv4 {
        edit.chain(nft, &guard())?;
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

/// What happens to the first packet of a connection to an address of the host.
fn to_pod(family: Family) -> Vec<(&'static str, Vec<Expression>)> {
    let address = address_type(family).len;
    let local = |then: &[&[Expression]]| {
        let condition = [
            Expression::destination_kind(REGISTER),
            Expression::compare(REGISTER, true, &RTN_LOCAL.to_ne_bytes()),
        ];
        [&condition[..], &then.concat()].concat()
    };
    let remark = |bits: Expression| {
        [Expression::packet_mark(REGISTER), bits, Expression::mark_packet(REGISTER)]
    };
    let mark = remark(Expression::set_bits(REGISTER, MARK));
    let source = |len| Expression::network_header(offsets(family).0, len, REGISTER);
    let there = Expression::destination_nat(family, VALUE, VALUE + address / 4);
    let mut out = Vec::new();
    if family == Family::Ipv4 {
        let loopback = [source(1), Expression::compare(REGISTER, true, &[127])];
        out.push(("knarr: host ports from loopback (2)", local(&[&loopback, &mark])));
    }
    let pods = [source(address), Expression::in_set(REGISTER, LOCAL, true)];
    out.push(("knarr: host ports from pods (2)", local(&[&pods, &mark])));
    let all = [&port(REGISTER)[..], &[Expression::in_set(REGISTER, ALL, true)]].concat();
    out.push(("knarr: host ports masqueraded for all (2)", local(&[&all, &mark])));
    let mut on = vec![Expression::network_header(offsets(family).1, address, REGISTER)];
    on.extend(port(REGISTER + address / 4));
    on.extend([Expression::map(REGISTER, ON, VALUE), there.clone()]);
    out.push(("knarr: host ports of one address (2)", local(&[&on])));
    let any = [&port(REGISTER)[..], &[Expression::map(REGISTER, ANY, VALUE), there]].concat();
    out.push(("knarr: host ports (2)", local(&[&any])));
    let unmark = remark(Expression::mask(REGISTER, &(!MARK).to_ne_bytes()));
    out.push(("knarr: not for a host port (2)", local(&[&unmark])));
    out
}

/// Loads protocol and destination port, which is at the same place in TCP, UDP and SCTP.
fn port(at: u32) -> [Expression; 2] {
    [Expression::transport_protocol(at), Expression::transport_header(2, 2, at + 1)]
}

/// Only what came to a host port: other rewritten traffic of pods, such as that to a service's
/// address, keeps its source.
fn back() -> Chain<'static> {
    let rule = vec![
        Expression::packet_mark(REGISTER),
        Expression::mask(REGISTER, &MARK.to_ne_bytes()),
        Expression::compare(REGISTER, false, &[0; 4]),
        Expression::masquerade(),
    ];
    let base = BaseChain { name: "ports_back", nat: true, hook: Hook::Postrouting, priority: 99 };
    Chain { base, rules: vec![("knarr: answers through the host (2)", rule)] }
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
