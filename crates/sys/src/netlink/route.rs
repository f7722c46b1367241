//! Links and addresses of one network namespace, by rtnetlink.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::message::{
    Attributes, Batch, Body, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, u16_at, u32_at,
};
use super::routes::{NewRoute, push_route};
use super::{IpPrefix, NetlinkError, Socket};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const VETH_INFO_PEER: u16 = 1;
const IFF_UP: u32 = 0x1;
const IFF_PROMISC: u32 = 0x100;
const IFF_ALLMULTI: u32 = 0x200;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 0x2;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;

/// A hardware address.
pub type Mac = [u8; 6];

/// What a link is, as far as knarr looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Driver kind: `bridge`, `veth`, …; empty for hardware.
    pub kind: String,
    /// Hardware address, if it is an Ethernet one.
    pub mac: Option<Mac>,
    /// Whether the link is administratively up.
    pub up: bool,
    /// Whether it was told to take every frame.
    pub promiscuous: bool,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Index of the bridge or bond it is a port of.
    pub master: Option<u32>,
    /// Index of its lower link; of a veth: that of its peer, in the peer's namespace.
    pub lower: Option<u32>,
    /// Of a bridge that filters by VLAN: the VLAN of its own that ports are in at first. `None`
    /// of any other link.
    pub default_vlan: Option<u16>,
}

/// What to change of a link; what is `None` stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// Hardware address.
    pub mac: Option<Mac>,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
    /// Whether it takes every frame.
    pub promiscuous: Option<bool>,
    /// Whether it takes every multicast frame.
    pub all_multicast: Option<bool>,
    /// Packets that may wait to be sent.
    pub tx_queue_len: Option<u32>,
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
    /// Whether ports are kept to the VLANs they are in.
    pub vlan_filtering: bool,
}

/// A veth pair to make, with the peer born in another network namespace.
#[derive(Debug, Clone)]
pub struct NewVeth<'a> {
    /// Name of the end that stays here.
    pub host_name: &'a str,
    /// Given explicitly: udev's persistent-address policy leaves such links alone.
    pub host_mac: Mac,
    /// Index of the bridge this end is put on; `None`: it stays alone.
    pub master: Option<u32>,
    /// Whether the bridge may send a frame back out of the port it came from.
    pub hairpin: bool,
    /// Whether the bridge keeps this port from other isolated ports.
    pub isolated: bool,
    /// Name of the peer.
    pub peer_name: &'a str,
    /// Hardware address of the peer.
    pub peer_mac: Mac,
    /// Namespace of the peer.
    pub peer_netns: BorrowedFd<'a>,
    /// Largest packet in bytes, both ends; `None`: the kernel's default.
    pub mtu: Option<u32>,
}

/// An rtnetlink socket of the calling thread's network namespace.
#[derive(Debug)]
pub struct Rtnetlink(pub(super) Socket);

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

    /// The link with this index; `None` if there is none.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn link_at(&mut self, index: u32) -> Result<Option<Link>, NetlinkError> {
        let mut batch = Batch::new();
        batch.message(RTM_GETLINK, 0, format!("look up link {index}"), |body| {
            body.raw(&ifinfomsg(index, 0, 0));
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
                if bridge.vlan_filtering {
                    info.nest(IFLA_INFO_DATA, |data| {
                        data.attr(IFLA_BR_VLAN_FILTERING, &[1]);
                    });
                }
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
            body.attr(IFLA_ADDRESS, &veth.host_mac);
            if let Some(master) = veth.master {
                body.u32(IFLA_MASTER, master);
            }
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
        if veth.hairpin || veth.isolated {
            // The create message ignores port settings; this one finds the link by its name.
            let label = format!("set the bridge port options of {}", veth.host_name);
            batch.message(RTM_NEWLINK, 0, label, |body| {
                body.raw(&ifinfomsg(0, 0, 0)).text(IFLA_IFNAME, veth.host_name);
                body.nest(IFLA_LINKINFO, |info| {
                    info.text(IFLA_INFO_SLAVE_KIND, "bridge");
                    info.nest(IFLA_INFO_SLAVE_DATA, |data| {
                        data.attr(IFLA_BRPORT_MODE, &[u8::from(veth.hairpin)]);
                        if veth.isolated {
                            data.attr(IFLA_BRPORT_ISOLATED, &[1]);
                        }
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

    /// Makes an intermediate functional block, where what comes in elsewhere can be queued, and
    /// brings it up.
    ///
    /// # Errors
    /// `EEXIST` when the name is taken, `EOPNOTSUPP` when the kernel has no such links.
    pub fn create_ifb(&mut self, name: &str, mtu: u32) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        batch.message(RTM_NEWLINK, flags, format!("make ifb {name}"), |body| {
            body.raw(&ifinfomsg(0, IFF_UP, IFF_UP)).text(IFLA_IFNAME, name).u32(IFLA_MTU, mtu);
            body.nest(IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, "ifb");
            });
        });
        self.0.transact(batch, 0)
    }

    /// Changes a link.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn change(&mut self, index: u32, change: &LinkChange) -> Result<(), NetlinkError> {
        let (mut flags, mut mask) = (0, 0);
        for (wanted, bit) in
            [(change.promiscuous, IFF_PROMISC), (change.all_multicast, IFF_ALLMULTI)]
        {
            if let Some(on) = wanted {
                mask |= bit;
                flags |= if on { bit } else { 0 };
            }
        }
        let mut batch = Batch::new();
        batch.message(RTM_NEWLINK, 0, format!("change link {index}"), |body| {
            body.raw(&ifinfomsg(index, flags, mask));
            if let Some(mac) = &change.mac {
                body.attr(IFLA_ADDRESS, mac);
            }
            mtu(body, change.mtu);
            if let Some(len) = change.tx_queue_len {
                body.u32(IFLA_TXQLEN, len);
            }
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
        push_address(&mut batch, index, address, true);
        self.0.transact(batch, 0)
    }

    /// Takes an address from a link.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` when it has no such address.
    pub fn delete_address(&mut self, index: u32, address: IpPrefix) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        let label = format!("take address {address} from link {index}");
        batch.message(RTM_DELADDR, 0, label, |body| {
            body.raw(&ifaddrmsg(index, address)).attr(IFA_LOCAL, &octets(address.address()));
        });
        self.0.transact(batch, 0)
    }

    /// Gives a link its addresses, brings it up and adds routes through it, in one batch.
    /// `on_link`: whether the addresses' networks are reached through the link, too.
    ///
    /// # Errors
    /// The first of these that was refused.
    pub fn configure(
        &mut self,
        index: u32,
        addresses: &[IpPrefix],
        on_link: bool,
        routes: &[NewRoute],
    ) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        for address in addresses {
            push_address(&mut batch, index, *address, on_link);
        }
        batch.message(RTM_NEWLINK, 0, format!("bring link {index} up"), |body| {
            body.raw(&ifinfomsg(index, IFF_UP, IFF_UP));
        });
        for route in routes {
            push_route(&mut batch, index, route, NLM_F_EXCL);
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
pub(super) fn ifinfomsg(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut out = [0; 16];
    out[4..8].copy_from_slice(&index.to_ne_bytes());
    out[8..12].copy_from_slice(&flags.to_ne_bytes());
    out[12..16].copy_from_slice(&change.to_ne_bytes());
    out
}

/// `struct ifaddrmsg`: family, prefix length, flags, scope, index.
fn ifaddrmsg(index: u32, prefix: IpPrefix) -> [u8; 8] {
    let mut out = [family(prefix.address()), prefix.len(), 0, 0, 0, 0, 0, 0];
    out[4..8].copy_from_slice(&index.to_ne_bytes());
    out
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

pub(super) fn family(address: IpAddr) -> u8 {
    // AF_INET and AF_INET6.
    if address.is_ipv4() { 2 } else { 10 }
}

fn push_address(batch: &mut Batch, index: u32, prefix: IpPrefix, on_link: bool) {
    let label = format!("add address {prefix} to link {index}");
    batch.message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, label, |body| {
        let address = octets(prefix.address());
        body.raw(&ifaddrmsg(index, prefix)).attr(IFA_LOCAL, &address).attr(IFA_ADDRESS, &address);
        let no_route = if on_link { 0 } else { IFA_F_NOPREFIXROUTE };
        if prefix.address().is_ipv6() {
            // Reservations make addresses unique; detection would hold the pod back a second.
            body.u32(IFA_FLAGS, IFA_F_NODAD | no_route);
        } else {
            if prefix.len() < 31 {
                body.attr(IFA_BROADCAST, &octets(prefix.last()));
            }
            if no_route != 0 {
                body.u32(IFA_FLAGS, no_route);
            }
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
    let bridge = attributes
        .get(IFLA_LINKINFO)
        .and_then(|info| Attributes::new(info).get(IFLA_INFO_DATA))
        .map(Attributes::new)
        .filter(|_| kind.as_deref() == Some("bridge"));
    let filters = |data: &Attributes<'_>| data.get(IFLA_BR_VLAN_FILTERING) == Some(&[1][..]);
    let default_vlan =
        bridge.filter(filters).and_then(|data| u16_at(data.get(IFLA_BR_VLAN_DEFAULT_PVID)?, 0));
    let name = attributes.get(IFLA_IFNAME).unwrap_or(&[]);
    let number = |kind| attributes.get(kind).and_then(|bytes| u32_at(bytes, 0));
    let flags = u32_at(body, 8)?;
    Some(Link {
        index: u32_at(body, 4)?,
        name: String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned(),
        kind: kind.unwrap_or_default(),
        mac: attributes.get(IFLA_ADDRESS).and_then(|mac| mac.try_into().ok()),
        up: flags & IFF_UP != 0,
        promiscuous: flags & IFF_PROMISC != 0,
        mtu: number(IFLA_MTU).unwrap_or(0),
        master: number(IFLA_MASTER),
        lower: number(IFLA_LINK),
        default_vlan,
    })
}

fn parse_address(body: &[u8]) -> Option<IpPrefix> {
    let len = *body.get(1)?;
    let attributes = Attributes::new(body.get(8..)?);
    let bytes = attributes.get(IFA_LOCAL).or_else(|| attributes.get(IFA_ADDRESS))?;
    IpPrefix::new(address(bytes)?, len)
}

pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
