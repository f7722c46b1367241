//! Reading plugin results of every specification version.

use std::net::IpAddr;

use serde_json::{Map, Value, json};
use sys::netlink::IpPrefix;

use crate::version::CniVersion;

/// Makes a plugin's result what the next plugin and the cache expect: stamped with the list's
/// version, with or without the per-address version field.
pub(crate) fn normalise(mut result: Map<String, Value>, version: CniVersion) -> Value {
    result.insert("cniVersion".to_owned(), version.as_str().into());
    let addresses = result.get_mut("ips").and_then(Value::as_array_mut);
    for entry in addresses.into_iter().flatten().filter_map(Value::as_object_mut) {
        if version >= CniVersion::V1_0_0 {
            entry.remove("version");
        } else if let Some(prefix) = entry.get("address").and_then(prefix) {
            let family = if prefix.address().is_ipv4() { "4" } else { "6" };
            entry.insert("version".to_owned(), family.into());
        }
    }
    Value::Object(result)
}

/// A plugin's own result in the form of a version: before 0.3.0 one address of each family, and
/// no interfaces.
pub(crate) fn of_version(result: Value, version: CniVersion) -> Value {
    let object = match result {
        Value::Object(object) => object,
        _none => Map::new(),
    };
    if version >= CniVersion::V0_3_0 {
        return normalise(object, version);
    }
    let mut out = json!({"cniVersion": version.as_str()});
    let listed = |key: &str| object.get(key).and_then(Value::as_array).into_iter().flatten();
    for (family, is_v4) in [("ip4", true), ("ip6", false)] {
        let of_family =
            |value: &Value| value.as_str().is_some_and(|text| text.contains(':') != is_v4);
        let Some(entry) = listed("ips").find(|entry| of_family(&entry["address"])) else {
            continue;
        };
        let routes: Vec<&Value> = listed("routes").filter(|r| of_family(&r["dst"])).collect();
        out[family] = json!({"ip": entry["address"], "routes": routes});
        if let Some(gateway) = entry.get("gateway") {
            out[family]["gateway"] = gateway.clone();
        }
    }
    if let Some(dns) = object.get("dns") {
        out["dns"] = dns.clone();
    }
    out
}

/// The addresses on the pod's side of `ifname`, the primary first: the first IPv4 address, else
/// the first of all; the others in the plugin's order.
pub(crate) fn pod_addresses(result: &Value, ifname: &str) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> =
        addresses_on(result, ifname).iter().map(IpPrefix::address).collect();
    if let Some(primary) = found.iter().position(IpAddr::is_ipv4) {
        found[..=primary].rotate_right(1);
    }
    found
}

/// As [`pod_addresses`], with their prefix lengths and in the plugin's order.
pub(crate) fn addresses_on(result: &Value, ifname: &str) -> Vec<IpPrefix> {
    let interfaces = result.get("interfaces").and_then(Value::as_array);
    let on_pod_side = |entry: &Value| {
        let index = entry.get("interface").and_then(Value::as_u64);
        let interface = index
            .and_then(|index| usize::try_from(index).ok())
            .and_then(|index| interfaces?.get(index));
        interface.is_none_or(|interface| {
            let text = |key| interface.get(key).and_then(Value::as_str).unwrap_or_default();
            text("name") == ifname && !text("sandbox").is_empty()
        })
    };
    let listed = result.get("ips").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    listed
        .iter()
        .filter(|entry| on_pod_side(entry))
        .filter_map(|entry| prefix(entry.get("address")?))
        .chain(["ip4", "ip6"].iter().filter_map(|old| prefix(result.get(old)?.get("ip")?)))
        .collect()
}

/// Every address of a result, whichever interface it is on.
pub(crate) fn all_addresses(result: &Value) -> Vec<IpPrefix> {
    let listed = result.get("ips").and_then(Value::as_array);
    listed.into_iter().flatten().filter_map(|entry| prefix(entry.get("address")?)).collect()
}

fn prefix(value: &Value) -> Option<IpPrefix> {
    value.as_str()?.parse().ok()
}

/// The error object a plugin prints, if `value` is one.
pub(crate) fn plugin_error(value: &Value) -> Option<(u64, String)> {
    let code = value.get("code")?.as_u64()?;
    let text = |key| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let (message, details) = (text("msg"), text("details"));
    let separator = if message.is_empty() || details.is_empty() { "" } else { ": " };
    Some((code, format!("{message}{separator}{details}")))
}

/// An empty result, for plugins that only pass on what they were given.
pub(crate) fn empty() -> Value {
    json!({})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(result: &Value) -> Vec<String> {
        pod_addresses(result, "eth0").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_first_ipv4_address_is_primary() {
        let result = json!({
            "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
            "ips": [
                {"address": "fd00::2/64", "interface": 1},
                {"address": "fd01::2/64", "interface": 1},
                {"address": "10.0.0.2/24", "interface": 1},
                {"address": "10.0.0.1/24", "interface": 0},
            ],
        });
        assert_eq!(addresses(&result), ["10.0.0.2", "fd00::2", "fd01::2"]);
    }

    #[test]
    fn results_of_every_version_are_read() {
        assert_eq!(addresses(&json!({"ip4": {"ip": "10.0.0.2/24"}})), ["10.0.0.2"]);
        let old = json!({"ips": [{"version": "4", "address": "10.0.0.3/24"}]});
        assert_eq!(addresses(&old), ["10.0.0.3"]);
        assert!(addresses(&json!({"ips": [{"address": "nonsense"}, 3]})).is_empty());
        assert!(addresses(&json!({})).is_empty());
    }

    #[test]
    fn old_versions_get_one_address_of_each_family() {
        let result = json!({
            "interfaces": [{"name": "eth0"}],
            "ips": [{"address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 0},
                    {"address": "fd00::2/64"}],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        });
        let old = of_version(result.clone(), CniVersion::V0_2_0);
        let want = json!({
            "cniVersion": "0.2.0",
            "ip4": {"ip": "10.0.0.2/24", "gateway": "10.0.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
            "ip6": {"ip": "fd00::2/64", "routes": [{"dst": "::/0"}]},
        });
        assert_eq!(old, want);
        assert_eq!(of_version(result, CniVersion::V0_4_0)["ips"][1]["version"], "6");
    }

    #[test]
    fn results_are_stamped_with_the_lists_version() {
        let result =
            json!({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.0.0.3/24"}]});
        let new = normalise(result.as_object().unwrap().clone(), CniVersion::V1_0_0);
        assert_eq!(new, json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.3/24"}]}));
        let old = normalise(new.as_object().unwrap().clone(), CniVersion::V0_4_0);
        assert_eq!(old, result);
    }
}
