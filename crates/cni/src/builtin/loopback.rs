//! `loopback`: brings `lo` up in the pod and reports its addresses.

use std::os::fd::AsFd;

use serde_json::{Value, json};
use sys::netlink::{Rtnetlink, netns};

use super::BuiltInError;
use crate::invoke::{Call, Verb};
use crate::result;

pub(super) fn run(call: &Call<'_>, conf: &Value) -> Result<Value, BuiltInError> {
    match call.verb {
        Verb::Add => add(call, conf),
        // `lo` goes with its namespace.
        Verb::Del | Verb::Status | Verb::Gc => Ok(result::empty()),
    }
}

fn add(call: &Call<'_>, conf: &Value) -> Result<Value, BuiltInError> {
    let path = call.netns.unwrap_or_else(|| std::path::Path::new(""));
    let failed = |source| BuiltInError::Namespace { path: path.to_owned(), source };
    let netns = netns::open(path).map_err(failed)?;
    let netns = netns.ok_or_else(|| BuiltInError::NoNamespace { path: path.to_owned() })?;
    let addresses = netns::run_in(netns.as_fd(), || {
        let mut route = Rtnetlink::open().map_err(BuiltInError::Socket)?;
        let index = route.index("lo").map_err(BuiltInError::Socket)?;
        route.set_up(index, false)?;
        Ok::<_, BuiltInError>(route.addresses(index)?)
    })
    .map_err(failed)??;
    if let Some(previous) = conf.get("prevResult") {
        return Ok(previous.clone());
    }
    let ips: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"address": address.to_string(), "interface": 0}))
        .collect();
    let lo = json!({"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": path});
    Ok(json!({"interfaces": [lo], "ips": ips}))
}
