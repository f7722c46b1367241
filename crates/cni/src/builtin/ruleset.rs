//! The nf_tables table `knarr`, one for each IP family and one for bridges: brought to what it should be, by whoever
//! needs something of it, every time. `nft flush ruleset` is one reload of a firewall away, and
//! looking costs a tenth of a millisecond. Other tables are never touched. What all pods share
//! stays when the last pod goes: it costs nothing and the next pod needs it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use sys::netlink::nftables::{
    BaseChain, DataType, Element, Expression, Family, Nftables, TableFamily, Transaction, is_stale,
};
use sys::netlink::prefix::{from_number, number};
use sys::netlink::{IpPrefix, NetlinkError};

use super::BuiltInError;

const TABLE: &str = "knarr";
/// Each failure means that someone else got a change in; that many in a row is a busy loop.
const ATTEMPTS: u32 = 64;
const MODULES: &str = "/proc/modules";
/// A module that takes longer is stuck.
const LOADED_WITHIN: Duration = Duration::from_secs(5);
/// What the kernel says of an expression, a kind of chain or of anything else that is not there.
const ENOENT: i32 = 2;
/// Where rules load what they look at: `NFT_REG32_00`.
pub(super) const REGISTER: u32 = 8;

/// A chain and all its rules. The comments stand for the rules' meaning: another version of a
/// rule has another comment, and replaces what is there.
pub(super) struct Chain<'a> {
    pub(super) base: BaseChain<'a>,
    pub(super) rules: Vec<(&'a str, Vec<Expression>)>,
}

/// A change of the table that is being put together.
pub(super) struct Edit {
    family: TableFamily,
    transaction: Transaction,
    changed: bool,
}

/// Changes the table as `plan` says, all of it or nothing. `plan` looks at what is there and may
/// run several times; nothing is written if it asks for nothing.
pub(super) fn update(
    nft: &mut Nftables,
    family: impl Into<TableFamily>,
    plan: impl Fn(&mut Nftables, &mut Edit) -> Result<(), BuiltInError>,
) -> Result<(), BuiltInError> {
    let family = family.into();
    let mut waited = false;
    for _ in 0..ATTEMPTS {
        let generation = nft.generation().map_err(missing_support)?;
        let transaction = Transaction::new(family, TABLE, generation);
        let mut edit = Edit { family, transaction, changed: false };
        plan(nft, &mut edit)?;
        if !edit.changed {
            return Ok(());
        }
        match nft.commit(edit.transaction) {
            Ok(()) => return Ok(()),
            Err(error) if is_stale(&error) => {}
            Err(error) if error.errno() == Some(ENOENT) && !waited => {
                await_modules();
                waited = true;
            }
            Err(error) => return Err(missing_support(error)),
        }
    }
    Err(BuiltInError::RulesetBusy { attempts: ATTEMPTS })
}

/// Whether this kernel can do it. Asked before the first pod, this also has the kernel load what
/// it needs, which it is not good at when many ask at once.
pub(super) fn supported() -> Result<(), BuiltInError> {
    open()?.generation().map(drop).map_err(missing_support)
}

/// Waits until the kernel loads no module any more. It asks a `modprobe` for each expression that it does
/// not know yet, and takes it as missing when that comes back; some, busybox's for one, do at once where
/// another loads the same module at the moment. Pods that start together on a fresh node meet there.
fn await_modules() {
    let begun = Instant::now();
    let loading = || std::fs::read_to_string(MODULES).is_ok_and(|all| any_loading(&all));
    while begun.elapsed() < LOADED_WITHIN && loading() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// proc_modules(5): name, size, users, whose, state, address.
fn any_loading(modules: &str) -> bool {
    modules.lines().any(|line| line.split(' ').nth(4) == Some("Loading"))
}

/// A socket to the ruleset of this network namespace.
pub(super) fn open() -> Result<Nftables, BuiltInError> {
    Nftables::open().map_err(|source| {
        missing_support(NetlinkError::Socket { operation: "reach nf_tables".to_owned(), source })
    })
}

impl Edit {
    /// The chain has these rules and no others. False when it had them already.
    pub(super) fn chain(
        &mut self,
        nft: &mut Nftables,
        chain: &Chain<'_>,
    ) -> Result<bool, BuiltInError> {
        let name = chain.base.name;
        let present = nft.comments(self.family, TABLE, name)?;
        if present.iter().eq(chain.rules.iter().map(|(comment, _)| *comment)) {
            return Ok(false);
        }
        self.changed = true;
        self.transaction.chain(&chain.base);
        self.transaction.flush_chain(name);
        for (comment, rule) in &chain.rules {
            self.transaction.rule(name, comment, rule);
        }
        Ok(true)
    }

    /// The interval set exists, and holds these networks besides what it holds already.
    pub(super) fn networks(
        &mut self,
        nft: &mut Nftables,
        family: Family,
        set: &str,
        networks: &[IpPrefix],
    ) -> Result<(), BuiltInError> {
        self.transaction.interval_set(set, address_type(family));
        let present = intervals(family, &nft.elements(family, TABLE, set)?);
        let wanted = of_family(family, networks).map(|network| Interval {
            first: number(network.network().address()),
            last: number(network.last()),
        });
        let merged = merge(present.iter().copied().chain(wanted).collect());
        if merged == present {
            return Ok(());
        }
        self.changed = true;
        // Replaced as a whole: an interval that overlaps a present one cannot be added.
        self.transaction.flush_set(set);
        self.transaction.add_elements(set, &elements(family, &merged));
        Ok(())
    }

    /// The set exists.
    pub(super) fn set(&mut self, name: &str, key: DataType) {
        self.transaction.plain_set(name, key);
    }

    /// The map exists.
    pub(super) fn map(&mut self, name: &str, key: DataType, value: DataType) {
        self.transaction.map(name, key, value);
    }

    /// Adds elements to a set or map. In a map, one whose key is there with another value is
    /// refused (`EBUSY`).
    pub(super) fn add(&mut self, map: &str, elements: &[Element]) {
        if !elements.is_empty() {
            self.changed = true;
            self.transaction.add_elements(map, elements);
        }
    }

    /// Deletes elements that were read from the set or map.
    pub(super) fn delete(&mut self, map: &str, elements: &[Element]) {
        if !elements.is_empty() {
            self.changed = true;
            self.transaction.delete_elements(map, elements);
        }
    }
}

/// What is in a set or map of the table.
pub(super) fn read(
    nft: &mut Nftables,
    family: impl Into<TableFamily>,
    set: &str,
) -> Result<Vec<Element>, BuiltInError> {
    Ok(nft.elements(family, TABLE, set)?)
}

pub(super) fn of_family(family: Family, prefixes: &[IpPrefix]) -> impl Iterator<Item = &IpPrefix> {
    prefixes.iter().filter(move |p| p.address().is_ipv4() == (family == Family::Ipv4))
}

/// What the kernel answers when it lacks nf_tables, its NAT chains or one of the expressions.
pub(super) fn missing_support(error: NetlinkError) -> BuiltInError {
    const EINVAL: i32 = 22;
    const EPROTONOSUPPORT: i32 = 93;
    const EOPNOTSUPP: i32 = 95;
    match error.errno() {
        Some(ENOENT | EINVAL | EPROTONOSUPPORT | EOPNOTSUPP) => BuiltInError::NoNftables(error),
        Some(_) | None => BuiltInError::Netlink(error),
    }
}

/// `nft`'s type of interface names.
pub(super) const IFNAME: DataType = DataType { id: 41, len: 16 };

/// An interface's name as the key of a set.
pub(super) fn link_key(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(16, 0);
    key
}

/// `nft`'s ipv4_addr and ipv6_addr.
pub(super) fn address_type(family: Family) -> DataType {
    match family {
        Family::Ipv4 => DataType { id: 7, len: 4 },
        Family::Ipv6 => DataType { id: 8, len: 16 },
    }
}

/// An address in network byte order.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
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
    let like: IpAddr = match family {
        Family::Ipv4 => [0; 4].into(),
        Family::Ipv6 => [0_u8; 16].into(),
    };
    let element = |address, interval_end| Element {
        key: octets(from_number(address, like)),
        value: None,
        interval_end,
        comment: String::new(),
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

    fn interval(first: u128, last: u128) -> Interval {
        Interval { first, last }
    }

    #[test]
    fn a_module_that_is_being_loaded_is_told_from_those_that_are() {
        let live = "nft_nat 16384 0 - Live 0x0000000000000000\nnf_nat 57344 1 nft_nat, Live 0x0\n";
        assert!(!any_loading(live));
        assert!(any_loading(&format!("{live}nft_fib_ipv4 16384 0 - Loading 0x0 (+)\n")));
        assert!(!any_loading("Loading 1 0 - Unloading 0x0\n"));
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
}
