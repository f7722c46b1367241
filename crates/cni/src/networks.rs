//! Which networks a pod is attached to: those of every pod, and those it asks for itself in the
//! annotations of the Network Plumbing Working Group, as far as the operator allows it.
//!
//! Who may join a network is the operator's decision, not that of whoever writes pods: without
//! `pod_networks` the annotations are not even read, so that a plugin such as Multus can.

use std::collections::HashSet;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use sys::netlink::IpPrefix;

use crate::attachment::{Attachment, RequestError};
use crate::conf::NetworkList;
use crate::engine::{Engine, IFNAME};
use crate::errors::AddError;

/// Further networks: `name@interface, namespace/name` or a JSON list of objects.
const FURTHER: &str = "k8s.v1.cni.cncf.io/networks";
/// One network in place of the first.
const FIRST: &str = "v1.multus-cni.io/default-network";

/// One network of a pod, and how it wants it.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) list: NetworkList,
    pub(crate) ifname: String,
    /// The network whose addresses are the pod's.
    pub(crate) is_first: bool,
    ips: Vec<String>,
    mac: Option<String>,
}

/// A network as an annotation asks for it. What is not served is refused, not passed over.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    name: String,
    /// Networks are the node's here and have no namespace.
    #[serde(default, rename = "namespace")]
    _namespace: String,
    #[serde(default)]
    interface: Option<String>,
    #[serde(default)]
    ips: Vec<String>,
    #[serde(default)]
    mac: Option<String>,
}

impl Engine {
    /// The networks of a pod in the order in which it is attached to them; at least one.
    pub(crate) fn plan(&self, attachment: &Attachment) -> Result<Vec<Planned>, AddError> {
        let sandbox = || attachment.sandbox.clone();
        let refused = |source| AddError::Request { sandbox: sandbox(), source };
        let requests = |annotation| self.requests(attachment, annotation).map_err(refused);
        let unusable = |source| AddError::Configuration { sandbox: sandbox(), source };
        let unknown = |source| AddError::Network { sandbox: sandbox(), source };

        let mut lists = self.lists().map_err(unusable)?.into_iter();
        let mut first = lists.next().map(|list| planned(list, IFNAME.to_owned(), None));
        if let Some(request) = requests(FIRST)?.first() {
            let list = self.list_named(&request.name).map_err(unknown)?;
            first = Some(planned(list, IFNAME.to_owned(), Some(request)));
        }
        let mut out: Vec<Planned> = first.into_iter().collect();
        if let Some(first) = out.first_mut() {
            first.is_first = true;
            let published = attachment.port_mappings.iter().any(|port| port.host_port > 0);
            let unserved = published && !first.list.declares("portMappings");
            if unserved && self.config.serve_host_ports {
                first.list.add_portmap();
            }
        }
        out.extend(lists.zip(1..).map(|(list, at)| planned(list, format!("eth{at}"), None)));
        for (request, at) in requests(FURTHER)?.iter().zip(1..) {
            let list = self.list_named(&request.name).map_err(unknown)?;
            let ifname = request.interface.clone().unwrap_or_else(|| format!("net{at}"));
            out.push(planned(list, ifname, Some(request)));
        }
        distinct(&out).map_err(refused)?;
        Ok(out)
    }

    fn requests(
        &self,
        attachment: &Attachment,
        annotation: &'static str,
    ) -> Result<Vec<Request>, RequestError> {
        let text = attachment.annotations.get(annotation).map_or("", |text| text.trim());
        if self.config.pod_networks.is_empty() || text.is_empty() {
            return Ok(Vec::new());
        }
        let requests = parse(annotation, text)?;
        for request in &requests {
            if !self.config.pod_networks.contains(&request.name) {
                let network = request.name.clone();
                return Err(RequestError::NotAllowed { annotation, network });
            }
        }
        Ok(requests)
    }

    /// What plugins are told of a pod, by capability. Further networks get no host ports and no
    /// bandwidth: both are the pod's once.
    pub(crate) fn capabilities(
        &self,
        attachment: &Attachment,
        network: &Planned,
    ) -> Result<Map<String, Value>, RequestError> {
        let mut out = attachment.capabilities()?;
        if network.is_first {
            let ranges = self.pod_ranges();
            if !ranges.is_empty() {
                let set = |range: &IpPrefix| json!([{ "subnet": range.to_string() }]);
                out.insert("ipRanges".to_owned(), ranges.iter().map(set).collect());
            }
        } else {
            out.remove("portMappings");
            out.remove("bandwidth");
        }
        if !network.ips.is_empty() {
            out.insert("ips".to_owned(), network.ips.clone().into());
        }
        if let Some(mac) = &network.mac {
            out.insert("mac".to_owned(), mac.clone().into());
        }
        Ok(out)
    }
}

fn planned(list: NetworkList, ifname: String, request: Option<&Request>) -> Planned {
    Planned {
        list,
        ifname,
        is_first: false,
        ips: request.map(|request| request.ips.clone()).unwrap_or_default(),
        mac: request.and_then(|request| request.mac.clone()),
    }
}

fn distinct(networks: &[Planned]) -> Result<(), RequestError> {
    let mut seen = HashSet::new();
    for network in networks {
        let name = network.ifname.as_str();
        if !is_interface(name) || name == "lo" || !seen.insert(name) {
            return Err(RequestError::Interface { name: name.to_owned() });
        }
    }
    Ok(())
}

/// The kernel's rule for names of interfaces.
pub(crate) fn is_interface(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
    (1..=15).contains(&name.len()) && name.bytes().all(fits) && name != "." && name != ".."
}

fn parse(annotation: &'static str, text: &str) -> Result<Vec<Request>, RequestError> {
    let malformed = |what: String| RequestError::Malformed { annotation, what };
    let requests: Vec<Request> = if text.starts_with('[') {
        serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?
    } else {
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(short).collect()
    };
    for request in &requests {
        let address =
            |text: &String| text.parse::<IpAddr>().is_ok() || text.parse::<IpPrefix>().is_ok();
        if let Some(bad) = request.ips.iter().find(|text| !address(text)) {
            return Err(malformed(format!("`{bad}` is not an address")));
        }
        if let Some(bad) = request.mac.iter().find(|text| crate::builtin::parse_mac(text).is_none())
        {
            return Err(malformed(format!("`{bad}` is not a hardware address")));
        }
    }
    Ok(requests)
}

/// `[namespace/]name[@interface]`
fn short(text: &str) -> Request {
    let (name, interface) = match text.split_once('@') {
        Some((name, interface)) => (name, Some(interface.to_owned())),
        None => (text, None),
    };
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    Request {
        name: name.to_owned(),
        _namespace: namespace.to_owned(),
        interface,
        ips: Vec::new(),
        mac: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Vec<String>, String> {
        let requests = parse(FURTHER, text).map_err(|error| error.to_string())?;
        let text = |r: &Request| format!("{}@{}", r.name, r.interface.as_deref().unwrap_or("-"));
        Ok(requests.iter().map(text).collect())
    }

    #[test]
    fn both_forms_of_the_annotation_are_read() {
        let table = [
            ("storage", vec!["storage@-"]),
            ("kube-system/storage@fast0, backup", vec!["storage@fast0", "backup@-"]),
            (
                r#"[{"name":"a","namespace":"x","interface":"b0"},{"name":"c"}]"#,
                vec!["a@b0", "c@-"],
            ),
        ];
        for (text, want) in table {
            assert_eq!(names(text).unwrap(), want);
        }
        let text = r#"[{"name":"a","ips":["10.0.0.9","fd00::9/64"],"mac":"02:00:00:00:00:01"}]"#;
        let requests = parse(FURTHER, text).unwrap();
        assert_eq!(requests[0].ips, ["10.0.0.9", "fd00::9/64"]);
        assert_eq!(requests[0].mac.as_deref(), Some("02:00:00:00:00:01"));
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        let table = [
            ("[", "EOF"),
            (r#"[{"name":"a","bandwidth":{}}]"#, "unknown field `bandwidth`"),
            (r#"[{"name":"a","ips":["here"]}]"#, "`here` is not an address"),
            (r#"[{"name":"a","mac":"x"}]"#, "`x` is not a hardware address"),
        ];
        for (text, want) in table {
            let error = names(text).unwrap_err();
            assert!(error.contains(want) && error.contains(FURTHER), "{error}");
        }
    }
}
