//! Routes of one network namespace, by rtnetlink.

use std::net::IpAddr;

use super::message::{
    Attributes, Batch, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, u32_at,
};
use super::route::{address, family, octets};
use super::{IpPrefix, NetlinkError, Rtnetlink};

const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_TABLE: u16 = 15;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;
const RT_TABLE_UNSPEC: u8 = 0;
const RT_TABLE_MAIN: u32 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
/// Bytes of `struct rtmsg`.
const HEADER: usize = 12;

/// A route to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRoute {
    /// Destination network.
    pub destination: IpPrefix,
    /// Next hop; `None`: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Source address of what is sent this way; `None`: the kernel's choice.
    pub source: Option<IpAddr>,
    /// Metric; `None`: the kernel's default.
    pub priority: Option<u32>,
    /// Largest packet in bytes; `None`: that of the link.
    pub mtu: Option<u32>,
    /// Largest TCP segment in bytes; `None`: what the MTU allows.
    pub advertised_mss: Option<u32>,
    /// Routing table; `None`: the main one.
    pub table: Option<u32>,
    /// `RT_SCOPE_*`; `None`: what follows from the next hop.
    pub scope: Option<u8>,
}

impl NewRoute {
    /// A route to `destination`, which is on the link.
    pub fn to(destination: IpPrefix) -> Self {
        Self {
            destination,
            gateway: None,
            source: None,
            priority: None,
            mtu: None,
            advertised_mss: None,
            table: None,
            scope: None,
        }
    }
}

/// A unicast route of the main table, as far as knarr looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination network.
    pub destination: IpPrefix,
    /// Next hop; `None`: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Index of the link; `None` for a route over several.
    pub link: Option<u32>,
}

impl Rtnetlink {
    /// Adds a route through a link.
    ///
    /// # Errors
    /// `EEXIST` when there is such a route.
    pub fn add_route(&mut self, index: u32, route: &NewRoute) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        push_route(&mut batch, index, route, NLM_F_EXCL);
        self.0.transact(batch, 0)
    }

    /// Adds a route through a link, in place of one there is to the same destination.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn replace_route(&mut self, index: u32, route: &NewRoute) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        push_route(&mut batch, index, route, NLM_F_REPLACE);
        self.0.transact(batch, 0)
    }

    /// The unicast routes of the main table, of both address families.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut batch = Batch::new();
        batch.message(RTM_GETROUTE, NLM_F_DUMP, "list the routes", |body| {
            body.raw(&[0; HEADER]);
        });
        Ok(self.0.query(batch)?.iter().filter_map(|reply| parse_route(&reply.body)).collect())
    }
}

/// `mode`: what to do with a route that is there, `NLM_F_EXCL` or `NLM_F_REPLACE`.
pub(super) fn push_route(batch: &mut Batch, index: u32, route: &NewRoute, mode: u16) {
    let via = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
    let label = format!("add route {}{via} through link {index}", route.destination);
    let scope = match (route.scope, route.gateway) {
        (Some(scope), _) => scope,
        (None, Some(_)) => RT_SCOPE_UNIVERSE,
        (None, None) => RT_SCOPE_LINK,
    };
    batch.message(RTM_NEWROUTE, NLM_F_CREATE | mode, label, |body| {
        let destination = route.destination.network();
        let table = route.table.unwrap_or(RT_TABLE_MAIN);
        let mut header = [0; HEADER];
        header[0] = family(destination.address());
        header[1] = destination.len();
        // A table beyond 255 is in the attribute alone.
        header[4] = u8::try_from(table).unwrap_or(RT_TABLE_UNSPEC);
        header[5..8].copy_from_slice(&[RTPROT_STATIC, scope, RTN_UNICAST]);
        body.raw(&header).u32(RTA_TABLE, table);
        if !destination.is_default() {
            body.attr(RTA_DST, &octets(destination.address()));
        }
        if let Some(gateway) = route.gateway {
            body.attr(RTA_GATEWAY, &octets(gateway));
        }
        if let Some(source) = route.source {
            body.attr(RTA_PREFSRC, &octets(source));
        }
        body.u32(RTA_OIF, index);
        if let Some(priority) = route.priority {
            body.u32(RTA_PRIORITY, priority);
        }
        if route.mtu.is_some() || route.advertised_mss.is_some() {
            body.nest(RTA_METRICS, |metrics| {
                for (kind, value) in [(RTAX_MTU, route.mtu), (RTAX_ADVMSS, route.advertised_mss)] {
                    if let Some(value) = value {
                        metrics.u32(kind, value);
                    }
                }
            });
        }
    });
}

fn parse_route(body: &[u8]) -> Option<Route> {
    // struct rtmsg: family, destination and source lengths, tos, table, protocol, scope, type.
    let (kind, len, own_table) = (*body.get(7)?, *body.get(1)?, *body.get(4)?);
    let attributes = Attributes::new(body.get(HEADER..)?);
    let table = attributes.get(RTA_TABLE).and_then(|table| u32_at(table, 0));
    if kind != RTN_UNICAST || table.unwrap_or_else(|| own_table.into()) != RT_TABLE_MAIN {
        return None;
    }
    let unspecified = match *body.first()? {
        2 => IpAddr::from([0; 4]),
        10 => IpAddr::from([0_u8; 16]),
        _ => return None,
    };
    let destination = attributes.get(RTA_DST).map_or(Some(unspecified), address)?;
    Some(Route {
        destination: IpPrefix::new(destination, len)?,
        gateway: attributes.get(RTA_GATEWAY).and_then(address),
        link: attributes.get(RTA_OIF).and_then(|link| u32_at(link, 0)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{NewBridge, netns};
    use std::os::fd::AsFd;

    #[test]
    fn routes_are_listed_as_they_were_added() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let host = netns::create().unwrap();
        let work = || {
            let mut host = Rtnetlink::open().unwrap();
            assert_eq!(host.routes().unwrap(), []);
            let bridge = NewBridge {
                name: "br0",
                mac: [2, 0, 0, 0, 0, 1],
                mtu: None,
                vlan_filtering: false,
            };
            host.create_bridge(&bridge).unwrap();
            let index = host.index("br0").unwrap();
            host.add_address(index, "10.1.0.1/24".parse().unwrap()).unwrap();
            let gateway = Some("10.1.0.9".parse().unwrap());
            let source = Some("10.1.0.1".parse().unwrap());
            let far = NewRoute {
                gateway,
                source,
                mtu: Some(1300),
                advertised_mss: Some(1200),
                ..NewRoute::to("10.9.0.0/16".parse().unwrap())
            };
            let elsewhere =
                NewRoute { table: Some(1000), ..NewRoute::to("10.8.0.0/16".parse().unwrap()) };
            host.add_route(index, &far).unwrap();
            host.add_route(index, &elsewhere).unwrap();
            let v4: Vec<Route> = host.routes().unwrap();
            let v4 = v4.into_iter().filter(|route| route.destination.address().is_ipv4());
            let want = [
                ("10.1.0.0/24".parse().unwrap(), None, Some(index)),
                (far.destination, gateway, Some(index)),
            ];
            let got = v4.map(|route| (route.destination, route.gateway, route.link));
            assert_eq!(got.collect::<Vec<_>>(), want);
        };
        netns::run_in(host.as_fd(), work).unwrap();
    }
}
