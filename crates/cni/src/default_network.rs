//! The subnets of the built-in network: which are asked for, and whether this host can use them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use sys::netlink::{IpPrefix, Link, Route, Rtnetlink};

use crate::builtin::{BuiltInError, Ipv6, ipv6};
use crate::conf::ConfError;
use crate::engine::{Engine, EngineConfig};

/// Below the data directory: the ranges kubelet named, which it tells only when they change. No
/// network is called like this.
const RANGES_FILE: &str = ".pod-ranges";

/// What is logged once, not with every pod.
#[derive(Debug, Default)]
pub(crate) struct Said {
    no_ipv6: AtomicBool,
}

/// What became of the pod ranges that kubelet named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodRanges {
    /// Pods get their addresses from them from now on.
    Adopted,
    /// They are known already.
    Unchanged,
    /// The configuration of this daemon, or a CNI configuration, decides.
    NotAsked,
}

/// Why pod ranges cannot be adopted.
#[derive(Debug, thiserror::Error)]
pub enum PodRangesError {
    /// They are not what the CRI calls a pod CIDR.
    #[error(
        "`{text}` is not a pod CIDR: want one subnet, or two of different families, such as 10.244.1.0/24,fd00:1::/64"
    )]
    Malformed {
        /// The refused text.
        text: String,
    },
    /// They cannot be remembered.
    #[error("cannot write the pod ranges to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The errno.
        #[source]
        source: io::Error,
    },
}

impl Engine {
    /// Takes the node's pod ranges (CRI: `pod_cidr`, one or two separated by a comma) for the
    /// built-in network and for plugins that declare the capability `ipRanges`. Remembered over
    /// restarts. Pods that run keep their addresses.
    ///
    /// # Errors
    /// See [`PodRangesError`].
    pub fn set_pod_ranges(&self, text: &str) -> Result<PodRanges, PodRangesError> {
        let ranges = parse(text).ok_or_else(|| PodRangesError::Malformed { text: text.into() })?;
        if !self.config.follow_pod_ranges {
            return Ok(PodRanges::NotAsked);
        }
        if pod_ranges(&self.config.data_dir) == ranges {
            return Ok(PodRanges::Unchanged);
        }
        let path = self.config.data_dir.join(RANGES_FILE);
        let text: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        write(&path, &text.join(","))
            .map_err(|source| PodRangesError::Write { path: path.clone(), source })?;
        Ok(PodRanges::Adopted)
    }

    /// The ranges kubelet named, unless the configuration decides.
    pub(crate) fn pod_ranges(&self) -> Vec<IpPrefix> {
        if self.config.follow_pod_ranges { pod_ranges(&self.config.data_dir) } else { Vec::new() }
    }
}

/// Whole or not at all; a daemon that dies here is told again by nobody.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().unwrap_or_else(|| Path::new("/"));
    std::fs::create_dir_all(dir)?;
    let temporary = path.with_extension("tmp");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}

fn pod_ranges(data_dir: &Path) -> Vec<IpPrefix> {
    let text = std::fs::read_to_string(data_dir.join(RANGES_FILE)).unwrap_or_default();
    parse(&text).unwrap_or_default()
}

/// One subnet of a family at most, each with room for the gateway and a pod.
fn parse(text: &str) -> Option<Vec<IpPrefix>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let ranges: Vec<IpPrefix> = parts.map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let of = |v4: bool| ranges.iter().filter(|r| r.address().is_ipv4() == v4).count();
    let room = |r: &IpPrefix| r.len() <= if r.address().is_ipv4() { 30 } else { 126 };
    let good = !ranges.is_empty() && of(true) < 2 && of(false) < 2 && ranges.iter().all(room);
    good.then(|| ranges.iter().map(IpPrefix::network).collect())
}

/// The subnets to use now, in the calling thread's network namespace.
pub(crate) fn subnets(config: &EngineConfig, said: &Said) -> Result<Vec<IpPrefix>, ConfError> {
    let told = if config.follow_pod_ranges { pod_ranges(&config.data_dir) } else { Vec::new() };
    let wanted = if told.is_empty() { &config.default_subnets } else { &told };
    let missing = match ipv6() {
        Ipv6::Usable => None,
        Ipv6::Absent => Some("the kernel has no IPv6"),
        Ipv6::Disabled => Some("net.ipv6.conf.all.disable_ipv6 is 1"),
    };
    let usable = |subnet: &&IpPrefix| subnet.address().is_ipv4() || missing.is_none();
    let subnets: Vec<IpPrefix> = wanted.iter().filter(usable).copied().collect();
    if let Some(reason) = missing.filter(|_| subnets.len() < wanted.len()) {
        if subnets.is_empty() {
            return Err(ConfError::NoSubnet { reason: reason.to_owned() });
        }
        if !said.no_ipv6.swap(true, Ordering::Relaxed) {
            tracing::info!(reason, "pods of the built-in network get IPv4 addresses only");
        }
    }
    let chosen = !told.is_empty() || !config.follow_pod_ranges;
    collisions(config, &subnets, chosen)?;
    Ok(subnets)
}

/// A subnet that the bridge has already is in use by pods; routes are looked at before that.
fn collisions(config: &EngineConfig, subnets: &[IpPrefix], chosen: bool) -> Result<(), ConfError> {
    let failed = |error: BuiltInError| ConfError::Routes(Box::new(error));
    let mut host = Rtnetlink::open().map_err(|e| failed(BuiltInError::Socket(e)))?;
    let mut look = || {
        let present = match host.link(&config.bridge_name)? {
            Some(bridge) => host.addresses(bridge.index)?,
            None => Vec::new(),
        };
        let is_new = |s: &&IpPrefix| !present.iter().any(|p| p.network() == s.network());
        let new: Vec<IpPrefix> = subnets.iter().filter(is_new).copied().collect();
        let routes = if new.is_empty() { Vec::new() } else { host.routes()? };
        // After the routes: another pod may be making the bridge at this moment.
        Ok((host.link(&config.bridge_name)?, new, routes))
    };
    let (bridge, new, routes) = look().map_err(|error| failed(BuiltInError::Netlink(error)))?;
    let Some((subnet, route)) = first_collision(&new, &routes, bridge.as_ref(), chosen) else {
        return Ok(());
    };
    let link = match (route.gateway, route.link) {
        (Some(gateway), _) => format!("via {gateway}"),
        (None, Some(index)) => {
            let link = host.link_at(index).ok().flatten();
            link.map_or_else(|| format!("link {index}"), |link| format!("on {}", link.name))
        }
        (None, None) => "over several links".to_owned(),
    };
    Err(ConfError::Collision { subnet, route: route.destination, link })
}

/// Default routes are for what nothing else is known of; everything else that shares an address
/// with a subnet is in its way, or would be cut off by it. A subnet that somebody chose may be
/// carved out of a larger network behind a router.
fn first_collision(
    subnets: &[IpPrefix],
    routes: &[Route],
    bridge: Option<&Link>,
    chosen: bool,
) -> Option<(IpPrefix, Route)> {
    let own = bridge.map(|bridge| bridge.index);
    let foreign = |r: &&Route| !r.destination.is_default() && (r.link.is_none() || r.link != own);
    let collides = |subnet: &IpPrefix, route: &Route| {
        let carved = chosen && route.gateway.is_some() && route.destination.len() < subnet.len();
        overlaps(subnet, &route.destination) && !carved
    };
    subnets.iter().find_map(|subnet| {
        let mut foreign = routes.iter().filter(foreign);
        let route = foreign.find(|route| collides(subnet, route))?;
        Some((*subnet, route.clone()))
    })
}

fn overlaps(a: &IpPrefix, b: &IpPrefix) -> bool {
    a.contains(b.network().address()) || b.contains(a.network().address())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> IpPrefix {
        text.parse().unwrap()
    }

    fn route(destination: &str, link: u32) -> Route {
        Route { destination: prefix(destination), gateway: None, link: Some(link) }
    }

    #[test]
    fn pod_ranges_are_one_subnet_of_each_family() {
        let text = |ranges: Vec<IpPrefix>| {
            ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let table = [
            ("10.244.1.0/24", Some("10.244.1.0/24")),
            ("10.244.1.7/24, fd00:1::/64", Some("10.244.1.0/24 fd00:1::/64")),
            ("fd00:1::/64,", Some("fd00:1::/64")),
            ("", None),
            ("10.0.0.0/24,10.1.0.0/24", None),
            ("10.0.0.0/31", None),
            ("10.0.0.0", None),
            ("pods", None),
        ];
        for (input, want) in table {
            assert_eq!(parse(input).map(text).as_deref(), want, "{input}");
        }
    }

    #[test]
    fn kubelets_ranges_are_remembered_and_yield_to_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let config = EngineConfig { data_dir: dir.path().join("n"), ..EngineConfig::default() };
        let engine = Engine::new(config.clone());
        assert_eq!(engine.set_pod_ranges("10.244.1.0/24").unwrap(), PodRanges::Adopted);
        assert_eq!(engine.set_pod_ranges("10.244.1.0/24").unwrap(), PodRanges::Unchanged);
        assert_eq!(Engine::new(config.clone()).pod_ranges(), [prefix("10.244.1.0/24")]);
        engine.set_pod_ranges("here").unwrap_err();
        let fixed = Engine::new(EngineConfig { follow_pod_ranges: false, ..config });
        assert_eq!(fixed.set_pod_ranges("10.244.2.0/24").unwrap(), PodRanges::NotAsked);
        assert!(fixed.pod_ranges().is_empty());
    }

    #[test]
    fn routes_that_share_addresses_collide_and_default_and_own_ones_do_not() {
        let subnets = [prefix("10.88.0.0/16"), prefix("fd00::/64")];
        let bridge = Link {
            index: 5,
            name: "knarr0".to_owned(),
            kind: "bridge".to_owned(),
            mac: None,
            up: true,
            promiscuous: false,
            mtu: 1500,
            master: None,
            lower: None,
            default_vlan: None,
        };
        let table = [
            ("0.0.0.0/0", 1, None),
            ("::/0", 1, None),
            ("10.88.0.0/16", 5, None),
            ("192.0.2.0/24", 1, None),
            ("10.88.3.0/24", 1, Some("10.88.0.0/16")),
            ("10.0.0.0/8", 1, Some("10.88.0.0/16")),
            ("fd00::/48", 1, Some("fd00::/64")),
        ];
        for (destination, link, want) in table {
            let routes = [route(destination, link)];
            let got = first_collision(&subnets, &routes, Some(&bridge), false);
            assert_eq!(got.map(|(subnet, _)| subnet), want.map(prefix), "{destination}");
        }
        let gateway = Some("192.0.2.1".parse().unwrap());
        let routed = |destination: &str| [Route { gateway, ..route(destination, 1) }];
        let collides = |destination: &str, chosen| {
            first_collision(&subnets, &routed(destination), None, chosen).is_some()
        };
        assert!(collides("10.0.0.0/8", false) && !collides("10.0.0.0/8", true));
        assert!(collides("10.88.0.0/16", true));
    }
}
