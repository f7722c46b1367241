//! What address management gave: addresses, routes, resolver settings. And the other way round,
//! what plugins report of them.

use std::net::IpAddr;

use serde_json::{Value, json};
use sys::netlink::prefix::{from_number, number};
use sys::netlink::{IpPrefix, NewRoute};

use super::{BuiltInError, Ipv6, ipv6};
use crate::invoke::{Call, Plugins, Verb};
use crate::result;

/// Address management for the pods of one plugin's configuration.
pub(super) struct Addresses<'a> {
    pub(super) plugins: &'a Plugins,
    /// The plugin that does it; without one, pods get no addresses.
    pub(super) kind: Option<&'a str>,
    pub(super) conf: &'a Value,
}

impl Addresses<'_> {
    /// Does what is asked about a pod's addresses.
    pub(super) fn ask(&self, call: &Call<'_>) -> Result<Value, BuiltInError> {
        let Some(kind) = self.kind else { return Ok(result::empty()) };
        self.plugins
            .call(kind, call, self.conf)
            .map_err(|source| BuiltInError::Addresses(Box::new(source)))
    }

    /// Does something with a pod's new addresses; if that fails they are given back, and its
    /// error is the one to report.
    pub(super) fn lend(
        &self,
        call: &Call<'_>,
        work: impl FnOnce(&Value) -> Result<Value, BuiltInError>,
    ) -> Result<Value, BuiltInError> {
        let lease = self.ask(call)?;
        work(&lease).inspect_err(|_| {
            if let Err(error) = self.ask(&Call { verb: Verb::Del, ..call.clone() }) {
                tracing::warn!(%error, container = call.container, "cannot give an address back");
            }
        })
    }
}

/// One address with its gateway.
#[derive(Debug, Clone, Copy)]
pub(super) struct Address {
    pub(super) prefix: IpPrefix,
    pub(super) gateway: Option<IpAddr>,
}

/// A pod's addresses, and the routes it should have.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) addresses: Vec<Address>,
    pub(super) routes: Vec<NewRoute>,
    /// Routes as they are reported.
    route_texts: Vec<Value>,
    dns: Value,
}

impl Lease {
    /// Reads the result of address management. `needs_gateway`: one that it left out is the
    /// first address of the network. The plugin's own resolver settings win over those found.
    pub(super) fn read(
        result: &Value,
        conf: &Value,
        needs_gateway: bool,
    ) -> Result<Self, BuiltInError> {
        let listed = |key| result.get(key).and_then(Value::as_array).into_iter().flatten();
        let addresses = listed("ips")
            .map(|entry| address(entry, needs_gateway))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(v6) = addresses.iter().find(|a| a.prefix.address().is_ipv6())
            && ipv6() == Ipv6::Absent
        {
            return Err(BuiltInError::NoIpv6 { address: v6.prefix });
        }
        let routes = listed("routes")
            .map(|entry| route(entry, &addresses))
            .collect::<Result<Vec<_>, _>>()?;
        let own_dns = conf.get("dns").filter(|dns| dns.as_object().is_some_and(|o| !o.is_empty()));
        Ok(Self {
            addresses,
            routes,
            route_texts: listed("routes").cloned().collect(),
            dns: own_dns.or_else(|| result.get("dns")).cloned().unwrap_or_else(|| json!({})),
        })
    }

    pub(super) fn prefixes(&self) -> Vec<IpPrefix> {
        self.addresses.iter().map(|address| address.prefix).collect()
    }

    /// Adds a default route for each family that has none.
    pub(super) fn add_default_routes(&mut self) {
        for address in &self.addresses {
            let v4 = address.prefix.address().is_ipv4();
            let everywhere = IpPrefix::new(if v4 { [0; 4].into() } else { [0_u8; 16].into() }, 0);
            let is_default = |route: &NewRoute| {
                route.destination.is_default() && route.destination.address().is_ipv4() == v4
            };
            let (Some(everywhere), Some(gateway)) = (everywhere, address.gateway) else { continue };
            if self.routes.iter().any(is_default) {
                continue;
            }
            let route = NewRoute { gateway: Some(gateway), ..NewRoute::to(everywhere) };
            self.routes.push(route);
            let text = json!({"dst": everywhere.to_string(), "gw": gateway.to_string()});
            self.route_texts.push(text);
        }
    }

    /// Puts addresses (of the pod's interface, number `interface` of the result), routes and
    /// resolver settings into a result.
    pub(super) fn report(&self, interface: usize, out: &mut Value) {
        let text = |address: &Address| {
            let mut out = json!({"address": address.prefix.to_string(), "interface": interface});
            if let Some(gateway) = address.gateway {
                out["gateway"] = gateway.to_string().into();
            }
            out
        };
        out["ips"] = self.addresses.iter().map(text).collect();
        if !self.route_texts.is_empty() {
            out["routes"] = self.route_texts.clone().into();
        }
        out["dns"] = self.dns.clone();
    }
}

fn address(entry: &Value, needs_gateway: bool) -> Result<Address, BuiltInError> {
    let text = |key| entry.get(key).and_then(Value::as_str);
    let prefix: IpPrefix = text("address")
        .unwrap_or_default()
        .parse()
        .map_err(|error| BuiltInError::configuration(format!("leased address: {error}")))?;
    let mut gateway = text("gateway").and_then(|gateway| gateway.parse().ok());
    if gateway.is_none() && needs_gateway {
        let first = number(prefix.network().address()) + 1;
        gateway = Some(from_number(first, prefix.address()));
    }
    Ok(Address { prefix, gateway })
}

/// A route without a next hop goes to the gateway of its family, unless it says that its
/// destination is on the link.
fn route(entry: &Value, addresses: &[Address]) -> Result<NewRoute, BuiltInError> {
    const RT_SCOPE_LINK: u8 = 253;
    let destination = entry.get("dst").and_then(Value::as_str).unwrap_or_default();
    let destination: IpPrefix = destination
        .parse()
        .map_err(|error| BuiltInError::configuration(format!("route: {error}")))?;
    let number = |key| {
        let value = entry.get(key).and_then(Value::as_u64)?;
        u32::try_from(value).ok().filter(|value| *value != 0)
    };
    let scope = entry.get("scope").and_then(Value::as_u64).and_then(|s| u8::try_from(s).ok());
    let named = entry.get("gw").and_then(Value::as_str).filter(|gw| !gw.is_empty());
    let gateway = match named {
        Some(text) => Some(text.parse().map_err(|_| {
            BuiltInError::configuration(format!("route: `{text}` is not an address"))
        })?),
        None if scope == Some(RT_SCOPE_LINK) => None,
        None => {
            let v4 = destination.address().is_ipv4();
            addresses.iter().filter_map(|a| a.gateway).find(|gateway| gateway.is_ipv4() == v4)
        }
    };
    Ok(NewRoute {
        gateway,
        source: None,
        priority: number("priority"),
        mtu: number("mtu"),
        advertised_mss: number("advmss"),
        table: number("table"),
        scope: scope.filter(|scope| *scope != 0),
        ..NewRoute::to(destination)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(result: &Value) -> Result<Lease, String> {
        Lease::read(result, &json!({}), true).map_err(|error| error.to_string())
    }

    #[test]
    fn gateways_and_next_hops_are_filled_in() {
        let mut lease = lease(&json!({
            "ips": [{"address": "10.0.0.7/24"}, {"address": "10.1.0.7/24", "gateway": "10.1.0.9"}],
            "routes": [
                {"dst": "10.8.0.0/16", "mtu": 1400, "table": 7},
                {"dst": "10.9.0.0/16", "gw": "10.0.0.3"},
                {"dst": "10.7.0.0/16", "scope": 253},
            ],
        }))
        .unwrap();
        let gateways: Vec<_> =
            lease.addresses.iter().map(|a| a.gateway.unwrap().to_string()).collect();
        assert_eq!(gateways, ["10.0.0.1", "10.1.0.9"]);
        let hop = |at: usize| lease.routes[at].gateway.map(|gateway| gateway.to_string());
        assert_eq!(hop(0).as_deref(), Some("10.0.0.1"));
        assert_eq!((lease.routes[0].mtu, lease.routes[0].table), (Some(1400), Some(7)));
        assert_eq!(hop(1).as_deref(), Some("10.0.0.3"));
        assert_eq!(hop(2), None);
        lease.add_default_routes();
        lease.add_default_routes();
        assert_eq!(lease.routes.len(), 4);
        let mut out = json!({});
        lease.report(2, &mut out);
        assert_eq!(out["ips"][0]["interface"], 2);
        assert_eq!(out["routes"][0], json!({"dst": "10.8.0.0/16", "mtu": 1400, "table": 7}));
        assert_eq!(out["routes"][3], json!({"dst": "0.0.0.0/0", "gw": "10.0.0.1"}));
        assert_eq!(out["dns"], json!({}));
    }

    #[test]
    fn the_plugins_own_resolver_settings_win() {
        let result = json!({"ips": [], "dns": {"nameservers": ["192.0.2.1"]}});
        for (conf, want) in [
            (json!({}), "192.0.2.1"),
            (json!({"dns": {}}), "192.0.2.1"),
            (json!({"dns": {"nameservers": ["192.0.2.9"]}}), "192.0.2.9"),
        ] {
            let mut out = json!({});
            Lease::read(&result, &conf, false).unwrap().report(0, &mut out);
            assert_eq!(out["dns"]["nameservers"][0], want);
        }
    }

    #[test]
    fn what_is_no_address_is_named() {
        for result in [
            json!({"ips": [{"address": "here"}]}),
            json!({"ips": [], "routes": [{"dst": "there"}]}),
            json!({"ips": [], "routes": [{"dst": "10.0.0.0/8", "gw": "him"}]}),
        ] {
            assert!(lease(&result).is_err(), "{result}");
        }
    }
}
