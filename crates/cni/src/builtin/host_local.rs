//! `host-local` address management: gives out addresses of configured ranges.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Map, Value, json};
use sys::netlink::IpPrefix;
use sys::netlink::prefix::{from_number, number};

use super::reservations::{Owner, Range, Reservations, holder};
use super::{BuiltInError, changed, explicit_data_dir};
use crate::invoke::{Call, Plugins, Verb};
use crate::result;

/// A range with the network it is of.
#[derive(Debug, Clone, Copy)]
struct Subnet {
    network: IpPrefix,
    range: Range,
}

impl Subnet {
    fn text(&self) -> String {
        format!("{}-{}", self.range.first, self.range.last)
    }
}

pub(super) fn run(plugins: &Plugins, call: &Call<'_>, conf: &Value) -> Result<Value, BuiltInError> {
    let network = conf.get("name").and_then(Value::as_str).unwrap_or_default();
    if network.is_empty() {
        return Err(BuiltInError::configuration("it names no network"));
    }
    let data_dir = conf.as_object().and_then(explicit_data_dir);
    let data_dir = data_dir.as_deref().unwrap_or(&plugins.data_dir);
    match call.verb {
        Verb::Add => add(data_dir, network, call, conf, plugins.standalone),
        Verb::Del => del(data_dir, network, call, conf).map(|()| result::empty()),
        Verb::Check => check(data_dir, network, call).map(|()| result::empty()),
        Verb::Gc => gc(data_dir, network, conf).map(|()| result::empty()),
        Verb::Status => {
            range_sets(ipam(conf)?, conf)?;
            Ok(result::empty())
        }
    }
}

fn ipam(conf: &Value) -> Result<&Map<String, Value>, BuiltInError> {
    let ipam = conf.get("ipam").and_then(Value::as_object);
    ipam.ok_or_else(|| BuiltInError::configuration("it has no `ipam` object"))
}

fn add(
    data_dir: &Path,
    network: &str,
    call: &Call<'_>,
    conf: &Value,
    look_for_own: bool,
) -> Result<Value, BuiltInError> {
    let ipam = ipam(conf)?;
    let sets = range_sets(ipam, conf)?;
    let requested = assign(&sets, requested(call, conf)?)?;
    let dns = match ipam.get("resolvConf").and_then(Value::as_str).filter(|p| !p.is_empty()) {
        Some(path) => Some(resolver(Path::new(path))?),
        None => ipam.get("dns").cloned(),
    };
    let owner = Owner { container: call.container, ifname: call.ifname };
    let held = Reservations::lock(data_dir, network)?;
    // Reads every reservation; our engine detaches before it attaches again.
    let present = if look_for_own { held.of_owner(&owner)? } else { Vec::new() };
    let mut addresses = Vec::with_capacity(sets.len());
    for (at, (set, requested)) in sets.iter().zip(requested).enumerate() {
        let ranges: Vec<Range> = set.iter().map(|subnet| subnet.range).collect();
        let again = present.iter().find(|a| ranges.iter().any(|range| range.contains(**a)));
        let reserved = match (again, requested) {
            (Some(address), _) => Err(BuiltInError::Duplicate {
                address: *address,
                container: owner.container.into(),
            }),
            (None, Some(address)) => held.reserve_one(at, &ranges, address, &owner),
            (None, None) => held.reserve(at, &ranges, &owner),
        };
        match reserved {
            Ok((address, range)) => addresses.push((address, entry(set, address, range))),
            Err(error) => {
                // Those of the earlier sets must not stay taken.
                let taken: Vec<IpAddr> = addresses.iter().map(|(address, _)| *address).collect();
                held.release(&taken, &owner)?;
                return Err(error);
            }
        }
    }
    let ips: Vec<Value> = addresses.into_iter().map(|(_, entry)| entry).collect();
    let mut out = json!({ "ips": ips });
    if let Some(routes) = ipam.get("routes") {
        out["routes"] = routes.clone();
    }
    if let Some(dns) = dns {
        out["dns"] = dns;
    }
    Ok(out)
}

/// The addresses that were asked for: by `CNI_ARGS`, by `args`, by the capability `ips`.
fn requested(call: &Call<'_>, conf: &Value) -> Result<Vec<IpAddr>, BuiltInError> {
    let arguments = call.arguments.iter().filter(|(key, _)| key.eq_ignore_ascii_case("ip"));
    let listed = [&conf["args"]["cni"]["ips"], &conf["runtimeConfig"]["ips"]];
    let listed = listed.into_iter().filter_map(Value::as_array).flatten();
    let listed = listed.map(|value| value.as_str().unwrap_or_default());
    let texts = arguments.map(|(_, value)| value.as_str()).chain(listed);
    let mut out: Vec<IpAddr> = Vec::new();
    for text in texts {
        let bare = text.split('/').next().unwrap_or_default();
        let address = bare.parse().map_err(|_| {
            BuiltInError::configuration(format!("requested address `{text}` is none"))
        })?;
        if !out.contains(&address) {
            out.push(address);
        }
    }
    Ok(out)
}

/// Gives each requested address to a range set that has it.
fn assign(
    sets: &[Vec<Subnet>],
    mut requested: Vec<IpAddr>,
) -> Result<Vec<Option<IpAddr>>, BuiltInError> {
    let assigned = sets
        .iter()
        .map(|set| {
            let has = |a: &IpAddr| set.iter().any(|subnet| subnet.range.contains(*a));
            requested.iter().position(has).map(|at| requested.remove(at))
        })
        .collect();
    match requested.first() {
        None => Ok(assigned),
        Some(address) => Err(BuiltInError::NotInRange { address: *address }),
    }
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
    // A later plugin may report other addresses than those that were given out here.
    if held.release(&known, &owner)? < known.len() { held.release_all(&owner) } else { Ok(()) }
}

fn check(data_dir: &Path, network: &str, call: &Call<'_>) -> Result<(), BuiltInError> {
    let owner = Owner { container: call.container, ifname: call.ifname };
    let held = Reservations::lock_existing(data_dir, network)?;
    let present = held.map(|held| held.of_owner(&owner)).transpose()?.unwrap_or_default();
    if present.is_empty() {
        return Err(changed(format!("no address of network `{network}` is reserved for it")));
    }
    Ok(())
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

/// The resolver settings of a file of resolv.conf's form.
fn resolver(path: &Path) -> Result<Value, BuiltInError> {
    let text = std::fs::read_to_string(path).map_err(|source| BuiltInError::Reservation {
        operation: "read",
        path: path.to_owned(),
        source,
    })?;
    let mut out = json!({});
    let mut push = |key: &str, values: Vec<&str>| match out.get_mut(key) {
        Some(Value::Array(present)) => present.extend(values.into_iter().map(Value::from)),
        Some(_) | None => out[key] = values.into(),
    };
    let mut domain = None;
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => push("nameservers", words.take(1).collect()),
            Some("domain") => domain = words.next().map(str::to_owned),
            Some("search") => push("search", words.collect()),
            Some("options") => push("options", words.collect()),
            Some(_) | None => {}
        }
    }
    if let Some(domain) = domain {
        out["domain"] = domain.into();
    }
    Ok(out)
}

fn entry(set: &[Subnet], address: IpAddr, range: Range) -> Value {
    let network = set.iter().find(|subnet| subnet.range == range).map(|subnet| subnet.network);
    let len = network.map_or(0, |network| network.len());
    json!({"address": format!("{address}/{len}"), "gateway": range.gateway.to_string()})
}

/// One address is given out of each set; the ranges of a set are alternatives. Sets that the
/// engine gives come first.
fn range_sets(ipam: &Map<String, Value>, conf: &Value) -> Result<Vec<Vec<Subnet>>, BuiltInError> {
    let given = conf["runtimeConfig"]["ipRanges"].as_array().into_iter().flatten();
    let mut sets = given.map(set).collect::<Result<Vec<_>, _>>()?;
    if ipam.contains_key("subnet") {
        sets.push(vec![subnet(ipam)?]);
    }
    for value in ipam.get("ranges").and_then(Value::as_array).into_iter().flatten() {
        sets.push(set(value)?);
    }
    if sets.is_empty() || sets.iter().any(Vec::is_empty) {
        return Err(BuiltInError::configuration("`ipam` names no range of addresses"));
    }
    let all: Vec<&Subnet> = sets.iter().flatten().collect();
    for (at, one) in all.iter().enumerate() {
        if let Some(other) = all[at + 1..].iter().find(|other| one.range.overlaps(&other.range)) {
            let what = format!("ranges {} and {} overlap", one.text(), other.text());
            return Err(BuiltInError::configuration(what));
        }
    }
    Ok(sets)
}

fn set(value: &Value) -> Result<Vec<Subnet>, BuiltInError> {
    let malformed = || BuiltInError::configuration("`ranges` is not a list of lists of ranges");
    let ranges = value.as_array().ok_or_else(malformed)?;
    let set = ranges
        .iter()
        .map(|range| subnet(range.as_object().ok_or_else(malformed)?))
        .collect::<Result<Vec<_>, _>>()?;
    let mixed =
        set.iter().any(|s| s.network.address().is_ipv4() != set[0].network.address().is_ipv4());
    if mixed {
        return Err(BuiltInError::configuration("a range set has both IPv4 and IPv6 ranges"));
    }
    Ok(set)
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
        range_sets(ipam.as_object().unwrap(), &json!({})).map_err(|error| error.to_string())
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
            (json!({"ranges": ["x"]}), "not a list of lists"),
            (
                json!({"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]]}),
                "both IPv4 and IPv6",
            ),
            (
                json!({"subnet": "10.0.0.0/24", "ranges": [[{"subnet": "10.0.0.0/16"}]]}),
                "ranges 10.0.0.1-10.0.0.254 and 10.0.0.1-10.0.255.254 overlap",
            ),
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

    fn call<'a>(arguments: &'a [(String, String)]) -> Call<'a> {
        Call { container: "c", ifname: "eth0", arguments, ..Call::of_node(Verb::Add, true) }
    }

    fn added(data: &Path, arguments: &[(String, String)], conf: &Value) -> Result<Value, String> {
        add(data, "net", &call(arguments), conf, true).map_err(|error| error.to_string())
    }

    #[test]
    fn requested_addresses_are_given_if_they_are_free_and_in_range() {
        let dir = tempfile::tempdir().unwrap();
        let ranges = json!([[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]]);
        let conf =
            |ips: &[&str]| json!({"ipam": {"ranges": ranges}, "runtimeConfig": {"ips": ips}});
        let argument = [("IP".to_owned(), "10.0.0.77".to_owned())];
        let got = added(dir.path(), &argument, &conf(&["fd00::9/64"])).unwrap();
        assert_eq!(got["ips"][0]["address"], "10.0.0.77/24");
        assert_eq!(got["ips"][1]["address"], "fd00::9/64");
        let again = added(dir.path(), &[], &conf(&[])).unwrap_err();
        assert!(again.contains("has 10.0.0.77 already"), "{again}");
        std::fs::write(dir.path().join("net/10.0.0.77"), "other\r\neth0").unwrap();
        std::fs::remove_file(dir.path().join("net/fd00::9")).unwrap();
        let table = [
            ("10.0.0.77", "10.0.0.77 is reserved for other"),
            ("10.9.0.1", "10.9.0.1 is in none of its ranges"),
            ("10.0.0.1", "10.0.0.1 is the gateway's"),
            ("x", "`x` is none"),
        ];
        for (ip, want) in table {
            let error = added(dir.path(), &[], &conf(&[ip])).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
        // Nothing of the failures is left, not even the other family's address.
        let held = Reservations::lock(dir.path(), "net").unwrap();
        assert!(held.of_owner(&Owner { container: "c", ifname: "eth0" }).unwrap().is_empty());
    }

    #[test]
    fn the_engines_ranges_come_first_and_a_resolver_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        std::fs::write(
            &file,
            "# x\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch a b\n\
            domain c\noptions ndots:5\n",
        )
        .unwrap();
        let conf = json!({
            "ipam": {"subnet": "10.0.0.0/24", "resolvConf": file},
            "runtimeConfig": {"ipRanges": [[{"subnet": "10.5.0.0/24"}]]},
        });
        let got = added(dir.path(), &[], &conf).unwrap();
        assert_eq!(got["ips"][0]["address"], "10.5.0.2/24");
        assert_eq!(got["ips"][1]["address"], "10.0.0.2/24");
        let dns = json!({"nameservers": ["192.0.2.1", "192.0.2.2"], "search": ["a", "b"],
            "domain": "c", "options": ["ndots:5"]});
        assert_eq!(got["dns"], dns);
    }
}
