//! `macspoofchk`: a pod sends from its own hardware address and from no other.
//!
//! ```text
//! table bridge knarr {
//!     set checked { type ifname }                 # the host's ends of the pods' links
//!     set senders { type ifname . ether_addr }    # and what may come in by them
//!     chain senders {
//!         type filter hook prerouting priority dstnat; policy accept;
//!         iifname @checked iifname . ether saddr != @senders drop
//!     }
//! }
//! ```
//!
//! The reference plugin makes two chains for every pod; what passes is the same.

use sys::netlink::nftables::{BaseChain, DataType, Element, Expression, Hook, TableFamily};

use super::ruleset::{self, Chain, IFNAME, REGISTER};
use super::veth::Pair;
use super::{BuiltInError, changed};
use crate::invoke::Call;

const CHECKED: &str = "checked";
const SENDERS: &str = "senders";
/// `nft` numbers a concatenation by its parts, six bits each; ether_addr is 9 and takes two
/// registers.
const SENDER: DataType = DataType { id: IFNAME.id << 6 | 9, len: IFNAME.len + 8 };
/// Offset and length of the source address in an Ethernet header.
const SOURCE: (u32, u32) = (6, 6);

/// Keeps the pod's link to the pod's hardware address from now on.
pub(super) fn allow(call: &Call<'_>, pair: &Pair) -> Result<(), BuiltInError> {
    let [link, sender] = elements(call, pair);
    let made = ruleset::update(&mut ruleset::open()?, TableFamily::Bridge, |nft, edit| {
        edit.set(CHECKED, IFNAME);
        edit.set(SENDERS, SENDER);
        edit.chain(nft, &chain())?;
        edit.add(CHECKED, std::slice::from_ref(&link));
        edit.add(SENDERS, std::slice::from_ref(&sender));
        Ok(())
    });
    made.map_err(|error| match error {
        BuiltInError::NoNftables(source) => BuiltInError::NoBridgeFilter(source),
        other => other,
    })
}

/// Whether the pod's link is kept to its address.
pub(super) fn check(call: &Call<'_>, link: &str) -> Result<(), BuiltInError> {
    let mut nft = ruleset::open()?;
    for set in [CHECKED, SENDERS] {
        let present = ruleset::read(&mut nft, TableFamily::Bridge, set)?;
        let ours = |element: &Element| {
            element.comment == owner(call) && element.key.starts_with(&ruleset::link_key(link))
        };
        if !present.iter().any(ours) {
            return Err(changed(format!("what comes in by {link} is not checked")));
        }
    }
    Ok(())
}

/// Takes back what was allowed for an interface of a container.
pub(super) fn forget(call: &Call<'_>) -> Result<(), BuiltInError> {
    let owner = owner(call);
    let removed = ruleset::open().and_then(|mut nft| {
        ruleset::update(&mut nft, TableFamily::Bridge, |nft, edit| {
            for set in [CHECKED, SENDERS] {
                let mut elements = ruleset::read(nft, TableFamily::Bridge, set)?;
                elements.retain(|element| element.comment == owner);
                edit.delete(set, &elements);
            }
            Ok(())
        })
    });
    match removed {
        // A kernel without them has none.
        Err(BuiltInError::NoNftables(_)) => Ok(()),
        removed => removed,
    }
}

fn owner(call: &Call<'_>) -> String {
    format!("{} {}", call.container, call.ifname)
}

fn elements(call: &Call<'_>, pair: &Pair) -> [Element; 2] {
    let element = |key| Element { key, value: None, interval_end: false, comment: owner(call) };
    let link = ruleset::link_key(&pair.host_name);
    let mut sender = link.clone();
    sender.extend(pair.pod_mac);
    sender.extend([0; 2]);
    [element(link), element(sender)]
}

fn chain() -> Chain<'static> {
    let (offset, len) = SOURCE;
    let rule = vec![
        Expression::incoming_link(REGISTER),
        Expression::in_set(REGISTER, CHECKED, true),
        Expression::incoming_link(REGISTER),
        Expression::link_header(offset, len, REGISTER + IFNAME.len / 4),
        Expression::in_set(REGISTER, SENDERS, false),
        Expression::drop(),
    ];
    let base = BaseChain { name: SENDERS, nat: false, hook: Hook::Prerouting, priority: -300 };
    Chain { base, rules: vec![("knarr: pods send from their own addresses (1)", rule)] }
}
