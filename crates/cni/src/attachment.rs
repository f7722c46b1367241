//! What the daemon hands the engine about a pod, and what plugins are told of it.

use std::net::IpAddr;
use std::path::PathBuf;

use model::{PodName, PortMapping, StringMap};
use serde_json::{Map, Value, json};

use crate::bandwidth::{self, BandwidthError};

/// A pod to attach to the network, or to detach from it.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// The sandbox; plugins know it as `CNI_CONTAINERID`.
    pub sandbox: model::SandboxId,
    /// The pod's names.
    pub pod: model::PodName,
    /// The pinned network namespace. It may be gone when the pod is detached.
    pub netns_path: PathBuf,
    /// Published ports.
    pub port_mappings: Vec<model::PortMapping>,
    /// Resolver settings.
    pub dns: Option<model::DnsConfig>,
    /// The pod's annotations.
    pub annotations: model::StringMap,
    /// The pod's parent cgroup.
    pub cgroup_parent: String,
}

/// Why a pod cannot be described to plugins.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A bandwidth annotation is not a bandwidth.
    #[error(transparent)]
    Bandwidth(#[from] BandwidthError),
    /// A published port listens on no address.
    #[error("port_mappings.host_ip is `{value}`: want an address, or nothing for all")]
    HostAddress {
        /// The refused value.
        value: String,
    },
    /// A name holds the separator of `CNI_ARGS`.
    #[error("{key} `{value}` cannot be passed to CNI plugins: it holds `;`")]
    Argument {
        /// The key of `CNI_ARGS`.
        key: &'static str,
        /// The refused value.
        value: String,
    },
    /// A network annotation cannot be read, or asks for what is not served.
    #[error("annotation {annotation}: {what}")]
    Malformed {
        /// The annotation's key.
        annotation: &'static str,
        /// What is wrong.
        what: String,
    },
    /// The pod may not have this network.
    #[error(
        "annotation {annotation}: pods may not ask for network `{network}`: `cni.pod_networks` \
         does not name it"
    )]
    NotAllowed {
        /// The annotation's key.
        annotation: &'static str,
        /// The network.
        network: String,
    },
    /// An interface cannot be called this, or two are.
    #[error("`{name}` cannot be the name of one more interface of the pod")]
    Interface {
        /// The name.
        name: String,
    },
}

/// Refuses a pod that no plugin could be told of, before anything is made for it.
///
/// # Errors
/// [`RequestError`]: [`Bandwidth`](RequestError::Bandwidth),
/// [`HostAddress`](RequestError::HostAddress), [`Argument`](RequestError::Argument).
pub fn check_pod(
    pod: &PodName,
    port_mappings: &[PortMapping],
    annotations: &StringMap,
) -> Result<(), RequestError> {
    for value in port_mappings.iter().map(|port| &port.host_ip) {
        if !value.is_empty() && value.parse::<IpAddr>().is_err() {
            let value = value.escape_debug().to_string();
            return Err(RequestError::HostAddress { value });
        }
    }
    bandwidth(annotations)?;
    names(pod)?;
    Ok(())
}

/// A pod's names by their keys in `CNI_ARGS`.
fn names(pod: &PodName) -> Result<[(&'static str, &str); 3], RequestError> {
    let names = [
        ("K8S_POD_NAMESPACE", pod.namespace.as_str()),
        ("K8S_POD_NAME", pod.name.as_str()),
        ("K8S_POD_UID", pod.uid.as_str()),
    ];
    match names.iter().find(|(_, value)| value.contains(';')) {
        Some((key, value)) => Err(RequestError::Argument { key, value: (*value).to_owned() }),
        None => Ok(names),
    }
}

fn bandwidth(annotations: &StringMap) -> Result<Option<Value>, RequestError> {
    const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
    const EGRESS: &str = "kubernetes.io/egress-bandwidth";
    let mut out = Map::new();
    for (annotation, rate, burst) in
        [(INGRESS, "ingressRate", "ingressBurst"), (EGRESS, "egressRate", "egressBurst")]
    {
        if let Some(value) = annotations.get(annotation) {
            out.insert(rate.to_owned(), bandwidth::parse(annotation, value)?.into());
            out.insert(burst.to_owned(), u32::MAX.into());
        }
    }
    Ok((!out.is_empty()).then_some(Value::Object(out)))
}

impl Attachment {
    /// The pairs of `CNI_ARGS`.
    pub(crate) fn arguments(&self) -> Result<Vec<(String, String)>, RequestError> {
        let [namespace, name, uid] = names(&self.pod)?;
        // Without the first, plugins fail on the keys they do not know.
        let ignore = ("IgnoreUnknown", "1");
        let sandbox = ("K8S_POD_INFRA_CONTAINER_ID", self.sandbox.as_str());
        let pairs = [ignore, namespace, name, sandbox, uid];
        Ok(pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    /// Every capability's value; a plugin gets those it declares.
    pub(crate) fn capabilities(&self) -> Result<Map<String, Value>, RequestError> {
        let mut out = Map::new();
        let ports: Vec<Value> =
            self.port_mappings.iter().filter(|port| port.host_port > 0).map(port).collect();
        if !ports.is_empty() {
            out.insert("portMappings".to_owned(), Value::Array(ports));
        }
        if let Some(bandwidth) = bandwidth(&self.annotations)? {
            out.insert("bandwidth".to_owned(), bandwidth);
        }
        if let Some(dns) = &self.dns {
            let value = json!({
                "servers": dns.servers,
                "searches": dns.searches,
                "options": dns.options,
            });
            out.insert("dns".to_owned(), value);
        }
        if !self.cgroup_parent.is_empty() {
            out.insert("cgroupPath".to_owned(), self.cgroup_parent.clone().into());
        }
        if !self.annotations.is_empty() {
            let value = self.annotations.iter().map(|(k, v)| (k.clone(), v.clone().into()));
            out.insert(
                "io.kubernetes.cri.pod-annotations".to_owned(),
                Value::Object(value.collect()),
            );
        }
        Ok(out)
    }
}

fn port(mapping: &model::PortMapping) -> Value {
    let protocol = match mapping.protocol {
        model::PortProtocol::Tcp => "tcp",
        model::PortProtocol::Udp => "udp",
        model::PortProtocol::Sctp => "sctp",
    };
    json!({
        "hostPort": mapping.host_port,
        "containerPort": mapping.container_port,
        "protocol": protocol,
        "hostIP": mapping.host_ip,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{PortProtocol, SandboxId};

    fn pod() -> Attachment {
        Attachment {
            sandbox: SandboxId::from_random([1; 32]),
            pod: PodName {
                name: "web".to_owned(),
                namespace: "shop".to_owned(),
                uid: "u-1".to_owned(),
                attempt: 0,
            },
            netns_path: "/run/netns/x".into(),
            port_mappings: Vec::new(),
            dns: None,
            annotations: model::StringMap::new(),
            cgroup_parent: String::new(),
        }
    }

    #[test]
    fn plain_pods_have_no_capability_values() {
        assert!(pod().capabilities().unwrap().is_empty());
        let arguments = pod().arguments().unwrap();
        assert_eq!(arguments[0], ("IgnoreUnknown".to_owned(), "1".to_owned()));
        assert_eq!(arguments[2].1, "web");
    }

    #[test]
    fn only_published_ports_are_passed() {
        let mapping = |host_port| PortMapping {
            protocol: PortProtocol::Udp,
            container_port: 53,
            host_port,
            host_ip: String::new(),
        };
        let pod = Attachment { port_mappings: vec![mapping(0), mapping(5353)], ..pod() };
        let want =
            json!([{"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": ""}]);
        assert_eq!(pod.capabilities().unwrap()["portMappings"], want);
    }

    #[test]
    fn bandwidth_annotations_are_parsed_or_refused() {
        let mut pod = pod();
        pod.annotations.insert("kubernetes.io/ingress-bandwidth".to_owned(), "10M".to_owned());
        let got = pod.capabilities().unwrap();
        let want = json!({"ingressRate": 10_000_000, "ingressBurst": 4_294_967_295_u32});
        assert_eq!(got["bandwidth"], want);
        pod.annotations.insert("kubernetes.io/egress-bandwidth".to_owned(), "fast".to_owned());
        assert!(pod.capabilities().is_err());
    }

    #[test]
    fn a_name_cannot_inject_arguments() {
        let mut pod = pod();
        pod.pod.name = "web;CNI_X=1".to_owned();
        assert!(matches!(pod.arguments(), Err(RequestError::Argument { .. })));
    }
}
