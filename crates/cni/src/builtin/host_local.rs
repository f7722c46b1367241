//! `host-local` address management: gives out addresses of configured ranges.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Map, Value, json};
use sys::netlink::IpPrefix;
use sys::netlink::prefix::{from_number, number};

use super::reservations::{Owner, Range, Reservations, holder};
use super::{BuiltInError, explicit_data_dir};
use crate::invoke::{Call, Plugins, Verb};
use crate::result;

/// A range with the network it is of.
#[derive(Debug, Clone, Copy)]
struct Subnet {
    network: IpPrefix,
    range: Range,
}

pub(super) fn run(plugins: &Plugins, call: &Call<'_>, conf: &Value) -> Result<Value, BuiltInError> {
    let network = conf.get("name").and_then(Value::as_str).unwrap_or_default();
    let data_dir = conf.as_object().and_then(explicit_data_dir);
    let data_dir = data_dir.as_deref().unwrap_or(&plugins.data_dir);
    match call.verb {
        Verb::Add => add(data_dir, network, call, conf),
        Verb::Del => del(data_dir, network, call, conf).map(|()| result::empty()),
        Verb::Gc => gc(data_dir, network, conf).map(|()| result::empty()),
        Verb::Status => Ok(result::empty()),
    }
}

fn add(
    data_dir: &Path,
    network: &str,
    call: &Call<'_>,
    conf: &Value,
) -> Result<Value, BuiltInError> {
    let ipam = conf.get("ipam").and_then(Value::as_object);
    let ipam = ipam.ok_or_else(|| BuiltInError::configuration("it has no `ipam` object"))?;
    let sets = range_sets(ipam)?;
    let owner = Owner { container: call.container, ifname: call.ifname };
    let held = Reservations::lock(data_dir, network)?;
    let mut addresses = Vec::with_capacity(sets.len());
    for (at, set) in sets.iter().enumerate() {
        let ranges: Vec<Range> = set.iter().map(|subnet| subnet.range).collect();
        match held.reserve(at, &ranges, &owner) {
            Ok((address, range)) => addresses.push(entry(set, address, range)),
            Err(error) => {
                // Those of the earlier sets must not stay taken.
                held.release_all(&owner)?;
                return Err(error);
            }
        }
    }
    let mut out = json!({"ips": addresses});
    for key in ["routes", "dns"] {
        if let Some(value) = ipam.get(key) {
            out[key] = value.clone();
        }
    }
    Ok(out)
}

/// Looks at every reservation unless the cached result says which ones are meant.
fn del(data_dir: &Path, network: &str, call: &Call<'_>, conf: &Value) -> Result<(), BuiltInError> {
    let owner = Owner { container: call.container, ifname: call.ifname };
    let Some(held) = Reservations::lock_existing(data_dir, network)? else { return Ok(()) };
    let known = conf.get("prevResult").map(result::all_addresses).unwrap_or_default();
    if known.is_empty() {
        return held.release_all(&owner);
    }
    let known: Vec<IpAddr> = known.iter().map(IpPrefix::address).collect();
    held.release(&known, &owner)
}

fn gc(data_dir: &Path, network: &str, conf: &Value) -> Result<(), BuiltInError> {
    let Some(valid) = conf.get("cni.dev/valid-attachments").and_then(Value::as_array) else {
        return Err(BuiltInError::configuration("GC without `cni.dev/valid-attachments`"));
    };
    let valid: std::collections::HashSet<&str> =
        valid.iter().filter_map(|entry| entry.get("containerID")?.as_str()).collect();
    match Reservations::lock_existing(data_dir, network)? {
        Some(held) => held.retain(|text| valid.contains(holder(text))).map(drop),
        None => Ok(()),
    }
}

fn entry(set: &[Subnet], address: IpAddr, range: Range) -> Value {
    let network = set.iter().find(|subnet| subnet.range == range).map(|subnet| subnet.network);
    let len = network.map_or(0, |network| network.len());
    json!({"address": format!("{address}/{len}"), "gateway": range.gateway.to_string()})
}

/// One address is given out of each set; the ranges of a set are alternatives.
fn range_sets(ipam: &Map<String, Value>) -> Result<Vec<Vec<Subnet>>, BuiltInError> {
    let mut sets = Vec::new();
    if ipam.contains_key("subnet") {
        sets.push(vec![subnet(ipam)?]);
    }
    for set in ipam.get("ranges").and_then(Value::as_array).into_iter().flatten() {
        let ranges = set.as_array().into_iter().flatten().map(|range| match range.as_object() {
            Some(range) => subnet(range),
            None => Err(BuiltInError::configuration("`ranges` is not a list of lists of ranges")),
        });
        sets.push(ranges.collect::<Result<Vec<_>, _>>()?);
    }
    if sets.is_empty() || sets.iter().any(Vec::is_empty) {
        return Err(BuiltInError::configuration("`ipam` names no range of addresses"));
    }
    Ok(sets)
}

fn subnet(conf: &Map<String, Value>) -> Result<Subnet, BuiltInError> {
    let text = conf.get("subnet").and_then(Value::as_str).unwrap_or_default();
    let network: IpPrefix =
        text.parse().map_err(|error| BuiltInError::configuration(format!("subnet: {error}")))?;
    let network = network.network();
    let base = number(network.address());
    let (width, broadcast) = if network.address().is_ipv4() { (32, 1) } else { (128, 0) };
    if network.len() > width - 2 {
        return Err(BuiltInError::configuration(format!("subnet {network} is too small for pods")));
    }
    let like = network.address();
    let address = |key: &str, default: u128| match conf.get(key).and_then(Value::as_str) {
        None | Some("") => Ok(from_number(default, like)),
        Some(text) => {
            text.parse::<IpAddr>().ok().filter(|address| network.contains(*address)).ok_or_else(
                || BuiltInError::configuration(format!("{key} {text} is not in {network}")),
            )
        }
    };
    let gateway = address("gateway", base + 1)?;
    let first = address("rangeStart", base + 1)?;
    let last = address("rangeEnd", number(network.last()) - broadcast)?;
    if number(first) > number(last) {
        let what = format!("rangeStart {first} is behind rangeEnd {last}");
        return Err(BuiltInError::configuration(what));
    }
    Ok(Subnet { network, range: Range { first, last, gateway } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(ipam: &Value) -> Result<Vec<Vec<Subnet>>, String> {
        range_sets(ipam.as_object().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn ranges_default_to_the_whole_subnet_without_network_and_broadcast() {
        let sets = sets(&json!({
            "subnet": "10.1.2.3/24",
            "ranges": [[{"subnet": "fd00::/64"}], [
                {"subnet": "10.2.0.0/16", "rangeStart": "10.2.3.4", "rangeEnd": "10.2.3.9",
                 "gateway": "10.2.0.254"}
            ]],
        }))
        .unwrap();
        let text = |subnet: &Subnet| {
            let Range { first, last, gateway } = subnet.range;
            format!("{first} {last} {gateway} {}", subnet.network)
        };
        assert_eq!(text(&sets[0][0]), "10.1.2.1 10.1.2.254 10.1.2.1 10.1.2.0/24");
        assert_eq!(text(&sets[1][0]), "fd00::1 fd00::ffff:ffff:ffff:ffff fd00::1 fd00::/64");
        assert_eq!(text(&sets[2][0]), "10.2.3.4 10.2.3.9 10.2.0.254 10.2.0.0/16");
    }

    #[test]
    fn unusable_ranges_are_refused_with_a_reason() {
        let table = [
            (json!({}), "names no range"),
            (json!({"ranges": [[]]}), "names no range"),
            (json!({"ranges": [["x"]]}), "not a list of lists"),
            (json!({"subnet": "10.0.0.0/31"}), "too small"),
            (json!({"subnet": "10.0.0.0"}), "prefix length"),
            (json!({"subnet": "10.0.0.0/24", "gateway": "10.0.1.1"}), "gateway 10.0.1.1 is not in"),
            (
                json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.8"}),
                "is behind",
            ),
        ];
        for (ipam, want) in table {
            let error = sets(&ipam).unwrap_err();
            assert!(error.contains(want), "{ipam}: {error}");
        }
    }
}
