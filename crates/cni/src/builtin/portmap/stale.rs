//! UDP connections to host ports that began under other rules: before the port led to the pod, or
//! while it led to another one, whose address somebody else may have by now.

use std::net::{IpAddr, UdpSocket};

use sys::netlink::nftables::Family;
use sys::netlink::{Conntrack, NetlinkError};

use super::{Protocol, Published};

/// Forgets the connections to the UDP ports among these; does nothing if there are none.
pub(super) fn forget(family: Family, published: &[Published]) -> Result<(), NetlinkError> {
    let udp = || published.iter().filter(|port| port.protocol == Protocol::Udp);
    if udp().next().is_none() {
        return Ok(());
    }
    let mut conntrack = Conntrack::open().map_err(|source| NetlinkError::Socket {
        operation: "reach the tracked connections".to_owned(),
        source,
    })?;
    conntrack
        .forget_udp(family, |to, number| {
            let is_meant = |port: &Published| {
                port.host_port == number && port.host.is_none_or(|host| host == to)
            };
            udp().any(is_meant) && is_own(to)
        })
        .map(drop)
}

/// Whether it is an address of this host. What pods send to the same port elsewhere goes on.
fn is_own(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}
