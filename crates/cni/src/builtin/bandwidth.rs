//! `bandwidth`: limits what a pod's link carries in either direction.
//!
//! A queue can hold back only what a link sends. What goes to the pod is what the host's end of
//! the veth sends: a token bucket there. What comes from the pod is redirected to an ifb of the
//! pod's own, which sends it on: a token bucket there.

use failpoint::Point;
use serde::Deserialize;
use serde_json::{Value, json};
use sys::netlink::{Rtnetlink, TokenBucket};

use super::veth::{self, ENODEV, in_pod, mac_text, pod_netns, tolerate};
use super::{BuiltInError, changed, present};
use crate::invoke::{Call, Verb};
use crate::result;

/// How long a packet may wait for its turn.
const LATENCY_MS: u64 = 25;
/// The start of the names of ifbs, here and in the reference plugin.
const PREFIX: &str = "bwp";

/// In bits, and bits per second; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Limits {
    ingress_rate: u64,
    ingress_burst: u64,
    egress_rate: u64,
    egress_burst: u64,
}

pub(super) fn run(call: &Call<'_>, conf: &Value) -> Result<Value, BuiltInError> {
    match call.verb {
        Verb::Add => add(call, conf),
        Verb::Del => delete(call, conf).map(|()| result::empty()),
        Verb::Check => check(call, conf).map(|()| result::empty()),
        Verb::Status | Verb::Gc => Ok(result::empty()),
    }
}

/// The configuration's own limits; without any, those that the engine gives.
fn limits(conf: &Value) -> Result<Limits, BuiltInError> {
    let read = |value: &Value| {
        Limits::deserialize(value).map_err(|e| BuiltInError::configuration(e.to_string()))
    };
    let mut limits = read(conf)?;
    let given = &conf["runtimeConfig"]["bandwidth"];
    if limits == Limits::default() && given.is_object() {
        limits = read(given)?;
    }
    for (rate, burst) in
        [(limits.ingress_rate, limits.ingress_burst), (limits.egress_rate, limits.egress_burst)]
    {
        if (rate == 0) != (burst == 0) {
            let what = "a rate and its burst must be set together";
            return Err(BuiltInError::configuration(what));
        }
        if (1..8).contains(&rate) || burst / 8 >= u64::from(u32::MAX) {
            let what = format!("a rate of {rate} bits/s with a burst of {burst} bits is no limit");
            return Err(BuiltInError::configuration(what));
        }
    }
    Ok(limits)
}

/// Limits that hold for some destinations only take another kind of queue.
fn served(conf: &Value) -> Result<(), BuiltInError> {
    for key in ["shapedSubnets", "unshapedSubnets"] {
        if conf[key].as_array().is_some_and(|subnets| !subnets.is_empty()) {
            let what = format!("`{key}` needs the reference bandwidth plugin to be installed");
            return Err(BuiltInError::configuration(what));
        }
    }
    Ok(())
}

fn bucket(rate_bits: u64, burst_bits: u64) -> Option<TokenBucket> {
    let (rate, burst) = (rate_bits / 8, burst_bits / 8);
    let limit = (rate / 1000).saturating_mul(LATENCY_MS).saturating_add(burst);
    let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    (rate != 0).then(|| TokenBucket { rate, burst: number(burst), limit: number(limit) })
}

fn add(call: &Call<'_>, conf: &Value) -> Result<Value, BuiltInError> {
    let previous = conf.get("prevResult").ok_or_else(|| {
        BuiltInError::configuration("it must come after the plugin that makes the pod's link")
    })?;
    let mut out = previous.clone();
    served(conf)?;
    let limits = limits(conf)?;
    let to_pod = bucket(limits.ingress_rate, limits.ingress_burst);
    let from_pod = bucket(limits.egress_rate, limits.egress_burst);
    if to_pod.is_none() && from_pod.is_none() {
        return Ok(out);
    }
    let mut host = Rtnetlink::open().map_err(BuiltInError::Socket)?;
    let link = host_end(&mut host, call)?;
    if let Some(bucket) = to_pod {
        host.limit(link.index, &bucket)?;
    }
    if let Some(bucket) = from_pod {
        failpoint::reach(Point::CniAddShape).map_err(BuiltInError::Socket)?;
        let name = ifb_name(call, conf);
        host.create_ifb(&name, link.mtu)?;
        let redirected = redirect(&mut host, link.index, &name, &bucket);
        match redirected {
            Ok(mac) => {
                if let Some(interfaces) = out.get_mut("interfaces").and_then(Value::as_array_mut) {
                    interfaces.push(json!({"name": name, "mac": mac}));
                }
            }
            Err(error) => {
                veth::undo(&mut host, &name);
                return Err(error);
            }
        }
    }
    Ok(out)
}

/// Returns the ifb's hardware address.
fn redirect(
    host: &mut Rtnetlink,
    from: u32,
    ifb: &str,
    bucket: &TokenBucket,
) -> Result<String, BuiltInError> {
    let ifb = present::link(host, ifb, "ifb")?;
    host.limit(ifb.index, bucket)?;
    host.redirect_incoming(from, ifb.index)?;
    Ok(ifb.mac.map(mac_text).unwrap_or_default())
}

/// The host's end of the pod's veth.
fn host_end(host: &mut Rtnetlink, call: &Call<'_>) -> Result<sys::netlink::Link, BuiltInError> {
    let netns = pod_netns(call)?;
    let peer = in_pod(call, &netns, |pod| Ok(present::link(pod, call.ifname, "veth")?.lower))?;
    let found = match peer {
        Some(peer) => host.link_at(peer)?.filter(|link| link.kind == "veth"),
        None => None,
    };
    found.ok_or_else(|| changed(format!("the host has no other end of the pod's {}", call.ifname)))
}

/// The pod's ifb is not tied to its namespace and has to be deleted.
fn delete(call: &Call<'_>, conf: &Value) -> Result<(), BuiltInError> {
    let mut names = vec![ifb_name(call, conf)];
    // Made by the reference plugin, which names it by another hash.
    let listed = conf.get("prevResult").map(present::interfaces).into_iter().flatten();
    let listed = listed.filter(|interface| present::is_host_side(interface));
    let listed = listed.filter_map(|interface| interface.get("name")?.as_str());
    names.extend(listed.filter(|name| name.starts_with(PREFIX)).map(str::to_owned));
    names.dedup();
    let mut host = Rtnetlink::open().map_err(BuiltInError::Socket)?;
    for name in names {
        // Looked for first: most pods have none, and looking is cheap.
        if host.link(&name)?.is_some() {
            tolerate(host.delete_link(&name), ENODEV)?;
        }
    }
    Ok(())
}

fn check(call: &Call<'_>, conf: &Value) -> Result<(), BuiltInError> {
    let limits = limits(conf)?;
    let mut host = Rtnetlink::open().map_err(BuiltInError::Socket)?;
    if let Some(bucket) = bucket(limits.ingress_rate, limits.ingress_burst) {
        let link = host_end(&mut host, call)?;
        limited(&mut host, link.index, &bucket, "to")?;
    }
    if let Some(bucket) = bucket(limits.egress_rate, limits.egress_burst) {
        let ifb = present::link(&mut host, &ifb_name(call, conf), "ifb")?;
        limited(&mut host, ifb.index, &bucket, "from")?;
    }
    Ok(())
}

fn limited(
    host: &mut Rtnetlink,
    index: u32,
    wanted: &TokenBucket,
    direction: &str,
) -> Result<(), BuiltInError> {
    match host.limit_of(index)? {
        Some(bucket) if bucket.rate == wanted.rate => Ok(()),
        Some(bucket) => Err(changed(format!(
            "traffic {direction} the pod is limited to {} bytes/s, not {}",
            bucket.rate, wanted.rate
        ))),
        None => Err(changed(format!("traffic {direction} the pod is not limited"))),
    }
}

fn ifb_name(call: &Call<'_>, conf: &Value) -> String {
    let network = conf.get("name").and_then(Value::as_str).unwrap_or_default();
    let hash = veth::fnv(&format!("{network}\0{}", call.container), call.ifname);
    format!("{PREFIX}{:012x}", hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(conf: &Value) -> Result<Limits, String> {
        limits(conf).map_err(|error| error.to_string())
    }

    #[test]
    fn the_configurations_own_limits_win() {
        let given = json!({"ingressRate": 8000, "ingressBurst": 800});
        let conf = json!({"runtimeConfig": {"bandwidth": given}});
        assert_eq!(read(&conf).unwrap().ingress_rate, 8000);
        let conf =
            json!({"egressRate": 16, "egressBurst": 16, "runtimeConfig": {"bandwidth": given}});
        let limits = read(&conf).unwrap();
        assert_eq!((limits.ingress_rate, limits.egress_rate), (0, 16));
        assert_eq!(read(&json!({})).unwrap(), Limits::default());
    }

    #[test]
    fn half_a_limit_is_refused() {
        for conf in [
            json!({"ingressRate": 8000}),
            json!({"egressBurst": 8000}),
            json!({"egressRate": 7, "egressBurst": 8}),
            json!({"egressRate": 8, "egressBurst": 34_359_738_360_u64}),
            json!({"egressRate": "fast"}),
        ] {
            assert!(read(&conf).is_err(), "{conf}");
        }
        assert!(served(&json!({"unshapedSubnets": ["10.0.0.0/8"]})).is_err());
        assert!(served(&json!({"unshapedSubnets": [], "ingressRate": 8})).is_ok());
    }

    #[test]
    fn rates_are_bytes_and_the_queue_holds_a_moments_worth() {
        let got = bucket(8_000_000, 800_000).unwrap();
        assert_eq!(got, TokenBucket { rate: 1_000_000, burst: 100_000, limit: 125_000 });
        assert_eq!(bucket(0, 0), None);
        let most = bucket(1_000_000_000_000_000, u64::from(u32::MAX)).unwrap();
        assert_eq!(most.limit, u32::MAX);
    }
}
