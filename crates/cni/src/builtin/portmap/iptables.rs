//! Host ports by `iptables`, in the table `nat`:
//!
//! ```text
//! -A PREROUTING -m addrtype --dst-type LOCAL -j KNARR-PORTS      # OUTPUT likewise
//! -A KNARR-PORTS -p tcp --dport 80 -s 127.0.0.0/8 -j MARK        # could not be answered
//! -A KNARR-PORTS -p tcp --dport 80 -s 10.88.0.0/16 -j MARK       # would be answered past the host
//! -A KNARR-PORTS -p tcp --dport 80 -j DNAT --to-destination 10.88.0.7:8080
//! -A POSTROUTING -j KNARR-PORTS-BACK
//! -A KNARR-PORTS-BACK -m mark --mark 0x2000/0x2000 -j MASQUERADE
//! ```
//!
//! and in the table `raw` a chain KNARR-GUARD. A rule's comment says whose it is and for which
//! port. The ports of a pod with conditions of its own are in a chain of its own, to which
//! KNARR-PORTS leads what fulfils them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use sys::netlink::nftables::Family;

use super::{Held, MARK, Published, Request};
use crate::builtin::iptables::{Iptables, comment, commented};
use crate::builtin::veth::fnv;
use crate::builtin::{BuiltInError, ruleset};

pub(super) const PORTS: &str = "KNARR-PORTS";
const BACK: &str = "KNARR-PORTS-BACK";
const GUARD: &str = "KNARR-GUARD";
/// In the comment of a rule that leads to a pod's own chain, where others have the port.
const CONDITIONS: &str = "conditions";

/// Leads the request's ports to its pod, or nothing of it.
pub(super) fn publish(dirs: &[PathBuf], request: &Request<'_>) -> Result<(), BuiltInError> {
    let conditions = quoted(request.conditions)?;
    let tool = Iptables::need(dirs, request.family)?;
    if request.family == Family::Ipv4 {
        tool.update("raw", |present, change| {
            let rule = format!("! -i lo -d 127.0.0.0/8 {} -j DROP", commented("loopback"));
            change.chain(present, GUARD, &[rule]);
            change.jump(present, "PREROUTING", &commented("knarr: host ports"), GUARD);
            Ok(())
        })?;
    }
    tool.update("nat", |present, change| {
        let kept = present.of(PORTS).filter(|rule| owner(rule) != request.container);
        let mut rules: Vec<String> = kept.map(str::to_owned).collect();
        let own = rules_of(request);
        if conditions.is_empty() {
            for port in &request.published {
                let taken = rules.iter().find(|rule| place(rule) == port_place(port));
                if let Some(holder) = taken.map(|rule| owner(rule).to_owned()) {
                    return Err(BuiltInError::PortTaken { port: port.to_string(), holder });
                }
            }
            rules.extend(own);
        } else {
            let chain = own_chain(request.container);
            change.chain(present, &chain, &own);
            let text = commented(&format!("{} {CONDITIONS}", request.container));
            rules.push(format!("{conditions} {text} -j {chain}"));
        }
        // One address before all addresses.
        rules.sort_by_key(|rule| place(rule).ends_with(" *"));
        change.chain(present, PORTS, &rules);
        let marked = format!("-m mark --mark {MARK:#x}/{MARK:#x} {}", commented("marked"));
        change.chain(present, BACK, &[format!("{marked} -j MASQUERADE")]);
        let ours = commented("knarr: host ports");
        for from in ["PREROUTING", "OUTPUT"] {
            change.jump(present, from, &format!("-m addrtype --dst-type LOCAL {ours}"), PORTS);
        }
        change.jump(present, "POSTROUTING", &ours, BACK);
        Ok(())
    })
}

/// Whether all of the request is there.
pub(super) fn held(dirs: &[PathBuf], request: &Request<'_>) -> Result<Held, BuiltInError> {
    let present = Iptables::need(dirs, request.family)?.rules("nat")?;
    let chain = own_chain(request.container);
    let chain = if request.conditions.is_empty() { PORTS } else { &chain };
    let missing = request.published.iter().find(|port| {
        let leads = |rule: &str| {
            owner(rule) == request.container
                && place(rule) == port_place(port)
                && rule.ends_with(&destination(request, port))
        };
        !present.of(chain).any(leads)
    });
    Ok(missing.map_or(Held::All, |port| Held::Not(port.to_string())))
}

/// Deletes every rule of a container.
pub(super) fn remove(
    dirs: &[PathBuf],
    container: &str,
    family: Family,
) -> Result<(), BuiltInError> {
    // Others' rules are none of ours, and ours are not there without the program.
    let Some(tool) = Iptables::find(dirs, family) else { return Ok(()) };
    tool.update("nat", |present, change| {
        let kept = present.of(PORTS).filter(|rule| owner(rule) != container);
        let kept: Vec<String> = kept.map(str::to_owned).collect();
        let chain = own_chain(container);
        if present.has(PORTS) {
            change.chain(present, PORTS, &kept);
        }
        if present.has(&chain) {
            change.delete(&chain);
        }
        Ok(())
    })
}

/// Every container that rules lead to, with the address they lead to.
pub(super) fn holders(
    dirs: &[PathBuf],
    family: Family,
) -> Result<Vec<(String, IpAddr)>, BuiltInError> {
    let Some(tool) = Iptables::find(dirs, family) else { return Ok(Vec::new()) };
    let present = tool.rules("nat")?;
    let mut found = Vec::new();
    for rule in present.of(PORTS) {
        let container = owner(rule);
        let chain = own_chain(container);
        let led = std::iter::once(rule).chain(present.of(&chain)).filter_map(led_to);
        found.extend(led.map(|address| (container.to_owned(), address)));
    }
    Ok(found)
}

/// Where a rule that rewrites sends its packets.
fn led_to(rule: &str) -> Option<IpAddr> {
    let (_, to) = rule.split_once("--to-destination ")?;
    let to: SocketAddr = to.split(' ').next()?.parse().ok()?;
    Some(to.ip())
}

/// `CONTAINER PORT/PROTOCOL ADDRESS`: the address is `*` where every one is meant.
fn owner(rule: &str) -> &str {
    comment(rule).split(' ').next().unwrap_or_default()
}

fn place(rule: &str) -> &str {
    comment(rule).split_once(' ').map(|(_, place)| place).unwrap_or_default()
}

fn port_place(port: &Published) -> String {
    port.host.map_or_else(|| format!("{port} *"), |host| format!("{port} {host}"))
}

/// At most 28 characters.
fn own_chain(container: &str) -> String {
    format!("KNARR-{:016x}", fnv(container, ""))
}

fn destination(request: &Request<'_>, port: &Published) -> String {
    let to = SocketAddr::new(request.pod, port.pod_port);
    format!("-j DNAT --to-destination {to}")
}

fn rules_of(request: &Request<'_>) -> Vec<String> {
    let mut sources: Vec<String> = Vec::new();
    if request.masquerade_all {
        sources.push(String::new());
    } else if request.snat {
        let loopback = (request.family == Family::Ipv4).then(|| "-s 127.0.0.0/8 ".to_owned());
        sources.extend(loopback);
        let own = ruleset::of_family(request.family, request.subnets);
        sources.extend(own.map(|subnet| format!("-s {subnet} ")));
    }
    let mut out = Vec::new();
    for port in &request.published {
        let protocol = port.protocol.name();
        let on = port.host.map(|host| format!("-d {host} ")).unwrap_or_default();
        let text = commented(&format!("{} {}", request.container, port_place(port)));
        let dport = port.host_port;
        let rule = format!("-p {protocol} -m {protocol} --dport {dport} {on}{text}");
        let mark =
            |source: &String| format!("{source}{rule} -j MARK --set-xmark {MARK:#x}/{MARK:#x}");
        out.extend(sources.iter().map(mark));
        out.push(format!("{rule} {}", destination(request, port)));
    }
    out
}

/// Conditions as `iptables-restore` reads them. They are the operator's; one with a quote or a
/// line break would be something else there than it is on a command line.
fn quoted(conditions: &[String]) -> Result<String, BuiltInError> {
    let odd = |c: char| c == '"' || c == '\\' || c.is_control();
    if let Some(bad) = conditions.iter().find(|condition| condition.contains(odd)) {
        let what =
            format!("condition `{}` holds a quote or a control character", bad.escape_debug());
        return Err(BuiltInError::configuration(what));
    }
    Ok(conditions.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::portmap::Protocol;

    #[test]
    fn rules_are_told_apart_by_their_comments() {
        let port = Published {
            protocol: Protocol::Udp,
            host: Some("192.0.2.1".parse().unwrap()),
            host_port: 53,
            pod_port: 5353,
        };
        let request = Request {
            container: "abc",
            family: Family::Ipv4,
            pod: "10.0.0.2".parse().unwrap(),
            published: vec![port],
            snat: true,
            masquerade_all: false,
            subnets: &["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
            conditions: &[],
        };
        let rules = rules_of(&request);
        assert_eq!(rules.len(), 3, "{rules:?}");
        assert!(rules[1].starts_with("-s 10.0.0.0/24 -p udp"), "{rules:?}");
        assert!(rules[2].ends_with("-j DNAT --to-destination 10.0.0.2:5353"), "{rules:?}");
        for rule in &rules {
            assert_eq!((owner(rule), place(rule)), ("abc", "53/udp 192.0.2.1"));
        }
        let all = Request { masquerade_all: true, ..request };
        assert!(rules_of(&all)[0].starts_with("-p udp"));
    }

    #[test]
    fn conditions_that_would_become_something_else_are_refused() {
        let words = |text: &[&str]| text.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(quoted(&words(&["!", "-s", "10.0.0.0/8"])).unwrap(), r#""!" "-s" "10.0.0.0/8""#);
        for bad in ["a\"b", "a\\b", "a\nCOMMIT"] {
            assert!(quoted(&words(&["-s", bad])).is_err(), "{bad}");
        }
    }
}
