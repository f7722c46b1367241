//! `tuning`: kernel settings and properties of a pod's interface, after it was made.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use sys::netlink::LinkChange;

use super::veth::{self, in_pod, mac_text, pod_netns};
use super::{BuiltInError, changed, sysctl};
use crate::invoke::{Call, Verb};
use crate::result;

/// Where an operator restricts the settings that configurations may change: a regular expression
/// on each line, one of which must fit somewhere in a setting's name.
const ALLOWLIST: &str = "/etc/cni/tuning/allowlist.conf";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Conf {
    sysctl: std::collections::BTreeMap<String, String>,
    mac: String,
    mtu: u32,
    promisc: Option<bool>,
    allmulti: Option<bool>,
    #[serde(rename = "txQLen")]
    tx_queue_len: Option<u32>,
}

pub(super) fn run(call: &Call<'_>, conf: &Value) -> Result<Value, BuiltInError> {
    let parsed =
        Conf::deserialize(conf).map_err(|error| BuiltInError::configuration(error.to_string()))?;
    match call.verb {
        Verb::Add => add(call, &parsed, conf),
        Verb::Check => check(call, &parsed, conf).map(|()| result::empty()),
        // What was changed goes with the pod's link and namespace.
        Verb::Del | Verb::Status | Verb::Gc => Ok(result::empty()),
    }
}

/// What is asked for, ready to be written.
struct Plan {
    settings: Vec<(PathBuf, String)>,
    change: LinkChange,
}

impl Plan {
    fn new(call: &Call<'_>, conf: &Conf, document: &Value) -> Result<Self, BuiltInError> {
        if !conf.sysctl.is_empty() {
            allowed(conf.sysctl.keys(), Path::new(ALLOWLIST))?;
        }
        let settings = conf
            .sysctl
            .iter()
            .map(|(key, value)| Ok((setting(key, call.ifname)?, value.clone())))
            .collect::<Result<_, BuiltInError>>()?;
        let mac = match veth::wanted_mac(call, document)? {
            None if !conf.mac.is_empty() => Some(veth::parse_mac(&conf.mac).ok_or_else(|| {
                BuiltInError::configuration(format!("`{}` is not a hardware address", conf.mac))
            })?),
            wanted => wanted,
        };
        let change = LinkChange {
            mac,
            mtu: (conf.mtu != 0).then_some(conf.mtu),
            promiscuous: conf.promisc,
            all_multicast: conf.allmulti,
            tx_queue_len: conf.tx_queue_len,
        };
        Ok(Self { settings, change })
    }
}

/// Whether all of the settings fit the list, if there is one.
fn allowed<'a>(keys: impl Iterator<Item = &'a String>, list: &Path) -> Result<(), BuiltInError> {
    let text = match std::fs::read_to_string(list) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(BuiltInError::AllowList { path: list.to_owned(), source }),
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let expressions = lines.map(|line| {
        regex::Regex::new(line).map_err(|error| {
            let what = format!("{}: `{line}` is no regular expression: {error}", list.display());
            BuiltInError::configuration(what)
        })
    });
    let expressions = expressions.collect::<Result<Vec<_>, _>>()?;
    for key in keys {
        if !expressions.iter().any(|expression| expression.is_match(key)) {
            let what = format!("`{key}` fits no line of {}", list.display());
            return Err(BuiltInError::configuration(what));
        }
    }
    Ok(())
}

/// The file of a setting of the pod's network namespace. Nothing else may be changed: other
/// settings are the whole host's.
fn setting(key: &str, ifname: &str) -> Result<PathBuf, BuiltInError> {
    let path = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
    let path = path.replace("IFNAME", ifname);
    let good = path.strip_prefix("net/").is_some_and(|rest| {
        rest.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
    });
    if good {
        Ok(PathBuf::from("/proc/sys").join(path))
    } else {
        let what = format!("`{key}` is not a setting of a network namespace (net.…)");
        Err(BuiltInError::configuration(what))
    }
}

fn add(call: &Call<'_>, conf: &Conf, document: &Value) -> Result<Value, BuiltInError> {
    let mut out = document.get("prevResult").cloned().ok_or_else(|| {
        BuiltInError::configuration("it must come after the plugin that makes the pod's link")
    })?;
    let plan = Plan::new(call, conf, document)?;
    let netns = pod_netns(call)?;
    in_pod(call, &netns, |pod| {
        for (path, value) in &plan.settings {
            if !sysctl::set(path, value)? {
                return Err(BuiltInError::NoSetting { path: path.clone() });
            }
        }
        if plan.change != LinkChange::default() {
            let index = pod.index(call.ifname).map_err(BuiltInError::Socket)?;
            pod.change(index, &plan.change)?;
        }
        Ok(())
    })?;
    let interfaces = out.get_mut("interfaces").and_then(Value::as_array_mut);
    for interface in interfaces.into_iter().flatten() {
        if interface["name"] != call.ifname || super::present::is_host_side(interface) {
            continue;
        }
        if let Some(mac) = plan.change.mac {
            interface["mac"] = mac_text(mac).into();
        }
        if let (Some(mtu), true) = (plan.change.mtu, interface.get("mtu").is_some()) {
            interface["mtu"] = mtu.into();
        }
    }
    Ok(out)
}

fn check(call: &Call<'_>, conf: &Conf, document: &Value) -> Result<(), BuiltInError> {
    let plan = Plan::new(call, conf, document)?;
    let netns = pod_netns(call)?;
    in_pod(call, &netns, |pod| {
        for (path, value) in &plan.settings {
            let present = std::fs::read_to_string(path).unwrap_or_default();
            if !present.split_whitespace().eq(value.split_whitespace()) {
                let what = format!("{} is {}, not {value}", path.display(), present.trim());
                return Err(changed(what));
            }
        }
        let link = pod
            .link(call.ifname)?
            .ok_or_else(|| changed(format!("there is no link {}", call.ifname)))?;
        let differs = plan.change.mac.is_some_and(|mac| link.mac != Some(mac))
            || plan.change.mtu.is_some_and(|mtu| link.mtu != mtu)
            || plan.change.promiscuous.is_some_and(|on| link.promiscuous != on);
        if differs {
            return Err(changed(format!("link {} is not as it was tuned", call.ifname)));
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_of_network_namespaces_are_changed() {
        let path = |key| setting(key, "eth0").map(|path| path.display().to_string()).ok();
        let want = |text: &str| Some(text.to_owned());
        assert_eq!(path("net.core.somaxconn"), want("/proc/sys/net/core/somaxconn"));
        assert_eq!(
            path("net/ipv4/conf/IFNAME/arp_filter"),
            want("/proc/sys/net/ipv4/conf/eth0/arp_filter")
        );
        for key in ["kernel.shmmax", "net/../kernel/shmmax", "net", "net.", "/net/core/x", "net//x"]
        {
            assert_eq!(path(key), None, "{key}");
        }
    }

    #[test]
    fn a_list_of_the_operators_restricts_settings() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("allowlist.conf");
        let asked = |keys: &[&str]| {
            let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            allowed(keys.iter(), &list).map_err(|error| error.to_string())
        };
        asked(&["net.core.somaxconn"]).unwrap();
        std::fs::write(&list, "^net\\.ipv4\\.conf\\.IFNAME\\.[a-z_]*$\n\n  somaxconn\n").unwrap();
        asked(&["net.ipv4.conf.IFNAME.arp_filter", "net.core.somaxconn"]).unwrap();
        let error = asked(&["net.core.somaxconn", "net.ipv4.ip_forward"]).unwrap_err();
        assert!(error.contains("`net.ipv4.ip_forward` fits no line of"), "{error}");
        std::fs::write(&list, "(").unwrap();
        assert!(asked(&["net.core.somaxconn"]).unwrap_err().contains("`(` is no regular"));
        std::fs::write(&list, "").unwrap();
        asked(&["net.core.somaxconn"]).unwrap_err();
    }
}
