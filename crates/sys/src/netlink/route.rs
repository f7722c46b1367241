//! Links, addresses and routes of one network namespace, by rtnetlink.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::message::{
    Attributes, Batch, Body, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, u16_at, u32_at,
};
use super::{IpPrefix, NetlinkError, Socket};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const VETH_INFO_PEER: u16 = 1;
const IFF_UP: u32 = 0x1;
const IFF_PROMISC: u32 = 0x100;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 0x2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_METRICS: u16 = 8;
const RTAX_MTU: u16 = 2;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;

/// A hardware address.
pub type Mac = [u8; 6];

/// What a link is, as far as knarr looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Driver kind: `bridge`, `veth`, …; empty for hardware.
    pub kind: String,
    /// Hardware address, if it is an Ethernet one.
    pub mac: Option<Mac>,
    /// Whether the link is administratively up.
    pub up: bool,
    /// Largest packet in bytes.
    pub mtu: u32,
}

/// A bridge to make.
#[derive(Debug, Clone)]
pub struct NewBridge<'a> {
    /// Interface name.
    pub name: &'a str,
    /// Given explicitly, so that it does not change as ports come and go.
    pub mac: Mac,
    /// Largest packet in bytes; `None`: the kernel's default.
    pub mtu: Option<u32>,
}

/// A veth pair to make, with the peer born in another network namespace.
#[derive(Debug, Clone)]
pub struct NewVeth<'a> {
    /// Name of the end that stays here.
    pub host_name: &'a str,
    /// Given explicitly: udev's persistent-address policy leaves such links alone.
    pub host_mac: Mac,
    /// Index of the bridge this end is put on.
    pub master: u32,
    /// Whether the bridge may send a frame back out of the port it came from.
    pub hairpin: bool,
    /// Name of the peer.
    pub peer_name: &'a str,
    /// Hardware address of the peer.
    pub peer_mac: Mac,
    /// Namespace of the peer.
    pub peer_netns: BorrowedFd<'a>,
    /// Largest packet in bytes, both ends; `None`: the kernel's default.
    pub mtu: Option<u32>,
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRoute {
    /// Destination network.
    pub destination: IpPrefix,
    /// Next hop; `None`: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Metric; `None`: the kernel's default.
    pub priority: Option<u32>,
    /// Path MTU; `None`: that of the link.
    pub mtu: Option<u32>,
}

/// An rtnetlink socket of the calling thread's network namespace.
#[derive(Debug)]
pub struct Rtnetlink(Socket);

impl Rtnetlink {
    /// Opens the socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// The errno of `socket`.
    pub fn open() -> io::Result<Self> {
        Socket::open(None).map(Self)
    }

    /// Finds a link by name; `None` if there is none.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut batch = Batch::new();
        batch.message(RTM_GETLINK, 0, format!("look up link {name}"), |body| {
            body.raw(&ifinfomsg(0, 0, 0)).text(IFLA_IFNAME, name);
        });
        match self.0.query(batch) {
            Ok(replies) => Ok(replies.iter().find_map(|reply| parse_link(&reply.body))),
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The index of a link, by ioctl: cheaper than [`Self::link`].
    ///
    /// # Errors
    /// `ENODEV` when there is no such link.
    pub fn index(&self, name: &str) -> io::Result<u32> {
        Ok(rustix::net::netdevice::name_to_index(self.0.as_fd(), name)?)
    }

    /// Makes a bridge and brings it up.
    ///
    /// # Errors
    /// `EEXIST` when the name is taken.
    pub fn create_bridge(&mut self, bridge: &NewBridge<'_>) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        let label = format!("make bridge {}", bridge.name);
        batch.message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, label, |body| {
            body.raw(&ifinfomsg(0, IFF_UP, IFF_UP)).text(IFLA_IFNAME, bridge.name);
            body.attr(IFLA_ADDRESS, &bridge.mac);
            mtu(body, bridge.mtu);
            body.nest(IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, "bridge");
            });
        });
        self.0.transact(batch, 0)
    }

    /// Makes a veth pair in one message: peer born in its namespace, host end up and on the
    /// bridge. Nothing is moved between namespaces: that costs an RCU grace period.
    ///
    /// # Errors
    /// `EEXIST` when either name is taken.
    pub fn create_veth(&mut self, veth: &NewVeth<'_>) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        let label = format!("make veth {} with its peer {}", veth.host_name, veth.peer_name);
        batch.message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, label, |body| {
            body.raw(&ifinfomsg(0, IFF_UP, IFF_UP)).text(IFLA_IFNAME, veth.host_name);
            body.attr(IFLA_ADDRESS, &veth.host_mac).u32(IFLA_MASTER, veth.master);
            mtu(body, veth.mtu);
            body.nest(IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
                    data.nest(VETH_INFO_PEER, |peer| {
                        // IFF_UP here would be ENOTCONN: the peer has no partner yet.
                        peer.raw(&ifinfomsg(0, 0, 0)).text(IFLA_IFNAME, veth.peer_name);
                        peer.attr(IFLA_ADDRESS, &veth.peer_mac);
                        let fd = veth.peer_netns.as_raw_fd();
                        peer.attr(IFLA_NET_NS_FD, &fd.to_ne_bytes());
                        mtu(peer, veth.mtu);
                    });
                });
            });
        });
        if veth.hairpin {
            // The create message ignores port settings; this one finds the link by its name.
            let label = format!("turn hairpin mode on for {}", veth.host_name);
            batch.message(RTM_NEWLINK, 0, label, |body| {
                body.raw(&ifinfomsg(0, 0, 0)).text(IFLA_IFNAME, veth.host_name);
                body.nest(IFLA_LINKINFO, |info| {
                    info.text(IFLA_INFO_SLAVE_KIND, "bridge");
                    info.nest(IFLA_INFO_SLAVE_DATA, |data| {
                        data.attr(IFLA_BRPORT_MODE, &[1]);
                    });
                });
            });
        }
        let last = batch.len() - 1;
        self.0.transact(batch, last)
    }

    /// Brings a link up; `promiscuous` also makes it take every frame.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn set_up(&mut self, index: u32, promiscuous: bool) -> Result<(), NetlinkError> {
        let flags = if promiscuous { IFF_UP | IFF_PROMISC } else { IFF_UP };
        let mut batch = Batch::new();
        batch.message(RTM_NEWLINK, 0, format!("bring link {index} up"), |body| {
            body.raw(&ifinfomsg(index, flags, flags));
        });
        self.0.transact(batch, 0)
    }

    /// Deletes a link. Waits for RCU (10–20 ms): only for undoing, never on the usual way down,
    /// where a veth goes with its namespace.
    ///
    /// # Errors
    /// `ENODEV` when there is no such link.
    pub fn delete_link(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        batch.message(RTM_DELLINK, 0, format!("delete link {name}"), |body| {
            body.raw(&ifinfomsg(0, 0, 0)).text(IFLA_IFNAME, name);
        });
        self.0.transact(batch, 0)
    }

    /// The addresses of a link.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<IpPrefix>, NetlinkError> {
        let mut batch = Batch::new();
        let label = format!("list the addresses of link {index}");
        batch.message(RTM_GETADDR, NLM_F_DUMP, label, |body| {
            let mut header = [0; 8];
            header[4..8].copy_from_slice(&index.to_ne_bytes());
            body.raw(&header);
        });
        let replies = self.0.query(batch)?;
        let of_link = |body: &[u8]| {
            let found = u32_at(body, 4)?;
            (found == index).then(|| parse_address(body)).flatten()
        };
        Ok(replies.iter().filter_map(|reply| of_link(&reply.body)).collect())
    }

    /// Gives a link an address.
    ///
    /// # Errors
    /// `EEXIST` when it has it already.
    pub fn add_address(&mut self, index: u32, address: IpPrefix) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        push_address(&mut batch, index, address);
        self.0.transact(batch, 0)
    }

    /// Gives a link its addresses, brings it up and adds routes through it, in one batch.
    ///
    /// # Errors
    /// The first of these that was refused.
    pub fn configure(
        &mut self,
        index: u32,
        addresses: &[IpPrefix],
        routes: &[NewRoute],
    ) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        for address in addresses {
            push_address(&mut batch, index, *address);
        }
        batch.message(RTM_NEWLINK, 0, format!("bring link {index} up"), |body| {
            body.raw(&ifinfomsg(index, IFF_UP, IFF_UP));
        });
        for route in routes {
            push_route(&mut batch, index, route);
        }
        let last = batch.len() - 1;
        self.0.transact(batch, last)
    }
}

fn mtu(body: &mut Body<'_>, mtu: Option<u32>) {
    if let Some(mtu) = mtu {
        body.u32(IFLA_MTU, mtu);
    }
}

/// `struct ifinfomsg`.
fn ifinfomsg(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut out = [0; 16];
    out[4..8].copy_from_slice(&index.to_ne_bytes());
    out[8..12].copy_from_slice(&flags.to_ne_bytes());
    out[12..16].copy_from_slice(&change.to_ne_bytes());
    out
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn family(address: IpAddr) -> u8 {
    // AF_INET and AF_INET6.
    if address.is_ipv4() { 2 } else { 10 }
}

fn push_address(batch: &mut Batch, index: u32, prefix: IpPrefix) {
    let label = format!("add address {prefix} to link {index}");
    batch.message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, label, |body| {
        // struct ifaddrmsg: family, prefix length, flags, scope, index.
        let mut header = [family(prefix.address()), prefix.len(), 0, 0, 0, 0, 0, 0];
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        let address = octets(prefix.address());
        body.raw(&header).attr(IFA_LOCAL, &address).attr(IFA_ADDRESS, &address);
        if prefix.address().is_ipv6() {
            // Reservations make addresses unique; detection would hold the pod back a second.
            body.u32(IFA_FLAGS, IFA_F_NODAD);
        } else if prefix.len() < 31 {
            body.attr(IFA_BROADCAST, &octets(prefix.last()));
        }
    });
}

fn push_route(batch: &mut Batch, index: u32, route: &NewRoute) {
    let via = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
    let label = format!("add route {}{via} through link {index}", route.destination);
    let scope = if route.gateway.is_some() { RT_SCOPE_UNIVERSE } else { RT_SCOPE_LINK };
    batch.message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, label, |body| {
        let destination = route.destination.network();
        // struct rtmsg: family, destination and source lengths, tos, table, protocol, scope,
        // type, flags.
        let mut header = [0; 12];
        header[0] = family(destination.address());
        header[1] = destination.len();
        header[4..8].copy_from_slice(&[RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST]);
        body.raw(&header);
        if !destination.is_default() {
            body.attr(RTA_DST, &octets(destination.address()));
        }
        if let Some(gateway) = route.gateway {
            body.attr(RTA_GATEWAY, &octets(gateway));
        }
        body.u32(RTA_OIF, index);
        if let Some(priority) = route.priority {
            body.u32(RTA_PRIORITY, priority);
        }
        if let Some(mtu) = route.mtu {
            body.nest(RTA_METRICS, |metrics| {
                metrics.u32(RTAX_MTU, mtu);
            });
        }
    });
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let attributes = Attributes::new(body.get(16..)?);
    let kind = attributes
        .get(IFLA_LINKINFO)
        .and_then(|info| Attributes::new(info).get(IFLA_INFO_KIND))
        .map(|kind| String::from_utf8_lossy(kind.strip_suffix(&[0]).unwrap_or(kind)).into_owned());
    // ifinfomsg opens with the family; a message shorter than that is not a link.
    u16_at(body, 0)?;
    Some(Link {
        index: u32_at(body, 4)?,
        kind: kind.unwrap_or_default(),
        mac: attributes.get(IFLA_ADDRESS).and_then(|mac| mac.try_into().ok()),
        up: u32_at(body, 8)? & IFF_UP != 0,
        mtu: attributes.get(IFLA_MTU).and_then(|mtu| u32_at(mtu, 0)).unwrap_or(0),
    })
}

fn parse_address(body: &[u8]) -> Option<IpPrefix> {
    let len = *body.get(1)?;
    let attributes = Attributes::new(body.get(8..)?);
    let bytes = attributes.get(IFA_LOCAL).or_else(|| attributes.get(IFA_ADDRESS))?;
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    IpPrefix::new(address, len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::netns;
    use std::os::fd::AsFd;

    fn in_host(body: impl FnOnce() + Send) {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let host = netns::create().unwrap();
        netns::run_in(host.as_fd(), body).unwrap();
    }

    #[test]
    fn a_pod_network_is_made_in_two_calls() {
        in_host(|| {
            let mut host = Rtnetlink::open().unwrap();
            let mac = [2, 0, 0, 0, 0, 1];
            host.create_bridge(&NewBridge { name: "br0", mac, mtu: None }).unwrap();
            let bridge = host.link("br0").unwrap().unwrap();
            assert_eq!((bridge.kind.as_str(), bridge.mac, bridge.up), ("bridge", Some(mac), true));
            let gateway: IpPrefix = "10.1.0.1/24".parse().unwrap();
            host.add_address(bridge.index, gateway).unwrap();
            assert!(host.addresses(bridge.index).unwrap().contains(&gateway));

            let pod = netns::create().unwrap();
            host.create_veth(&NewVeth {
                host_name: "veth0",
                host_mac: [2, 0, 0, 0, 0, 2],
                master: bridge.index,
                hairpin: true,
                peer_name: "eth0",
                peer_mac: [2, 0, 0, 0, 0, 3],
                peer_netns: pod.as_fd(),
                mtu: Some(1400),
            })
            .unwrap();
            assert_eq!(host.link("veth0").unwrap().unwrap().mtu, 1400);
            netns::run_in(pod.as_fd(), || {
                let mut route = Rtnetlink::open().unwrap();
                let index = route.index("eth0").unwrap();
                let addresses = ["10.1.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()];
                let default = |net: &str, via: &str| NewRoute {
                    destination: net.parse().unwrap(),
                    gateway: Some(via.parse().unwrap()),
                    priority: None,
                    mtu: None,
                };
                let routes = [default("0.0.0.0/0", "10.1.0.1"), default("::/0", "fd00::1")];
                route.configure(index, &addresses, &routes).unwrap();
                assert_eq!(route.link("eth0").unwrap().unwrap().mac, Some([2, 0, 0, 0, 0, 3]));
                let found = route.addresses(index).unwrap();
                assert!(addresses.iter().all(|a| found.contains(a)), "{found:?}");
            })
            .unwrap();
        });
    }

    #[test]
    fn the_kernels_own_explanation_is_in_the_error() {
        in_host(|| {
            let mut host = Rtnetlink::open().unwrap();
            let lo = host.link("lo").unwrap().unwrap();
            let bad = NewRoute {
                destination: "10.9.0.0/16".parse().unwrap(),
                gateway: Some("10.1.0.1".parse().unwrap()),
                priority: None,
                mtu: None,
            };
            let error = host.configure(lo.index, &[], &[bad]).unwrap_err();
            assert_eq!(
                error.to_string(),
                "cannot add route 10.9.0.0/16 via 10.1.0.1 through link 1 \
                 (kernel: Nexthop has invalid gateway)"
            );
        });
    }

    #[test]
    fn a_missing_link_is_none_and_a_taken_name_is_eexist() {
        in_host(|| {
            let mut host = Rtnetlink::open().unwrap();
            assert_eq!(host.link("nosuch0").unwrap(), None);
            let bridge = NewBridge { name: "br0", mac: [2, 0, 0, 0, 0, 1], mtu: None };
            host.create_bridge(&bridge).unwrap();
            let error = host.create_bridge(&bridge).unwrap_err();
            assert_eq!(error.errno(), Some(libc::EEXIST));
            host.delete_link("br0").unwrap();
            assert_eq!(host.link("br0").unwrap(), None);
        });
    }
}
