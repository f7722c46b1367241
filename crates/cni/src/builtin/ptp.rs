//! `ptp`: a veth pair between the pod and the host, with no bridge. All the pod's traffic goes
//! through the host's end, also to pods of the same subnet.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use failpoint::Point;
use serde::Deserialize;
use serde_json::{Value, json};
use sys::netlink::{IpPrefix, NewRoute, NewVeth, Rtnetlink};

use super::lease::{Addresses, Lease};
use super::veth::{self, EEXIST, Pair, in_pod, mac_text, pod_netns, tolerate};
use super::{BuiltInError, changed, masquerade, present, sysctl};
use crate::invoke::{Call, Plugins, Verb};
use crate::result;

/// What the reference plugin gives routes to its pods.
const RT_SCOPE_HOST: u8 = 254;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conf {
    #[serde(default)]
    ip_masq: bool,
    #[serde(default)]
    ip_masq_backend: String,
    #[serde(default)]
    mtu: u32,
    ipam: Ipam,
}

#[derive(Debug, Deserialize)]
struct Ipam {
    #[serde(rename = "type")]
    kind: String,
}

pub(super) fn run(plugins: &Plugins, call: &Call<'_>, conf: &Value) -> Result<Value, BuiltInError> {
    let parsed =
        Conf::deserialize(conf).map_err(|error| BuiltInError::configuration(error.to_string()))?;
    let addresses = Addresses { plugins, kind: Some(&parsed.ipam.kind), conf };
    match call.verb {
        Verb::Add => {}
        Verb::Del => {
            veth::delete(plugins, call, conf)?;
            return addresses.ask(call);
        }
        Verb::Check => {
            addresses.ask(call)?;
            return check(call, conf).map(|()| result::empty());
        }
        Verb::Status => {
            if parsed.ip_masq {
                masquerade::supported(plugins, &parsed.ip_masq_backend)?;
            }
            return addresses.ask(call);
        }
        Verb::Gc => return addresses.ask(call),
    }
    let netns = pod_netns(call)?;
    addresses.lend(call, |lease| Plan::new(plugins, &parsed, call, conf, lease)?.attach(&netns))
}

/// An address whose gateway is known.
#[derive(Debug, Clone, Copy)]
struct Hop {
    prefix: IpPrefix,
    gateway: IpAddr,
}

struct Plan<'a> {
    plugins: &'a Plugins,
    conf: &'a Conf,
    call: &'a Call<'a>,
    lease: Lease,
    hops: Vec<Hop>,
    pair: Pair,
}

impl<'a> Plan<'a> {
    fn new(
        plugins: &'a Plugins,
        conf: &'a Conf,
        call: &'a Call<'a>,
        document: &Value,
        lease: &Value,
    ) -> Result<Self, BuiltInError> {
        let lease = Lease::read(lease, document, true)?;
        let first = lease.addresses.first().ok_or(BuiltInError::NoAddresses)?;
        let wanted = veth::wanted_mac(call, document)?;
        let pair = Pair::new(call, Some(first.prefix), wanted);
        let hop = |address: &super::lease::Address| {
            Some(Hop { prefix: address.prefix, gateway: address.gateway? })
        };
        let hops = lease.addresses.iter().filter_map(hop).collect();
        Ok(Self { plugins, conf, call, lease, hops, pair })
    }

    fn attach(&self, netns: &OwnedFd) -> Result<Value, BuiltInError> {
        for hop in &self.hops {
            if hop.gateway.is_ipv4() {
                sysctl::forward_ipv4()?;
            } else {
                sysctl::forward_ipv6()?;
            }
        }
        if self.conf.ip_masq {
            let subnets: Vec<_> = self.lease.prefixes().iter().map(IpPrefix::network).collect();
            masquerade::ensure(self.plugins, &self.conf.ip_masq_backend, &subnets)?;
        }
        let mut host = Rtnetlink::open().map_err(BuiltInError::Socket)?;
        failpoint::reach(Point::CniAddLink).map_err(BuiltInError::Socket)?;
        host.create_veth(&NewVeth {
            host_name: &self.pair.host_name,
            host_mac: self.pair.host_mac,
            master: None,
            hairpin: false,
            isolated: false,
            peer_name: self.call.ifname,
            peer_mac: self.pair.pod_mac,
            peer_netns: netns.as_fd(),
            mtu: (self.conf.mtu != 0).then_some(self.conf.mtu),
        })?;
        let configured = self.configure_host(&mut host).and_then(|()| self.configure_pod(netns));
        match configured {
            Ok(()) => Ok(self.result()),
            Err(error) => {
                veth::undo(&mut host, &self.pair.host_name);
                Err(error)
            }
        }
    }

    /// The gateway's address on this end, and the way to the pod's.
    fn configure_host(&self, host: &mut Rtnetlink) -> Result<(), BuiltInError> {
        let index = host.index(&self.pair.host_name).map_err(BuiltInError::Socket)?;
        for hop in &self.hops {
            if hop.gateway.is_ipv6() {
                let setting = veth::ipv6_setting(&self.pair.host_name, "disable_ipv6");
                sysctl::set(setting, "0")?;
            }
            tolerate(host.add_address(index, IpPrefix::host(hop.gateway)), EEXIST)?;
            // The veth of the address's former holder may be still on its way out, with a route.
            let to_pod = NewRoute::to(IpPrefix::host(hop.prefix.address()));
            host.replace_route(index, &NewRoute { scope: Some(RT_SCOPE_HOST), ..to_pod })?;
        }
        Ok(())
    }

    /// Everything goes to the gateway, the pod's own subnet included, since nobody else answers
    /// for its addresses on this link.
    fn configure_pod(&self, netns: &OwnedFd) -> Result<(), BuiltInError> {
        let prefixes = self.lease.prefixes();
        let mut routes = Vec::new();
        for hop in &self.hops {
            let source = Some(hop.prefix.address());
            routes.push(NewRoute { source, ..NewRoute::to(IpPrefix::host(hop.gateway)) });
            let gateway = Some(hop.gateway);
            if hop.prefix != IpPrefix::host(hop.prefix.address()) {
                routes.push(NewRoute { source, gateway, ..NewRoute::to(hop.prefix.network()) });
            }
        }
        routes.extend(self.lease.routes.iter().cloned());
        failpoint::reach(Point::CniAddConfigure).map_err(BuiltInError::Socket)?;
        in_pod(self.call, netns, |pod| {
            let index = pod.index(self.call.ifname).map_err(BuiltInError::Socket)?;
            veth::enable_ipv6(self.call.ifname, &prefixes)?;
            Ok(pod.configure(index, &prefixes, false, &routes)?)
        })
    }

    fn result(&self) -> Value {
        let mut out = json!({
            "interfaces": [
                {"name": self.pair.host_name, "mac": mac_text(self.pair.host_mac)},
                {"name": self.call.ifname, "mac": mac_text(self.pair.pod_mac),
                 "sandbox": self.call.netns},
            ],
        });
        self.lease.report(1, &mut out);
        out
    }
}

fn check(call: &Call<'_>, document: &Value) -> Result<(), BuiltInError> {
    let previous = present::previous(document)?;
    let netns = pod_netns(call)?;
    let peer = present::pod_link(call, &netns, previous)?;
    let mut host = Rtnetlink::open().map_err(BuiltInError::Socket)?;
    let peer = host.link_at(peer)?.ok_or_else(|| changed("the host's end of the link is gone"))?;
    let routes = host.routes()?;
    for address in result::addresses_on(previous, call.ifname) {
        let wanted = IpPrefix::host(address.address());
        if !routes.iter().any(|r| r.destination == wanted && r.link == Some(peer.index)) {
            return Err(changed(format!("the host has no route to {wanted} by {}", peer.name)));
        }
    }
    Ok(())
}
