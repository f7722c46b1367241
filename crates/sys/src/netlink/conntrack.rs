//! The connections that netfilter tracks, by raw nfnetlink: forgetting those that go on by a rule
//! which is none any more.
//!
//! Rules that rewrite addresses are asked about the first packet of a connection only. UDP has no
//! end: a client that goes on sending from one port stays with the answer of the first time.

use std::io;
use std::net::IpAddr;

use super::message::{Attributes, Batch, NLM_F_DUMP};
use super::nftables::Family;
use super::route::address;
use super::{NetlinkError, Socket};

const SUBSYSTEM: u16 = 1;
const NEW: u16 = SUBSYSTEM << 8;
const GET: u16 = NEW | 1;
const DELETE: u16 = NEW | 2;

const TUPLE_ORIGINAL: u16 = 1;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IPV4_DESTINATION: u16 = 2;
const IPV6_DESTINATION: u16 = 4;
const PROTOCOL_NUMBER: u16 = 1;
const DESTINATION_PORT: u16 = 3;

const IPPROTO_UDP: u8 = 17;

/// An nfnetlink socket to the connections of the calling thread's network namespace.
#[derive(Debug)]
pub struct Conntrack(Socket);

/// A tracked connection, as far as it takes to name it to the kernel.
struct Connection {
    original: Vec<u8>,
    id: Option<Vec<u8>>,
    zone: Option<Vec<u8>>,
}

impl Conntrack {
    /// Opens the socket.
    ///
    /// # Errors
    /// `EPROTONOSUPPORT`: the kernel has no netfilter netlink.
    pub fn open() -> io::Result<Self> {
        Socket::open(Some(rustix::net::netlink::NETFILTER)).map(Self)
    }

    /// Forgets the UDP connections of a family whose first packet went to an address and port that
    /// `meant` says yes to; says how many that were. Looks at every connection.
    ///
    /// # Errors
    /// What the kernel refused; `EINVAL` or `EOPNOTSUPP`: it cannot be asked about connections.
    pub fn forget_udp(
        &mut self,
        family: Family,
        meant: impl Fn(IpAddr, u16) -> bool,
    ) -> Result<usize, NetlinkError> {
        let mut batch = Batch::new();
        batch.message(GET, NLM_F_DUMP, "list tracked connections", |body| {
            body.raw(&header(family));
        });
        let mut forgotten = 0;
        // A busy host has millions: only those that are meant are kept.
        let is_meant = |kind: u16, body: &[u8]| {
            let original = attributes(body).get(TUPLE_ORIGINAL);
            let to = original.and_then(udp_destination);
            kind == NEW && to.is_some_and(|(to, port)| meant(to, port))
        };
        for reply in self.0.query_for(batch, is_meant)? {
            let attributes = attributes(&reply.body);
            let Some(original) = attributes.get(TUPLE_ORIGINAL) else { continue };
            let copy = |kind| attributes.get(kind).map(<[u8]>::to_vec);
            let found = Connection { original: original.to_vec(), id: copy(ID), zone: copy(ZONE) };
            forgotten += usize::from(self.forget(family, &found)?);
        }
        Ok(forgotten)
    }

    /// False when it has ended meanwhile.
    fn forget(&mut self, family: Family, connection: &Connection) -> Result<bool, NetlinkError> {
        let mut batch = Batch::new();
        batch.message(DELETE, 0, "forget a tracked connection", |body| {
            body.raw(&header(family)).nest(TUPLE_ORIGINAL, |tuple| {
                tuple.raw(&connection.original);
            });
            for (kind, value) in [(ID, &connection.id), (ZONE, &connection.zone)] {
                if let Some(value) = value {
                    body.attr(kind, value);
                }
            }
        });
        match self.0.transact(batch, 0) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What follows the header.
fn attributes(body: &[u8]) -> Attributes<'_> {
    Attributes::new(body.get(4..).unwrap_or(&[]))
}

/// `struct nfgenmsg`.
fn header(family: Family) -> [u8; 4] {
    [family.number(), 0, 0, 0]
}

/// Where the first packet went, of a UDP connection.
fn udp_destination(original: &[u8]) -> Option<(IpAddr, u16)> {
    let tuple = Attributes::new(original);
    let protocol = Attributes::new(tuple.get(TUPLE_PROTOCOL)?);
    if protocol.get(PROTOCOL_NUMBER)? != [IPPROTO_UDP] {
        return None;
    }
    let ip = Attributes::new(tuple.get(TUPLE_IP)?);
    let to = ip.get(IPV4_DESTINATION).or_else(|| ip.get(IPV6_DESTINATION))?;
    let port = protocol.get(DESTINATION_PORT)?;
    Some((address(to)?, u16::from_be_bytes(port.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::netns;
    use crate::netlink::nftables::{BaseChain, Expression, Hook, Nftables, Transaction};
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn connections_to_a_port_are_forgotten_and_others_are_not() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let host = netns::create().unwrap();
        netns::run_in(host.as_fd(), || {
            crate::netlink::set_link_up("lo").unwrap();
            // Nothing is tracked before a rule wants it.
            let mut nft = Nftables::open().unwrap();
            let generation = nft.generation().unwrap();
            let mut change = Transaction::new(Family::Ipv4, "test", generation);
            let hook = Hook::Postrouting;
            change.chain(&BaseChain { name: "out", nat: true, hook, priority: 100 });
            let rule = [
                Expression::network_header(16, 4, 8),
                Expression::compare(8, true, &[192, 0, 2, 99]),
                Expression::masquerade(),
            ];
            change.rule("out", "of nobody", &rule);
            nft.commit(change).unwrap();
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            for to in ["127.0.0.1:4001", "127.0.0.1:4002", "127.0.0.2:4001"] {
                socket.send_to(b"x", to).unwrap();
            }
            let mut conntrack = Conntrack::open().unwrap();
            let one = IpAddr::from([127, 0, 0, 1]);
            let meant = |to: IpAddr, port: u16| (to, port) == (one, 4001);
            assert_eq!(conntrack.forget_udp(Family::Ipv4, meant).unwrap(), 1);
            assert_eq!(conntrack.forget_udp(Family::Ipv4, meant).unwrap(), 0);
            let rest = |_: IpAddr, port: u16| (4001..4003).contains(&port);
            assert_eq!(conntrack.forget_udp(Family::Ipv6, rest).unwrap(), 0);
            assert_eq!(conntrack.forget_udp(Family::Ipv4, rest).unwrap(), 2);
        })
        .unwrap();
    }
}
