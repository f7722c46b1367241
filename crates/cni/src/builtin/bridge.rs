//! `bridge`: a veth pair between the pod and a bridge of the host.
//!
//! The pair is made in one message, with the pod's end born in the pod's namespace: moving a
//! device between namespaces waits for RCU, 14 ms of it under the lock that all of rtnetlink
//! shares. For the same reason DEL deletes no link. It releases the address; the pair goes,
//! asynchronously, when the pod's namespace does. Only a DEL without a result, which undoes an ADD
//! that never completed, deletes the pair: its namespace may be used for the next attempt.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};
use sys::netlink::{
    IpPrefix, Link, Mac, NetlinkError, NewBridge, NewRoute, NewVeth, Rtnetlink, netns,
};

use super::{BuiltInError, masquerade, sysctl};
use crate::invoke::{Call, Plugins, Verb};
use crate::result;

const EEXIST: i32 = 17;
const ENODEV: i32 = 19;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Conf {
    bridge: String,
    is_gateway: bool,
    is_default_gateway: bool,
    force_address: bool,
    ip_masq: bool,
    mtu: u32,
    hairpin_mode: bool,
    promisc_mode: bool,
    // What is not served here is refused, not ignored.
    vlan: u32,
    vlan_trunk: Vec<Value>,
    macspoofchk: bool,
    port_isolation: bool,
    disable_container_interface: bool,
    ipam: Option<Ipam>,
}

#[derive(Debug, Deserialize)]
struct Ipam {
    #[serde(rename = "type")]
    kind: String,
}

impl Default for Conf {
    fn default() -> Self {
        Self {
            bridge: "cni0".to_owned(),
            is_gateway: false,
            is_default_gateway: false,
            force_address: false,
            ip_masq: false,
            mtu: 0,
            hairpin_mode: false,
            promisc_mode: false,
            vlan: 0,
            vlan_trunk: Vec::new(),
            macspoofchk: false,
            port_isolation: false,
            disable_container_interface: false,
            ipam: None,
        }
    }
}

impl Conf {
    fn parse(conf: &Value) -> Result<Self, BuiltInError> {
        let parsed = Self::deserialize(conf)
            .map_err(|error| BuiltInError::configuration(error.to_string()))?;
        let refused = [
            (parsed.vlan != 0, "vlan"),
            (!parsed.vlan_trunk.is_empty(), "vlanTrunk"),
            (parsed.macspoofchk, "macspoofchk"),
            (parsed.port_isolation, "portIsolation"),
            (parsed.disable_container_interface, "disableContainerInterface"),
        ];
        if let Some((_, option)) = refused.iter().find(|(set, _)| *set) {
            let what = format!("`{option}` needs the reference bridge plugin to be installed");
            return Err(BuiltInError::configuration(what));
        }
        if parsed.hairpin_mode && parsed.promisc_mode {
            let what = "`hairpinMode` and `promiscMode` exclude each other";
            return Err(BuiltInError::configuration(what));
        }
        Ok(parsed)
    }

    fn mtu(&self) -> Option<u32> {
        (self.mtu != 0).then_some(self.mtu)
    }
}

pub(super) fn run(plugins: &Plugins, call: &Call<'_>, conf: &Value) -> Result<Value, BuiltInError> {
    let parsed = Conf::parse(conf)?;
    let addresses = |call: &Call<'_>| match &parsed.ipam {
        Some(ipam) if !ipam.kind.is_empty() => plugins
            .call(&ipam.kind, call, conf)
            .map_err(|source| BuiltInError::Addresses(Box::new(source))),
        Some(_) | None => Ok(result::empty()),
    };
    if call.verb == Verb::Del && conf.get("prevResult").is_none() {
        delete_veth(call)?;
    }
    if call.verb != Verb::Add {
        return addresses(call);
    }
    let path = call.netns.unwrap_or_else(|| Path::new(""));
    let netns = netns::open(path)
        .map_err(|source| BuiltInError::Namespace { path: path.to_owned(), source })?
        .ok_or_else(|| BuiltInError::NoNamespace { path: path.to_owned() })?;
    let lease = addresses(call)?;
    let attached = Plan::new(&parsed, call, &lease).and_then(|plan| plan.attach(&netns));
    if attached.is_err() {
        // The address may be given to the next pod; this error is the one to report.
        if let Err(error) = addresses(&Call { verb: Verb::Del, ..call.clone() }) {
            tracing::warn!(%error, container = call.container, "cannot give an address back");
        }
    }
    attached
}

/// One address from address management, with its gateway.
#[derive(Debug, Clone, Copy)]
struct Address {
    prefix: IpPrefix,
    gateway: Option<IpAddr>,
}

/// Everything about one pod's attachment that is known before the kernel is asked.
struct Plan<'a> {
    conf: &'a Conf,
    call: &'a Call<'a>,
    addresses: Vec<Address>,
    routes: Vec<NewRoute>,
    dns: Option<Value>,
    host_name: String,
    host_mac: Mac,
    pod_mac: Mac,
}

impl<'a> Plan<'a> {
    fn new(conf: &'a Conf, call: &'a Call<'a>, lease: &Value) -> Result<Self, BuiltInError> {
        let mut addresses = Vec::new();
        for entry in lease.get("ips").and_then(Value::as_array).into_iter().flatten() {
            let text = |key| entry.get(key).and_then(Value::as_str);
            let prefix: IpPrefix = text("address")
                .unwrap_or_default()
                .parse()
                .map_err(|e| BuiltInError::configuration(format!("leased address: {e}")))?;
            let mut gateway = text("gateway").and_then(|gateway| gateway.parse().ok());
            if gateway.is_none() && (conf.is_gateway || conf.is_default_gateway) {
                let first = sys::netlink::prefix::number(prefix.network().address()) + 1;
                gateway = Some(sys::netlink::prefix::from_number(first, prefix.address()));
            }
            addresses.push(Address { prefix, gateway });
        }
        let hash = fnv(call.container, call.ifname);
        Ok(Self {
            routes: routes(conf, lease, &addresses)?,
            host_name: host_name(call, hash),
            host_mac: mac(hash),
            pod_mac: addresses.first().map_or_else(|| mac(!hash), |a| address_mac(a.prefix)),
            dns: lease.get("dns").cloned(),
            conf,
            call,
            addresses,
        })
    }

    fn attach(&self, netns: &OwnedFd) -> Result<Value, BuiltInError> {
        let mut host = Rtnetlink::open().map_err(BuiltInError::Socket)?;
        let bridge = self.bridge(&mut host)?;
        if self.conf.is_gateway || self.conf.is_default_gateway {
            self.make_gateway(&mut host, &bridge)?;
        }
        if self.conf.ip_masq {
            let subnets: Vec<_> = self.addresses.iter().map(|a| a.prefix.network()).collect();
            masquerade::ensure(&subnets)?;
        }
        host.create_veth(&NewVeth {
            host_name: &self.host_name,
            host_mac: self.host_mac,
            master: bridge.index,
            hairpin: self.conf.hairpin_mode,
            peer_name: self.call.ifname,
            peer_mac: self.pod_mac,
            peer_netns: netns.as_fd(),
            mtu: self.conf.mtu(),
        })?;
        match self.configure_pod(netns) {
            Ok(()) => Ok(self.result(&bridge)),
            Err(error) => {
                undo_veth(&mut host, &self.host_name);
                Err(error)
            }
        }
    }

    /// Finds or makes the bridge. Another daemon may make it at the same time.
    fn bridge(&self, host: &mut Rtnetlink) -> Result<Link, BuiltInError> {
        let name = self.conf.bridge.as_str();
        let mut link = host.link(name)?;
        if link.is_none() {
            let new = NewBridge { name, mac: random_mac(), mtu: self.conf.mtu() };
            tolerate(host.create_bridge(&new), EEXIST)?;
            link = host.link(name)?;
        }
        let link = link.ok_or_else(|| {
            BuiltInError::Socket(io::Error::other(format!("bridge {name} vanished")))
        })?;
        if link.kind != "bridge" {
            return Err(BuiltInError::NotABridge { name: name.to_owned(), kind: link.kind });
        }
        if !link.up || self.conf.promisc_mode {
            host.set_up(link.index, self.conf.promisc_mode)?;
        }
        Ok(link)
    }

    /// Puts the gateway addresses on the bridge and lets the host forward.
    fn make_gateway(&self, host: &mut Rtnetlink, bridge: &Link) -> Result<(), BuiltInError> {
        let present = host.addresses(bridge.index)?;
        for address in &self.addresses {
            let Some(gateway) = address.gateway else { continue };
            let Some(wanted) = IpPrefix::new(gateway, address.prefix.len()) else { continue };
            if gateway.is_ipv4() {
                sysctl::forward_ipv4()?;
            } else {
                sysctl::set(ipv6_setting(&self.conf.bridge, "disable_ipv6"), "0")?;
                sysctl::forward_ipv6()?;
            }
            if present.contains(&wanted) {
                continue;
            }
            let overlaps = |p: &&IpPrefix| {
                p.contains(wanted.network().address()) || wanted.contains(p.address())
            };
            if let (false, Some(present)) = (self.conf.force_address, present.iter().find(overlaps))
            {
                let (bridge, present) = (self.conf.bridge.clone(), *present);
                return Err(BuiltInError::OtherGateway { bridge, present, wanted });
            }
            tolerate(host.add_address(bridge.index, wanted), EEXIST)?;
        }
        Ok(())
    }

    fn configure_pod(&self, netns: &OwnedFd) -> Result<(), BuiltInError> {
        let prefixes: Vec<IpPrefix> = self.addresses.iter().map(|a| a.prefix).collect();
        let work = || {
            let mut pod = Rtnetlink::open().map_err(BuiltInError::Socket)?;
            let index = pod.index(self.call.ifname).map_err(BuiltInError::Socket)?;
            if prefixes.iter().any(|prefix| prefix.address().is_ipv6()) {
                sysctl::set(ipv6_setting(self.call.ifname, "disable_ipv6"), "0")?;
            }
            Ok(pod.configure(index, &prefixes, &self.routes)?)
        };
        netns::run_in(netns.as_fd(), work).map_err(|source| BuiltInError::Namespace {
            path: self.call.netns.unwrap_or_else(|| Path::new("")).to_owned(),
            source,
        })?
    }

    fn result(&self, bridge: &Link) -> Value {
        let text = |mac: Mac| mac.map(|byte| format!("{byte:02x}")).join(":");
        let bridge_mac = bridge.mac.map(text).unwrap_or_default();
        let ips: Vec<Value> = self.addresses.iter().map(address_json).collect();
        let routes: Vec<Value> = self.routes.iter().map(route_json).collect();
        let mut out = json!({
            "interfaces": [
                {"name": self.conf.bridge, "mac": bridge_mac},
                {"name": self.host_name, "mac": text(self.host_mac)},
                {"name": self.call.ifname, "mac": text(self.pod_mac), "sandbox": self.call.netns},
            ],
            "ips": ips,
            "routes": routes,
        });
        if let Some(dns) = &self.dns {
            out["dns"] = dns.clone();
        }
        out
    }
}

/// The pod's interface is the third of the result.
fn address_json(address: &Address) -> Value {
    let mut out = json!({"address": address.prefix.to_string(), "interface": 2});
    if let Some(gateway) = address.gateway {
        out["gateway"] = gateway.to_string().into();
    }
    out
}

fn route_json(route: &NewRoute) -> Value {
    let mut out = json!({"dst": route.destination.to_string()});
    if let Some(gateway) = route.gateway {
        out["gw"] = gateway.to_string().into();
    }
    if let Some(mtu) = route.mtu {
        out["mtu"] = mtu.into();
    }
    if let Some(priority) = route.priority {
        out["priority"] = priority.into();
    }
    out
}

/// The leased routes, and default routes if the bridge is the default gateway. A route without a
/// next hop goes to the gateway of its family.
fn routes(
    conf: &Conf,
    lease: &Value,
    addresses: &[Address],
) -> Result<Vec<NewRoute>, BuiltInError> {
    let gateway_of = |v4: bool| {
        addresses.iter().filter_map(|a| a.gateway).find(|gateway| gateway.is_ipv4() == v4)
    };
    let mut out: Vec<NewRoute> = Vec::new();
    for entry in lease.get("routes").and_then(Value::as_array).into_iter().flatten() {
        let destination = entry.get("dst").and_then(Value::as_str).unwrap_or_default();
        let destination: IpPrefix = destination
            .parse()
            .map_err(|error| BuiltInError::configuration(format!("route: {error}")))?;
        let named = entry.get("gw").and_then(Value::as_str).filter(|gw| !gw.is_empty());
        let gateway = match named {
            Some(text) => Some(text.parse().map_err(|_| {
                BuiltInError::configuration(format!("route: `{text}` is not an address"))
            })?),
            None => gateway_of(destination.address().is_ipv4()),
        };
        let number = |key| {
            let value = entry.get(key).and_then(Value::as_u64)?;
            u32::try_from(value).ok().filter(|value| *value != 0)
        };
        out.push(NewRoute {
            destination,
            gateway,
            priority: number("priority"),
            mtu: number("mtu"),
        });
    }
    for address in addresses.iter().filter(|_| conf.is_default_gateway) {
        let v4 = address.prefix.address().is_ipv4();
        let everywhere = IpPrefix::new(if v4 { [0; 4].into() } else { [0_u8; 16].into() }, 0);
        let has_one = out
            .iter()
            .any(|r| r.destination.is_default() && r.destination.address().is_ipv4() == v4);
        if let (false, Some(destination)) = (has_one, everywhere) {
            out.push(NewRoute { destination, gateway: address.gateway, priority: None, mtu: None });
        }
    }
    Ok(out)
}

fn delete_veth(call: &Call<'_>) -> Result<(), BuiltInError> {
    let mut host = Rtnetlink::open().map_err(BuiltInError::Socket)?;
    let name = host_name(call, fnv(call.container, call.ifname));
    Ok(tolerate(host.delete_link(&name), ENODEV)?)
}

fn undo_veth(host: &mut Rtnetlink, name: &str) {
    if let Err(error) = tolerate(host.delete_link(name), ENODEV) {
        tracing::warn!(%error, name, "cannot delete the veth of a failed attachment");
    }
}

fn tolerate(outcome: Result<(), NetlinkError>, errno: i32) -> Result<(), NetlinkError> {
    match outcome {
        Err(error) if error.errno() != Some(errno) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn ipv6_setting(link: &str, setting: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{link}/{setting}")
}

/// `veth` and the start of the sandbox id, so that an operator finds the pod.
fn host_name(call: &Call<'_>, hash: u64) -> String {
    match call.container.get(..8) {
        Some(start) if call.ifname == "eth0" => format!("veth{start}"),
        Some(_) | None => format!("veth{:08x}", hash >> 32),
    }
}

/// A locally administered address from a number.
fn mac(number: u64) -> Mac {
    let [_, _, _, a, b, c, d, e] = number.to_be_bytes();
    [0x02, a, b, c, d, e]
}

/// The pod's hardware address follows from its IP address: whoever remembers the one of a former
/// holder of that IP address then remembers the right one.
fn address_mac(prefix: IpPrefix) -> Mac {
    let bytes = sys::netlink::prefix::number(prefix.address()).to_be_bytes();
    [0x02, 0x6b, bytes[12], bytes[13], bytes[14], bytes[15]]
}

fn random_mac() -> Mac {
    use std::hash::{BuildHasher, Hasher};
    // Keyed from the kernel's random numbers.
    mac(std::hash::RandomState::new().build_hasher().finish())
}

/// FNV-1a, 64 bits: spreads names evenly; not for anything that must resist an attacker.
fn fnv(container: &str, ifname: &str) -> u64 {
    let bytes = container.bytes().chain([0]).chain(ifname.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
