//! Masquerading for pod networks: per IP family one table `knarr` with one rule, which rewrites
//! the source of what pods send to anywhere but pods.
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
//! Looked at on every ADD, because `nft flush ruleset` is one reload of a firewall away; written
//! only if something is missing. Other tables are never touched. The table stays when the last
//! pod goes: it costs nothing and the next pod needs it.

use std::net::IpAddr;

use sys::netlink::nftables::{
    DataType, Element, Expression, Family, Hook, Nftables, Transaction, is_stale,
};
use sys::netlink::prefix::number;
use sys::netlink::{IpPrefix, NetlinkError};

use super::BuiltInError;

const TABLE: &str = "knarr";
const SET: &str = "pods";
const CHAIN: &str = "postrouting";
/// Names the rule's meaning: another version of it gets another comment and replaces this one.
const COMMENT: &str = "knarr: pod traffic that leaves the pod networks (1)";
/// `srcnat`, where `iptables` and `nft` put source NAT.
const PRIORITY: i32 = 100;
/// Each failure means that someone else got a change in; that many in a row is a busy loop.
const ATTEMPTS: u32 = 64;
const REGISTER: u32 = 8;

/// Sees to it that what pods of these networks send elsewhere is masqueraded.
pub(super) fn ensure(subnets: &[IpPrefix]) -> Result<(), BuiltInError> {
    for family in [Family::Ipv4, Family::Ipv6] {
        let wanted: Vec<Interval> = subnets
            .iter()
            .filter(|subnet| subnet.address().is_ipv4() == (family == Family::Ipv4))
            .map(|subnet| Interval {
                first: number(subnet.network().address()),
                last: number(subnet.last()),
            })
            .collect();
        if !wanted.is_empty() {
            ensure_family(family, &wanted)?;
        }
    }
    Ok(())
}

fn ensure_family(family: Family, wanted: &[Interval]) -> Result<(), BuiltInError> {
    let mut nft = Nftables::open().map_err(BuiltInError::Socket)?;
    for _ in 0..ATTEMPTS {
        let generation = nft.generation().map_err(missing_support)?;
        let rule_is_there = nft.comments(family, TABLE, CHAIN)? == [COMMENT];
        let present = intervals(family, &nft.elements(family, TABLE, SET)?);
        let merged = merge(present.iter().chain(wanted).copied().collect());
        if rule_is_there && merged == present {
            return Ok(());
        }
        let mut change = Transaction::new(family, TABLE, generation);
        change.interval_set(SET, address_type(family));
        if merged != present {
            // Replaced as a whole: an interval that overlaps a present one cannot be added.
            change.flush_set(SET);
            change.add_elements(SET, &elements(family, &merged));
        }
        change.nat_chain(CHAIN, Hook::Postrouting, PRIORITY);
        if !rule_is_there {
            change.flush_chain(CHAIN);
            change.rule(CHAIN, COMMENT, &rule(family));
        }
        match nft.commit(change) {
            Ok(()) => return Ok(()),
            Err(error) if is_stale(&error) => {}
            Err(error) => return Err(missing_support(error)),
        }
    }
    Err(BuiltInError::RulesetBusy { attempts: ATTEMPTS })
}

/// What the kernel answers when it lacks nf_tables, its NAT chains or its masquerading.
fn missing_support(error: NetlinkError) -> BuiltInError {
    const ENOENT: i32 = 2;
    const EINVAL: i32 = 22;
    const EPROTONOSUPPORT: i32 = 93;
    const EOPNOTSUPP: i32 = 95;
    match error.errno() {
        Some(ENOENT | EINVAL | EPROTONOSUPPORT | EOPNOTSUPP) => BuiltInError::NoNftables(error),
        Some(_) | None => BuiltInError::Netlink(error),
    }
}

/// `nft`'s ipv4_addr and ipv6_addr.
fn address_type(family: Family) -> DataType {
    match family {
        Family::Ipv4 => DataType { id: 7, len: 4 },
        Family::Ipv6 => DataType { id: 8, len: 16 },
    }
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

/// Addresses as numbers, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Interval {
    first: u128,
    last: u128,
}

/// The fewest intervals that cover the same addresses, in order.
fn merge(mut intervals: Vec<Interval>) -> Vec<Interval> {
    intervals.sort();
    let mut out: Vec<Interval> = Vec::with_capacity(intervals.len());
    for next in intervals {
        match out.last_mut() {
            Some(open) if next.first <= open.last.saturating_add(1) => {
                open.last = open.last.max(next.last);
            }
            Some(_) | None => out.push(next),
        }
    }
    out
}

fn highest(family: Family) -> u128 {
    match family {
        Family::Ipv4 => u128::from(u32::MAX),
        Family::Ipv6 => u128::MAX,
    }
}

/// The kernel keeps an interval as its first address and, marked, the first one behind it.
fn intervals(family: Family, elements: &[Element]) -> Vec<Interval> {
    let mut marks: Vec<(u128, bool)> = elements
        .iter()
        .filter_map(|element| Some((address_number(&element.key)?, !element.interval_end)))
        .collect();
    // At the same address an end (false) comes before the next start.
    marks.sort_unstable();
    let mut out: Vec<Interval> = Vec::new();
    let mut open = None;
    for (at, starts) in marks {
        if let Some(first) = open.take() {
            out.push(Interval { first, last: at.saturating_sub(1) });
        }
        if starts {
            open = Some(at);
        }
    }
    out.extend(open.map(|first| Interval { first, last: highest(family) }));
    merge(out)
}

fn elements(family: Family, intervals: &[Interval]) -> Vec<Element> {
    let element = |address: u128, interval_end| Element {
        key: match family {
            Family::Ipv4 => u32::try_from(address).unwrap_or(u32::MAX).to_be_bytes().to_vec(),
            Family::Ipv6 => address.to_be_bytes().to_vec(),
        },
        value: None,
        interval_end,
    };
    let mut out = Vec::with_capacity(intervals.len() * 2);
    for interval in intervals {
        out.push(element(interval.first, false));
        if interval.last < highest(family) {
            out.push(element(interval.last + 1, true));
        }
    }
    out
}

fn address_number(key: &[u8]) -> Option<u128> {
    let address = match key.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(key).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(key).ok()?),
        _ => return None,
    };
    Some(number(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use sys::netlink::netns;

    fn interval(first: u128, last: u128) -> Interval {
        Interval { first, last }
    }

    #[test]
    fn intervals_survive_the_kernels_form() {
        let top = u128::from(u32::MAX);
        let table = [
            vec![],
            vec![interval(5, 9)],
            vec![interval(0, 0), interval(5, 9), interval(20, top)],
            vec![interval(0, top)],
        ];
        for want in table {
            let elements = elements(Family::Ipv4, &want);
            assert_eq!(intervals(Family::Ipv4, &elements), want);
        }
    }

    #[test]
    fn overlapping_and_touching_intervals_become_one() {
        let got = merge(vec![interval(10, 19), interval(0, 3), interval(20, 25), interval(12, 14)]);
        assert_eq!(got, [interval(0, 3), interval(10, 25)]);
        assert_eq!(merge(vec![interval(0, u128::MAX), interval(1, 2)]), [interval(0, u128::MAX)]);
    }

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

    #[test]
    fn the_rule_is_there_once_and_reads_as_meant() {
        in_host(|| {
            let subnets = prefixes(&["10.88.0.0/16", "fd00::/64"]);
            ensure(&subnets).unwrap();
            ensure(&subnets).unwrap();
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
            ensure(&prefixes(&["10.88.0.0/16"])).unwrap();
            if nft(&["flush", "ruleset"]).is_none() {
                println!("skipped: no nft");
                return;
            }
            nft(&["add", "table", "inet", "other"]);
            ensure(&prefixes(&["10.88.0.0/16"])).unwrap();
            let text = nft(&["list", "ruleset"]).unwrap();
            assert!(text.contains("masquerade") && text.contains("table inet other"), "{text}");
        });
    }

    #[test]
    fn networks_that_overlap_are_merged() {
        in_host(|| {
            for subnet in ["10.88.1.0/24", "10.88.0.0/16", "10.88.2.0/24", "10.99.0.0/16"] {
                ensure(&prefixes(&[subnet])).unwrap();
            }
            let mut nft = Nftables::open().unwrap();
            let found = intervals(Family::Ipv4, &nft.elements(Family::Ipv4, TABLE, SET).unwrap());
            let text: Vec<String> = found
                .iter()
                .map(|i| {
                    sys::netlink::prefix::from_number(i.first, [0, 0, 0, 0].into()).to_string()
                })
                .collect();
            assert_eq!(text, ["10.88.0.0", "10.99.0.0"]);
        });
    }

    #[test]
    fn racing_daemons_make_one_rule() {
        in_host(|| {
            std::thread::scope(|scope| {
                for at in 0..8 {
                    scope.spawn(move || ensure(&prefixes(&[&format!("10.{at}.0.0/24")])).unwrap());
                }
            });
            let mut nft = Nftables::open().unwrap();
            assert_eq!(nft.comments(Family::Ipv4, TABLE, CHAIN).unwrap(), [COMMENT]);
            let found = intervals(Family::Ipv4, &nft.elements(Family::Ipv4, TABLE, SET).unwrap());
            assert_eq!(found.len(), 8);
        });
    }
}
