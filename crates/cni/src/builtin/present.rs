//! CHECK: whether a pod's link, addresses and routes are as the result says.

use std::os::fd::OwnedFd;

use serde_json::Value;
use sys::netlink::{IpPrefix, Link, Rtnetlink};

use super::veth::{in_pod, mac_text};
use super::{BuiltInError, changed};
use crate::invoke::Call;
use crate::result;

/// The result of ADD, without which nothing can be checked.
pub(super) fn previous(conf: &Value) -> Result<&Value, BuiltInError> {
    conf.get("prevResult").ok_or_else(|| BuiltInError::configuration("CHECK without `prevResult`"))
}

/// Checks the pod's end of a veth pair; returns the index of the host's end.
pub(super) fn pod_link(
    call: &Call<'_>,
    netns: &OwnedFd,
    previous: &Value,
) -> Result<u32, BuiltInError> {
    let mac = interfaces(previous)
        .find(|interface| interface["name"] == call.ifname && !is_host_side(interface))
        .and_then(|interface| interface.get("mac").and_then(Value::as_str));
    let addresses = result::addresses_on(previous, call.ifname);
    in_pod(call, netns, |pod| {
        let link = link(pod, call.ifname, "veth")?;
        if !link.up {
            return Err(changed(format!("link {} is down", call.ifname)));
        }
        let present = link.mac.map(mac_text).unwrap_or_default();
        if let Some(mac) = mac.filter(|mac| !mac.eq_ignore_ascii_case(&present)) {
            let what = format!("link {} has hardware address {present}, not {mac}", call.ifname);
            return Err(changed(what));
        }
        let present = pod.addresses(link.index)?;
        if let Some(address) = addresses.iter().find(|address| !present.contains(address)) {
            return Err(changed(format!("link {} has no address {address}", call.ifname)));
        }
        routes(pod, previous)?;
        link.lower.ok_or_else(|| changed(format!("link {} has no other end", call.ifname)))
    })
}

/// Routes of other tables are not looked at.
fn routes(pod: &mut Rtnetlink, previous: &Value) -> Result<(), BuiltInError> {
    let present = pod.routes()?;
    for wanted in previous.get("routes").and_then(Value::as_array).into_iter().flatten() {
        let text = |key| wanted.get(key).and_then(Value::as_str);
        let Some(destination) = text("dst").and_then(|dst| dst.parse::<IpPrefix>().ok()) else {
            continue;
        };
        let gateway = text("gw").and_then(|gateway| gateway.parse().ok());
        let other_table = wanted.get("table").is_some_and(|table| *table != 0 && *table != 254);
        let found = present.iter().any(|route| {
            route.destination == destination.network()
                && (gateway.is_none() || route.gateway == gateway)
        });
        if !found && !other_table {
            return Err(changed(format!("there is no route to {destination}")));
        }
    }
    Ok(())
}

/// A link of this kind, which must be there.
pub(super) fn link(socket: &mut Rtnetlink, name: &str, kind: &str) -> Result<Link, BuiltInError> {
    match socket.link(name)? {
        Some(link) if link.kind == kind => Ok(link),
        Some(link) => Err(changed(format!("link {name} is a `{}`, not a {kind}", link.kind))),
        None => Err(changed(format!("there is no link {name}"))),
    }
}

pub(super) fn interfaces(result: &Value) -> impl Iterator<Item = &Value> {
    result.get("interfaces").and_then(Value::as_array).into_iter().flatten()
}

pub(super) fn is_host_side(interface: &Value) -> bool {
    interface.get("sandbox").and_then(Value::as_str).unwrap_or_default().is_empty()
}
