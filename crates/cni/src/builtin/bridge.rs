//! `bridge`: a veth pair between the pod and a bridge of the host.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use failpoint::Point;
use serde::Deserialize;
use serde_json::{Value, json};
use sys::netlink::{IpPrefix, Link, Mac, NewBridge, NewVeth, Rtnetlink};

use super::lease::{Addresses, Lease};
use super::veth::{
    self, EADDRNOTAVAIL, EEXIST, Pair, in_pod, ipv6_setting, mac_text, pod_netns, tolerate,
};
use super::vlan::{VlanConf, Vlans};
use super::{BuiltInError, changed, masquerade, present, senders, sysctl};
use crate::invoke::{Call, Plugins, Verb};
use crate::result;

const EOPNOTSUPP: i32 = 95;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Conf {
    bridge: String,
    is_gateway: bool,
    is_default_gateway: bool,
    force_address: bool,
    ip_masq: bool,
    ip_masq_backend: String,
    mtu: u32,
    hairpin_mode: bool,
    promisc_mode: bool,
    port_isolation: bool,
    disable_container_interface: bool,
    macspoofchk: bool,
    // What is not served here is refused, not ignored.
    enabledad: bool,
    ipam: Option<Ipam>,
    #[serde(flatten)]
    vlan_conf: VlanConf,
    #[serde(skip)]
    vlans: Option<Vlans>,
}

#[derive(Debug, Deserialize)]
struct Ipam {
    #[serde(rename = "type", default)]
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
            ip_masq_backend: String::new(),
            mtu: 0,
            hairpin_mode: false,
            promisc_mode: false,
            port_isolation: false,
            disable_container_interface: false,
            macspoofchk: false,
            enabledad: false,
            ipam: None,
            vlan_conf: VlanConf::default(),
            vlans: None,
        }
    }
}

impl Conf {
    fn parse(conf: &Value) -> Result<Self, BuiltInError> {
        Self::deserialize(conf).map_err(|error| BuiltInError::configuration(error.to_string()))
    }

    /// Refuses what cannot be served. Not asked by DEL: the pod may have been attached by the
    /// reference plugin, which is not there any more.
    fn served(mut self) -> Result<Self, BuiltInError> {
        if self.enabledad {
            let what = "`enabledad` needs the reference bridge plugin to be installed";
            return Err(BuiltInError::configuration(what));
        }
        self.vlans = Vlans::read(&self.vlan_conf)?;
        if self.hairpin_mode && self.promisc_mode {
            let what = "`hairpinMode` and `promiscMode` exclude each other";
            return Err(BuiltInError::configuration(what));
        }
        if self.disable_container_interface && self.ipam_kind().is_some() {
            let what = "`disableContainerInterface` and `ipam` exclude each other";
            return Err(BuiltInError::configuration(what));
        }
        self.is_gateway |= self.is_default_gateway;
        Ok(self)
    }

    fn mtu(&self) -> Option<u32> {
        (self.mtu != 0).then_some(self.mtu)
    }

    fn ipam_kind(&self) -> Option<&str> {
        self.ipam.as_ref().map(|ipam| ipam.kind.as_str()).filter(|kind| !kind.is_empty())
    }
}

pub(super) fn run(plugins: &Plugins, call: &Call<'_>, conf: &Value) -> Result<Value, BuiltInError> {
    let mut parsed = Conf::parse(conf)?;
    if call.verb != Verb::Del {
        parsed = parsed.served()?;
    }
    let addresses = Addresses { plugins, kind: parsed.ipam_kind(), conf };
    match call.verb {
        Verb::Add => {}
        Verb::Del => {
            veth::delete(plugins, call, conf)?;
            if parsed.macspoofchk {
                senders::forget(call)?;
            }
            return addresses.ask(call);
        }
        Verb::Check => {
            addresses.ask(call)?;
            return check(&parsed, call, conf).map(|()| result::empty());
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

/// Everything about one pod's attachment that is known before the kernel is asked.
struct Plan<'a> {
    plugins: &'a Plugins,
    conf: &'a Conf,
    call: &'a Call<'a>,
    lease: Lease,
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
        let mut lease = Lease::read(lease, document, conf.is_gateway)?;
        if lease.addresses.is_empty() && conf.ipam_kind().is_some() {
            return Err(BuiltInError::NoAddresses);
        }
        if conf.is_default_gateway {
            lease.add_default_routes();
        }
        let wanted = veth::wanted_mac(call, document)?;
        let first = lease.addresses.first().map(|address| address.prefix);
        Ok(Self { pair: Pair::new(call, first, wanted), plugins, conf, call, lease })
    }

    fn attach(&self, netns: &OwnedFd) -> Result<Value, BuiltInError> {
        let mut host = Rtnetlink::open().map_err(BuiltInError::Socket)?;
        let bridge = self.bridge(&mut host)?;
        let mut gateway_link = None;
        if self.conf.is_gateway {
            let vlans = self.conf.vlans.as_ref().and_then(|vlans| Some((vlans, vlans.own?)));
            gateway_link = vlans
                .map(|(vlans, own)| vlans.gateway_link(own, &mut host, &bridge, self.conf.mtu()))
                .transpose()?;
            self.make_gateway(&mut host, gateway_link.as_ref().unwrap_or(&bridge))?;
        }
        if self.conf.ip_masq {
            let subnets: Vec<_> = self.lease.prefixes().iter().map(IpPrefix::network).collect();
            masquerade::ensure(self.plugins, &self.conf.ip_masq_backend, &subnets)?;
        }
        if self.conf.macspoofchk {
            senders::allow(self.call, &self.pair)?;
        }
        self.make_pair(&mut host, &bridge, netns).inspect_err(|_| self.allow_nothing())?;
        Ok(self.result(&bridge, gateway_link.as_ref()))
    }

    fn make_pair(
        &self,
        host: &mut Rtnetlink,
        bridge: &Link,
        netns: &OwnedFd,
    ) -> Result<(), BuiltInError> {
        failpoint::reach(Point::CniAddLink).map_err(BuiltInError::Socket)?;
        host.create_veth(&NewVeth {
            host_name: &self.pair.host_name,
            host_mac: self.pair.host_mac,
            master: Some(bridge.index),
            hairpin: self.conf.hairpin_mode,
            isolated: self.conf.port_isolation,
            peer_name: self.call.ifname,
            peer_mac: self.pair.pod_mac,
            peer_netns: netns.as_fd(),
            mtu: self.conf.mtu(),
        })?;
        let configured = self.join_vlans(host, bridge).and_then(|()| self.configure_pod(netns));
        configured.inspect_err(|_| veth::undo(host, &self.pair.host_name))
    }

    /// After a failure, whose own error is the one to report.
    fn allow_nothing(&self) {
        if self.conf.macspoofchk
            && let Err(error) = senders::forget(self.call)
        {
            tracing::warn!(%error, container = self.call.container, "rules of a failed attachment");
        }
    }

    fn join_vlans(&self, host: &mut Rtnetlink, bridge: &Link) -> Result<(), BuiltInError> {
        let Some(vlans) = &self.conf.vlans else { return Ok(()) };
        let port = host.index(&self.pair.host_name).map_err(BuiltInError::Socket)?;
        vlans.apply(host, bridge, port)
    }

    /// Finds or makes the bridge. Another daemon may make it at the same time.
    fn bridge(&self, host: &mut Rtnetlink) -> Result<Link, BuiltInError> {
        let name = self.conf.bridge.as_str();
        let mut link = host.link(name)?;
        if link.is_none() {
            let new = NewBridge {
                name,
                mac: veth::random_mac(),
                mtu: self.conf.mtu(),
                vlan_filtering: self.conf.vlans.is_some(),
            };
            let made = host.create_bridge(&new);
            if new.vlan_filtering
                && made.as_ref().is_err_and(|error| error.errno() == Some(EOPNOTSUPP))
            {
                return Err(BuiltInError::NoVlans { bridge: name.to_owned() });
            }
            tolerate(made, EEXIST)?;
            // Its routes are ours to make, not those of whoever advertises some.
            sysctl::set(ipv6_setting(name, "accept_ra"), "0")?;
            link = host.link(name)?;
        }
        let link = link.ok_or_else(|| {
            BuiltInError::Socket(io::Error::other(format!("bridge {name} vanished")))
        })?;
        if link.kind != "bridge" {
            return Err(BuiltInError::NotABridge { name: name.to_owned(), kind: link.kind });
        }
        if self.conf.vlans.is_some() && link.default_vlan.is_none() {
            return Err(BuiltInError::NoVlans { bridge: name.to_owned() });
        }
        if !link.up || (self.conf.promisc_mode && !link.promiscuous) {
            host.set_up(link.index, self.conf.promisc_mode)?;
        }
        Ok(link)
    }

    /// Puts the gateway addresses on the bridge, or the link that stands for it, and lets the host forward.
    fn make_gateway(&self, host: &mut Rtnetlink, on: &Link) -> Result<(), BuiltInError> {
        let mut present = host.addresses(on.index)?;
        for address in &self.lease.addresses {
            let Some(gateway) = address.gateway else { continue };
            let Some(wanted) = IpPrefix::new(gateway, address.prefix.len()) else { continue };
            if gateway.is_ipv4() {
                sysctl::forward_ipv4()?;
            } else {
                sysctl::set(ipv6_setting(&on.name, "disable_ipv6"), "0")?;
                sysctl::forward_ipv6()?;
            }
            if present.contains(&wanted) {
                continue;
            }
            // Of IPv4, the one that is forced is the only one, as with the reference plugin.
            let in_the_way = |p: &mut IpPrefix| {
                let overlaps =
                    p.contains(wanted.network().address()) || wanted.contains(p.address());
                let replaced = gateway.is_ipv4() && p.address().is_ipv4();
                overlaps || (replaced && self.conf.force_address)
            };
            for present in present.extract_if(.., in_the_way) {
                if !self.conf.force_address {
                    let bridge = on.name.clone();
                    return Err(BuiltInError::OtherGateway { bridge, present, wanted });
                }
                tolerate(host.delete_address(on.index, present), EADDRNOTAVAIL)?;
            }
            tolerate(host.add_address(on.index, wanted), EEXIST)?;
            present.push(wanted);
        }
        Ok(())
    }

    fn configure_pod(&self, netns: &OwnedFd) -> Result<(), BuiltInError> {
        if self.conf.disable_container_interface {
            return Ok(());
        }
        let prefixes = self.lease.prefixes();
        in_pod(self.call, netns, |pod| {
            failpoint::reach(Point::CniAddConfigure).map_err(BuiltInError::Socket)?;
            let index = pod.index(self.call.ifname).map_err(BuiltInError::Socket)?;
            veth::enable_ipv6(self.call.ifname, &prefixes)?;
            Ok(pod.configure(index, &prefixes, true, &self.lease.routes)?)
        })
    }

    fn result(&self, bridge: &Link, gateway: Option<&Link>) -> Value {
        let mac = |mac: Option<Mac>| mac.map(mac_text).unwrap_or_default();
        let mut out = json!({
            "interfaces": [
                {"name": self.conf.bridge, "mac": mac(bridge.mac)},
                {"name": self.pair.host_name, "mac": mac_text(self.pair.host_mac)},
                {"name": self.call.ifname, "mac": mac_text(self.pair.pod_mac),
                 "sandbox": self.call.netns},
            ],
        });
        if let (Some(gateway), Some(list)) = (gateway, out["interfaces"].as_array_mut()) {
            list.push(json!({"name": gateway.name, "mac": mac(gateway.mac)}));
        }
        self.lease.report(2, &mut out);
        out
    }
}

fn check(conf: &Conf, call: &Call<'_>, document: &Value) -> Result<(), BuiltInError> {
    let previous = present::previous(document)?;
    let netns = pod_netns(call)?;
    let mut host = Rtnetlink::open().map_err(BuiltInError::Socket)?;
    let bridge = present::link(&mut host, &conf.bridge, "bridge")?;
    if conf.disable_container_interface {
        return Ok(());
    }
    let peer = present::pod_link(call, &netns, previous)?;
    let peer = host.link_at(peer)?.ok_or_else(|| changed("the host's end of the link is gone"))?;
    if peer.master != Some(bridge.index) {
        return Err(changed(format!("link {} is not on bridge {}", peer.name, conf.bridge)));
    }
    if conf.macspoofchk { senders::check(call, &peer.name) } else { Ok(()) }
}
