//! Traffic control: limiting what a link sends, and sending what comes in by one link out by
//! another, where it can be limited too.

use super::message::{Attributes, Batch, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, u32_at};
use super::{NetlinkError, Rtnetlink};

const RTM_NEWQDISC: u16 = 36;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TCA_U32_CLASSID: u16 = 1;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;

const TC_H_ROOT: u32 = 0xffff_ffff;
const TC_H_INGRESS: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;
const FIRST_HANDLE: u32 = 0x1_0000;
const TC_ACT_STOLEN: u32 = 4;
const TCA_EGRESS_REDIR: u32 = 1;
const TC_U32_TERMINAL: u8 = 1;
/// `TC_LINKLAYER_ETHERNET`: the kernel computes sending times itself, without a table from us.
const LINKLAYER_ETHERNET: u8 = 1;
const ETH_P_ALL: u16 = 3;

/// A token bucket: how fast a link may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    /// Bytes per second.
    pub rate: u64,
    /// Bytes that may be sent at once.
    pub burst: u32,
    /// Bytes that may wait for tokens before packets are dropped.
    pub limit: u32,
}

impl Rtnetlink {
    /// Limits what a link sends.
    ///
    /// # Errors
    /// `EEXIST` when it is limited already, `ENOENT` when the kernel has no `sch_tbf`.
    pub fn limit(&mut self, index: u32, bucket: &TokenBucket) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        let label = format!("limit link {index} to {} bytes/s", bucket.rate);
        batch.message(RTM_NEWQDISC, flags, label, |body| {
            body.raw(&tcmsg(index, FIRST_HANDLE, TC_H_ROOT, 0)).text(TCA_KIND, "tbf");
            body.nest(TCA_OPTIONS, |options| {
                options.attr(TCA_TBF_PARMS, &tbf_parameters(bucket));
                options.attr(TCA_TBF_RATE64, &bucket.rate.to_ne_bytes());
                options.u32(TCA_TBF_BURST, bucket.burst);
            });
        });
        self.0.transact(batch, 0)
    }

    /// Sends everything that comes in by link `from` out by link `to` instead; an ifb hands it
    /// on to where it would have gone.
    ///
    /// # Errors
    /// `EEXIST` when `from` has an ingress queue already, `ENOENT` when the kernel lacks
    /// `sch_ingress`, `cls_u32` or `act_mirred`.
    pub fn redirect_incoming(&mut self, from: u32, to: u32) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        batch.message(RTM_NEWQDISC, flags, format!("watch what link {from} receives"), |body| {
            body.raw(&tcmsg(from, INGRESS_HANDLE, TC_H_INGRESS, 0)).text(TCA_KIND, "ingress");
        });
        let label = format!("redirect what link {from} receives to link {to}");
        batch.message(RTM_NEWTFILTER, flags, label, |body| {
            let priority_and_protocol = 1 << 16 | u32::from(ETH_P_ALL.to_be());
            body.raw(&tcmsg(from, 0, INGRESS_HANDLE, priority_and_protocol));
            body.text(TCA_KIND, "u32").nest(TCA_OPTIONS, |options| {
                options.u32(TCA_U32_CLASSID, 0x1_0001).attr(TCA_U32_SEL, &match_all());
                options.nest(TCA_U32_ACT, |actions| {
                    actions.nest(1, |action| {
                        action.text(TCA_ACT_KIND, "mirred").nest(TCA_ACT_OPTIONS, |mirred| {
                            mirred.attr(TCA_MIRRED_PARMS, &redirect(to));
                        });
                    });
                });
            });
        });
        let last = batch.len() - 1;
        self.0.transact(batch, last)
    }

    /// The token bucket of a link; `None` if it has none.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn limit_of(&mut self, index: u32) -> Result<Option<TokenBucket>, NetlinkError> {
        let mut batch = Batch::new();
        batch.message(
            RTM_GETQDISC,
            NLM_F_DUMP,
            format!("list the queues of link {index}"),
            |body| {
                body.raw(&tcmsg(index, 0, 0, 0));
            },
        );
        let replies = self.0.query(batch)?;
        Ok(replies.iter().find_map(|reply| parse_bucket(&reply.body, index)))
    }
}

/// `struct tcmsg`.
fn tcmsg(index: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut out = [0; 20];
    for (at, value) in [(4, index), (8, handle), (12, parent), (16, info)] {
        out[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    out
}

/// `struct tc_tbf_qopt`: rate, peak rate, limit, buffer, mtu. Rate and burst count as the
/// attributes beside it say.
fn tbf_parameters(bucket: &TokenBucket) -> [u8; 36] {
    let mut out = [0; 36];
    out[1] = LINKLAYER_ETHERNET;
    out[8..12].copy_from_slice(&u32::try_from(bucket.rate).unwrap_or(u32::MAX).to_ne_bytes());
    out[24..28].copy_from_slice(&bucket.limit.to_ne_bytes());
    out
}

/// `struct tc_u32_sel` with one key that every packet has.
fn match_all() -> [u8; 32] {
    let mut out = [0; 32];
    out[0] = TC_U32_TERMINAL;
    out[2] = 1;
    out
}

/// `struct tc_mirred`.
fn redirect(to: u32) -> [u8; 28] {
    let mut out = [0; 28];
    for (at, value) in [(8, TC_ACT_STOLEN), (20, TCA_EGRESS_REDIR), (24, to)] {
        out[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    out
}

fn parse_bucket(body: &[u8], index: u32) -> Option<TokenBucket> {
    if u32_at(body, 4)? != index {
        return None;
    }
    let attributes = Attributes::new(body.get(20..)?);
    if attributes.get(TCA_KIND)? != b"tbf\0" {
        return None;
    }
    let options = Attributes::new(attributes.get(TCA_OPTIONS)?);
    let parameters = options.get(TCA_TBF_PARMS)?;
    let rate = options.get(TCA_TBF_RATE64).and_then(|rate| rate.try_into().ok());
    let rate = rate.map(u64::from_ne_bytes).or_else(|| u32_at(parameters, 8).map(u64::from))?;
    // The kernel keeps the burst as the time it takes, in ticks of 64 ns.
    let burst = u128::from(u32_at(parameters, 28)?) * 64 * u128::from(rate) / 1_000_000_000;
    Some(TokenBucket {
        rate,
        burst: u32::try_from(burst).unwrap_or(u32::MAX),
        limit: u32_at(parameters, 24)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{NewVeth, netns};
    use std::os::fd::AsFd;

    #[test]
    fn both_directions_of_a_link_are_limited() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let (host, pod) = (netns::create().unwrap(), netns::create().unwrap());
        let work = || {
            let mut host = Rtnetlink::open().unwrap();
            host.create_veth(&NewVeth {
                host_name: "veth0",
                host_mac: [2, 0, 0, 0, 0, 2],
                master: None,
                hairpin: false,
                isolated: false,
                peer_name: "eth0",
                peer_mac: [2, 0, 0, 0, 0, 3],
                peer_netns: pod.as_fd(),
                mtu: None,
            })
            .unwrap();
            host.create_ifb("ifb9", 1500).unwrap();
            let (veth, ifb) = (host.index("veth0").unwrap(), host.index("ifb9").unwrap());
            let wanted = TokenBucket { rate: 125_000, burst: 50_000, limit: 60_000 };
            assert_eq!(host.limit_of(veth).unwrap(), None);
            host.limit(veth, &wanted).unwrap();
            host.redirect_incoming(veth, ifb).unwrap();
            host.limit(ifb, &TokenBucket { rate: 10_000_000_000, ..wanted }).unwrap();
            let got = host.limit_of(veth).unwrap().unwrap();
            assert_eq!((got.rate, got.limit), (wanted.rate, wanted.limit));
            assert!(wanted.burst - got.burst < 10, "{got:?}");
            assert_eq!(host.limit_of(ifb).unwrap().unwrap().rate, 10_000_000_000);
        };
        netns::run_in(host.as_fd(), work).unwrap();
    }
}
