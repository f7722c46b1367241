//! The pod's end of a link and the host's: their names and hardware addresses, making and
//! deleting them. Shared by `bridge` and `ptp`.
//!
//! The pair is made in one message, with the pod's end born in the pod's namespace: moving a
//! device between namespaces waits for RCU, 14 ms of it under the lock that all of rtnetlink
//! shares. For the same reason DEL deletes no link unless the engine asks for it. It takes the
//! addresses off the pod's end; the pair goes, asynchronously, when the pod's namespace does. That
//! may take minutes: a connection whose peer has vanished keeps the namespace of the dead until
//! the kernel gives it up, and so does whoever else has entered it. A DEL without a result, which
//! undoes an ADD that never completed, always deletes the pair: its namespace may be used for the
//! next attempt. So does one without a namespace, where nobody knows what became of it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use serde_json::Value;
use sys::netlink::{IpPrefix, Mac, NetlinkError, Rtnetlink, netns};

use super::{BuiltInError, sysctl};
use crate::invoke::{Call, Plugins};
use crate::result;

pub(super) const EEXIST: i32 = 17;
pub(crate) const ENODEV: i32 = 19;
pub(super) const EADDRNOTAVAIL: i32 = 99;

/// What a pair is called and which hardware addresses it gets.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) host_name: String,
    pub(super) host_mac: Mac,
    pub(super) pod_mac: Mac,
}

impl Pair {
    /// `first`: the pod's first address; `wanted`: a hardware address that was asked for.
    pub(super) fn new(call: &Call<'_>, first: Option<IpPrefix>, wanted: Option<Mac>) -> Self {
        let (host_name, host_mac) = host_end(call.container, call.ifname);
        let other = || mac(!fnv(call.container, call.ifname));
        let pod_mac = wanted.or_else(|| first.map(address_mac)).unwrap_or_else(other);
        Self { host_name, host_mac, pod_mac }
    }
}

/// The pod's network namespace, which must be there.
pub(super) fn pod_netns(call: &Call<'_>) -> Result<OwnedFd, BuiltInError> {
    let path = call.netns.unwrap_or_else(|| Path::new(""));
    netns::open(path)
        .map_err(|source| BuiltInError::Namespace { path: path.to_owned(), source })?
        .ok_or_else(|| BuiltInError::NoNamespace { path: path.to_owned() })
}

/// Runs `work` in the pod's network namespace with a socket of that namespace.
pub(super) fn in_pod<T: Send>(
    call: &Call<'_>,
    netns: &OwnedFd,
    work: impl FnOnce(&mut Rtnetlink) -> Result<T, BuiltInError> + Send,
) -> Result<T, BuiltInError> {
    let run = || work(&mut Rtnetlink::open().map_err(BuiltInError::Socket)?);
    netns::run_in(netns.as_fd(), run).map_err(|source| BuiltInError::Namespace {
        path: call.netns.unwrap_or_else(|| Path::new("")).to_owned(),
        source,
    })?
}

/// Deletes the pair if this DEL is one that must.
pub(super) fn delete(plugins: &Plugins, call: &Call<'_>, conf: &Value) -> Result<(), BuiltInError> {
    if let (Some(previous), Some(_), false) =
        (conf.get("prevResult"), call.netns, plugins.standalone)
    {
        return withdraw(call, previous);
    }
    let mut host = Rtnetlink::open().map_err(BuiltInError::Socket)?;
    let (name, mac) = host_end(call.container, call.ifname);
    // The name is short; another pod may have it by now.
    if host.link(&name)?.is_some_and(|link| link.mac == Some(mac)) {
        tolerate(host.delete_link(&name), ENODEV)?;
    }
    if !plugins.standalone || call.netns.is_none() {
        return Ok(());
    }
    // Made by a binary, which chose another name for the host's end.
    let Ok(netns) = pod_netns(call) else { return Ok(()) };
    in_pod(call, &netns, |pod| {
        match pod.link(call.ifname)? {
            Some(link) if link.kind == "veth" => tolerate(pod.delete_link(call.ifname), ENODEV)?,
            Some(_) | None => {}
        }
        Ok(())
    })
}

/// Takes the pod's addresses off its link: they are given to others while the namespace may live.
fn withdraw(call: &Call<'_>, previous: &Value) -> Result<(), BuiltInError> {
    let netns = match pod_netns(call) {
        Err(BuiltInError::NoNamespace { .. }) => return Ok(()),
        netns => netns?,
    };
    let addresses = result::addresses_on(previous, call.ifname);
    in_pod(call, &netns, |pod| {
        let Some(link) = pod.link(call.ifname)? else { return Ok(()) };
        for address in addresses {
            tolerate(pod.delete_address(link.index, address), EADDRNOTAVAIL)?;
        }
        Ok(())
    })
}

/// Deletes what a failed ADD made; its own error is the one to report.
pub(super) fn undo(host: &mut Rtnetlink, name: &str) {
    if let Err(error) = tolerate(host.delete_link(name), ENODEV) {
        tracing::warn!(%error, name, "cannot delete the veth of a failed attachment");
    }
}

/// Switches on IPv6 on a pod's link if it is to have IPv6 addresses.
pub(super) fn enable_ipv6(ifname: &str, addresses: &[IpPrefix]) -> Result<(), BuiltInError> {
    if addresses.iter().any(|prefix| prefix.address().is_ipv6()) {
        sysctl::set(ipv6_setting(ifname, "disable_ipv6"), "0")?;
    }
    Ok(())
}

pub(super) fn ipv6_setting(link: &str, setting: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{link}/{setting}")
}

pub(crate) fn tolerate(outcome: Result<(), NetlinkError>, errno: i32) -> Result<(), NetlinkError> {
    match outcome {
        Err(error) if error.errno() != Some(errno) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Name and hardware address of the host's end of a link made here.
pub(crate) fn host_end(container: &str, ifname: &str) -> (String, Mac) {
    let hash = fnv(container, ifname);
    (host_name(container, ifname, hash), mac(hash))
}

/// Whether the host's end of a link may be called like this.
pub(crate) fn is_host_end(name: &str) -> bool {
    let rest = name.strip_prefix("veth").unwrap_or_default();
    rest.len() == 8 && rest.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `veth` and the start of the sandbox id, so that an operator finds the pod.
fn host_name(container: &str, ifname: &str, hash: u64) -> String {
    match container.get(..8) {
        Some(start) if ifname == "eth0" && start.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            format!("veth{start}")
        }
        Some(_) | None => format!("veth{:08x}", hash >> 32),
    }
}

/// A locally administered address from a number.
pub(super) fn mac(number: u64) -> Mac {
    let [_, _, _, a, b, c, d, e] = number.to_be_bytes();
    [0x02, a, b, c, d, e]
}

/// The pod's hardware address follows from its IP address: whoever remembers the one of a former
/// holder of that IP address then remembers the right one.
fn address_mac(prefix: IpPrefix) -> Mac {
    let bytes = sys::netlink::prefix::number(prefix.address()).to_be_bytes();
    [0x02, 0x6b, bytes[12], bytes[13], bytes[14], bytes[15]]
}

pub(super) fn random_mac() -> Mac {
    use std::hash::{BuildHasher, Hasher};
    // Keyed from the kernel's random numbers.
    mac(std::hash::RandomState::new().build_hasher().finish())
}

/// FNV-1a, 64 bits: spreads names evenly; not for anything that must resist an attacker.
pub(crate) fn fnv(container: &str, ifname: &str) -> u64 {
    let bytes = container.bytes().chain([0]).chain(ifname.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// `02:00:5e:10:00:01`
pub(crate) fn parse_mac(text: &str) -> Option<Mac> {
    let mut out = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut out {
        let part = parts.next()?;
        *byte = (part.len() <= 2).then(|| u8::from_str_radix(part, 16).ok())??;
    }
    // A link cannot have a group's address.
    (parts.next().is_none() && out[0] & 1 == 0).then_some(out)
}

pub(super) fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The hardware address that was asked for: by the engine, by `args`, by `CNI_ARGS`, in this
/// order.
pub(super) fn wanted_mac(call: &Call<'_>, conf: &Value) -> Result<Option<Mac>, BuiltInError> {
    let argument = call.arguments.iter().find(|(key, _)| key.eq_ignore_ascii_case("mac"));
    let text = conf["runtimeConfig"]["mac"]
        .as_str()
        .or_else(|| conf["args"]["cni"]["mac"].as_str())
        .or_else(|| argument.map(|(_, value)| value.as_str()))
        .filter(|text| !text.is_empty());
    text.map(|text| {
        parse_mac(text).ok_or_else(|| {
            BuiltInError::configuration(format!("`{text}` is not a hardware address"))
        })
    })
    .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_read_and_written() {
        assert_eq!(parse_mac("02:00:5e:10:00:aF"), Some([2, 0, 0x5e, 0x10, 0, 0xaf]));
        assert_eq!(mac_text([2, 0, 0x5e, 0x10, 0, 0xaf]), "02:00:5e:10:00:af");
        for text in ["", "02:00:5e:10:00", "02:00:5e:10:00:01:02", "01:00:5e:10:00:01", "x"] {
            assert_eq!(parse_mac(text), None, "{text}");
        }
    }
}
