//! Masquerading for pod networks: one rule, which rewrites the source of what pods send to
//! anywhere but pods.
//!
//! ```text
//! table ip knarr {
//!     set pods { type ipv4_addr; flags interval; elements = { 10.88.0.0/16 } }
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         ip saddr @pods ip daddr != @pods ip daddr != 224.0.0.0/4 masquerade
//!     }
//! }
//! ```
//!
//! The same by `iptables`, in the table `nat`:
//!
//! ```text
//! -A POSTROUTING -j KNARR-MASQ
//! -A KNARR-MASQ -s 10.88.0.0/16 -j KNARR-LEAVING        # for each network
//! -A KNARR-LEAVING -d 10.88.0.0/16 -j RETURN            # for each network
//! -A KNARR-LEAVING -d 224.0.0.0/4 -j RETURN
//! -A KNARR-LEAVING -j MASQUERADE
//! ```

use std::path::PathBuf;

use sys::netlink::IpPrefix;
use sys::netlink::nftables::{BaseChain, Expression, Family, Hook};

use super::BuiltInError;
use super::iptables::{Change, Iptables, Rules, comment, commented};
use super::ruleset::{self, Chain, REGISTER};
use crate::invoke::Plugins;

const SET: &str = "pods";
const CHAIN: &str = "postrouting";
const COMMENT: &str = "knarr: pod traffic that leaves the pod networks (1)";

const MASQUERADED: &str = "KNARR-MASQ";
const LEAVING: &str = "KNARR-LEAVING";

/// Sees to it that what pods of these networks send elsewhere is masqueraded. `asked`: by what
/// means, as the plugin's `ipMasqBackend` says.
pub(super) fn ensure(
    plugins: &Plugins,
    asked: &str,
    subnets: &[IpPrefix],
) -> Result<(), BuiltInError> {
    let filter = plugins.packet_filter.asked("ipMasqBackend", asked)?;
    filter.apply(|| by_nftables(subnets), || by_iptables(&plugins.tool_dirs, subnets))
}

/// Whether masquerading works on this node.
pub(super) fn supported(plugins: &Plugins, asked: &str) -> Result<(), BuiltInError> {
    let filter = plugins.packet_filter.asked("ipMasqBackend", asked)?;
    filter.supported(|| Iptables::need(&plugins.tool_dirs, Family::Ipv4).map(drop))
}

fn by_nftables(subnets: &[IpPrefix]) -> Result<(), BuiltInError> {
    let mut nft = ruleset::open()?;
    for family in [Family::Ipv4, Family::Ipv6] {
        if ruleset::of_family(family, subnets).next().is_some() {
            ruleset::update(&mut nft, family, |nft, edit| {
                edit.networks(nft, family, SET, subnets)?;
                edit.chain(nft, &chain(family)).map(drop)
            })?;
        }
    }
    Ok(())
}

fn by_iptables(dirs: &[PathBuf], subnets: &[IpPrefix]) -> Result<(), BuiltInError> {
    for family in [Family::Ipv4, Family::Ipv6] {
        if ruleset::of_family(family, subnets).next().is_some() {
            Iptables::need(dirs, family)?.update("nat", |present, change| {
                chains(family, subnets, present, change);
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// A network's rule has the network for its comment.
fn chains(family: Family, subnets: &[IpPrefix], present: &Rules, change: &mut Change) {
    let known = present.of(MASQUERADED).filter_map(|rule| comment(rule).parse().ok());
    let mut all: Vec<IpPrefix> = known.collect();
    for subnet in ruleset::of_family(family, subnets) {
        if !all.iter().any(|other| other.contains(subnet.address()) && other.len() <= subnet.len())
        {
            all.retain(|other| !subnet.contains(other.address()));
            all.push(*subnet);
        }
    }
    let of_each = |rule: &dyn Fn(&IpPrefix) -> String| -> Vec<String> {
        all.iter()
            .map(|subnet| format!("{} {}", commented(&subnet.to_string()), rule(subnet)))
            .collect()
    };
    let multicast = match family {
        Family::Ipv4 => "224.0.0.0/4",
        Family::Ipv6 => "ff00::/8",
    };
    let mut leaving = of_each(&|subnet| format!("-d {subnet} -j RETURN"));
    leaving.push(format!("{} -d {multicast} -j RETURN", commented("multicast")));
    leaving.push(format!("{} -j MASQUERADE", commented(COMMENT)));
    change.chain(present, LEAVING, &leaving);
    let masqueraded = of_each(&|subnet| format!("-s {subnet} -j {LEAVING}"));
    change.chain(present, MASQUERADED, &masqueraded);
    change.jump(present, "POSTROUTING", &commented("knarr: pods"), MASQUERADED);
}

fn chain(family: Family) -> Chain<'static> {
    // `srcnat`, where iptables and nft put source NAT.
    let base = BaseChain { name: CHAIN, nat: true, hook: Hook::Postrouting, priority: 100 };
    Chain { base, rules: vec![(COMMENT, rule(family))] }
}

fn rule(family: Family) -> Vec<Expression> {
    // Offsets and length of the addresses in the IP header; the mask and value of multicast.
    let (source, destination, len, mask, multicast): (u32, u32, u32, &[u8], &[u8]) = match family {
        Family::Ipv4 => (12, 16, 4, &[0xf0, 0, 0, 0], &[0xe0, 0, 0, 0]),
        Family::Ipv6 => (8, 24, 16, &[0xff], &[0xff]),
    };
    let mask_len = u32::try_from(mask.len()).unwrap_or(len);
    let mut rule = vec![
        Expression::network_header(source, len, REGISTER),
        Expression::in_set(REGISTER, SET, true),
        Expression::network_header(destination, len, REGISTER),
        Expression::in_set(REGISTER, SET, false),
        Expression::network_header(destination, mask_len, REGISTER),
    ];
    if family == Family::Ipv4 {
        rule.push(Expression::mask(REGISTER, mask));
    }
    rule.push(Expression::compare(REGISTER, false, multicast));
    rule.push(Expression::masquerade());
    rule
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use sys::netlink::netns;
    use sys::netlink::nftables::Nftables;

    fn nft(arguments: &[&str]) -> Option<String> {
        let output = std::process::Command::new("/usr/sbin/nft").args(arguments).output().ok()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(String::from_utf8(output.stdout).unwrap())
    }

    fn in_host(body: impl FnOnce() + Send) {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let host = netns::create().unwrap();
        netns::run_in(host.as_fd(), body).unwrap();
    }

    fn prefixes(texts: &[&str]) -> Vec<IpPrefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// The first addresses of the set's intervals.
    fn starts() -> impl Iterator<Item = Vec<u8>> {
        let mut nft = Nftables::open().unwrap();
        let mut found = ruleset::read(&mut nft, Family::Ipv4, SET).unwrap();
        found.sort_by(|a, b| a.key.cmp(&b.key));
        // The kernel adds an end mark in front of the first interval.
        found.into_iter().filter(|element| !element.interval_end).map(|element| element.key)
    }

    #[test]
    fn the_rule_is_there_once_and_reads_as_meant() {
        in_host(|| {
            let subnets = prefixes(&["10.88.0.0/16", "fd00::/64"]);
            by_nftables(&subnets).unwrap();
            by_nftables(&subnets).unwrap();
            let Some(text) = nft(&["list", "ruleset"]) else {
                println!("skipped: no nft");
                return;
            };
            let v4 = "ip saddr @pods ip daddr != @pods ip daddr != 224.0.0.0/4 masquerade";
            let v6 = "ip6 saddr @pods ip6 daddr != @pods ip6 daddr != ff00::/8 masquerade";
            assert_eq!(text.matches(v4).count(), 1, "{text}");
            assert_eq!(text.matches(v6).count(), 1, "{text}");
            assert!(text.contains("elements = { 10.88.0.0/16 }"), "{text}");
            assert!(text.contains("elements = { fd00::/64 }"), "{text}");
            assert!(text.contains("type nat hook postrouting priority srcnat"), "{text}");
        });
    }

    #[test]
    fn a_flushed_ruleset_is_put_back_and_other_tables_are_left_alone() {
        in_host(|| {
            by_nftables(&prefixes(&["10.88.0.0/16"])).unwrap();
            if nft(&["flush", "ruleset"]).is_none() {
                println!("skipped: no nft");
                return;
            }
            nft(&["add", "table", "inet", "other"]);
            by_nftables(&prefixes(&["10.88.0.0/16"])).unwrap();
            let text = nft(&["list", "ruleset"]).unwrap();
            assert!(text.contains("masquerade") && text.contains("table inet other"), "{text}");
        });
    }

    #[test]
    fn networks_that_overlap_are_merged() {
        in_host(|| {
            for subnet in ["10.88.1.0/24", "10.88.0.0/16", "10.88.2.0/24", "10.99.0.0/16"] {
                by_nftables(&prefixes(&[subnet])).unwrap();
            }
            let starts: Vec<Vec<u8>> = starts().collect();
            assert_eq!(starts, [[10, 88, 0, 0], [10, 99, 0, 0]]);
        });
    }

    #[test]
    fn racing_daemons_make_one_rule() {
        in_host(|| {
            std::thread::scope(|scope| {
                for at in 0..8 {
                    scope.spawn(move || {
                        by_nftables(&prefixes(&[&format!("10.{at}.0.0/24")])).unwrap()
                    });
                }
            });
            let mut nft = Nftables::open().unwrap();
            assert_eq!(nft.comments(Family::Ipv4, "knarr", CHAIN).unwrap(), [COMMENT]);
            assert_eq!(starts().count(), 8);
        });
    }
}
