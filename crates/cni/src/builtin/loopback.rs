//! `loopback`: brings `lo` up in the pod and reports its addresses.

use serde_json::{Value, json};

use super::veth::{in_pod, pod_netns};
use super::{BuiltInError, changed};
use crate::invoke::{Call, Verb};
use crate::result;

const LO: &str = "lo";

pub(super) fn run(call: &Call<'_>, conf: &Value) -> Result<Value, BuiltInError> {
    match call.verb {
        Verb::Add => add(call, conf),
        Verb::Check => check(call).map(|()| result::empty()),
        // `lo` goes with its namespace.
        Verb::Del | Verb::Status | Verb::Gc => Ok(result::empty()),
    }
}

fn add(call: &Call<'_>, conf: &Value) -> Result<Value, BuiltInError> {
    let netns = pod_netns(call)?;
    let addresses = in_pod(call, &netns, |pod| {
        let index = pod.index(LO).map_err(BuiltInError::Socket)?;
        pod.set_up(index, false)?;
        Ok(pod.addresses(index)?)
    })?;
    if let Some(previous) = conf.get("prevResult") {
        return Ok(previous.clone());
    }
    let ips: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"address": address.to_string(), "interface": 0}))
        .collect();
    let lo = json!({"name": LO, "mac": "00:00:00:00:00:00", "sandbox": call.netns});
    Ok(json!({"interfaces": [lo], "ips": ips}))
}

fn check(call: &Call<'_>) -> Result<(), BuiltInError> {
    let netns = pod_netns(call)?;
    let up = in_pod(call, &netns, |pod| Ok(pod.link(LO)?.is_some_and(|link| link.up)))?;
    if up { Ok(()) } else { Err(changed("link lo is down")) }
}
