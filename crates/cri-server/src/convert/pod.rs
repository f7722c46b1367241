//! Pod sandboxes.

use cri_api::v1;
use model::{DnsConfig, PodConfig, PodName, PortMapping, PortProtocol};
use prost::Message;
use prost::bytes::Bytes;
use sandbox::{Index, LookupError, PodPhase, PodRecord, PodView};

use super::{ConvertError, FilterError, WantedId, known, resources, security};

pub(crate) fn config(config: v1::PodSandboxConfig) -> Result<PodConfig, ConvertError> {
    let metadata = config.metadata.ok_or(ConvertError::Missing("metadata of the pod"))?;
    let linux = config.linux.unwrap_or_default();
    Ok(PodConfig {
        name: PodName {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            attempt: metadata.attempt,
        },
        hostname: config.hostname,
        log_directory: config.log_directory,
        dns: config.dns_config.map(|dns| DnsConfig {
            servers: dns.servers,
            searches: dns.searches,
            options: dns.options,
        }),
        port_mappings: config.port_mappings.into_iter().map(port).collect::<Result<_, _>>()?,
        labels: config.labels,
        annotations: config.annotations,
        cgroup_parent: linux.cgroup_parent,
        sysctls: linux.sysctls,
        overhead: linux.overhead.map(resources::from_cri),
        resources: linux.resources.map(resources::from_cri),
        security: security::pod(linux.security_context)?,
    })
}

fn port(mapping: v1::PortMapping) -> Result<PortMapping, ConvertError> {
    let valid = |port: i32| (0..=65535).contains(&port);
    if !valid(mapping.container_port) || mapping.host_port > 65535 {
        return Err(ConvertError::OutOfRange {
            field: "port_mappings",
            value: format!("{}:{}", mapping.host_port, mapping.container_port),
            want: "ports up to 65535",
        });
    }
    Ok(PortMapping {
        protocol: match known::<v1::Protocol>("port_mappings.protocol", mapping.protocol)? {
            v1::Protocol::Tcp => PortProtocol::Tcp,
            v1::Protocol::Udp => PortProtocol::Udp,
            v1::Protocol::Sctp => PortProtocol::Sctp,
        },
        container_port: mapping.container_port,
        host_port: mapping.host_port,
        host_ip: mapping.host_ip,
    })
}

pub(super) fn protocol_to_cri(protocol: PortProtocol) -> i32 {
    match protocol {
        PortProtocol::Tcp => v1::Protocol::Tcp,
        PortProtocol::Udp => v1::Protocol::Udp,
        PortProtocol::Sctp => v1::Protocol::Sctp,
    }
    .into()
}

pub(crate) fn metadata(name: &PodName) -> v1::PodSandboxMetadata {
    v1::PodSandboxMetadata {
        name: name.name.clone(),
        uid: name.uid.clone(),
        namespace: name.namespace.clone(),
        attempt: name.attempt,
    }
}

pub(crate) fn state(record: &PodRecord) -> v1::PodSandboxState {
    match record.phase {
        PodPhase::Ready => v1::PodSandboxState::SandboxReady,
        PodPhase::Creating | PodPhase::Stopped => v1::PodSandboxState::SandboxNotready,
    }
}

/// As lists have it, encoded.
pub(crate) fn listed(pod: &PodView) -> Bytes {
    pod.listed(|record| item(record).encode_to_vec())
}

fn item(record: &PodRecord) -> v1::PodSandbox {
    v1::PodSandbox {
        id: record.id.to_string(),
        metadata: Some(metadata(&record.config.name)),
        state: state(record).into(),
        created_at: record.created_at.0,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.handler.clone(),
    }
}

pub(crate) fn status(pod: &PodView) -> v1::PodSandboxStatus {
    let record = &pod.record;
    v1::PodSandboxStatus {
        id: record.id.to_string(),
        metadata: Some(metadata(&record.config.name)),
        state: state(record).into(),
        created_at: record.created_at.0,
        network: Some(network(pod)),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace {
                options: Some(security::namespaces_to_cri(&record.config.security.namespaces)),
            }),
        }),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.handler.clone(),
    }
}

/// CRI: no address once the namespace is closed, none for host network.
fn network(pod: &PodView) -> v1::PodSandboxNetworkStatus {
    let ips = pod.record.network.as_ref().filter(|_| !pod.network_closed).map(|n| &n.ips);
    let mut ips = ips.into_iter().flatten().map(ToString::to_string);
    v1::PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| v1::PodIp { ip }).collect(),
    }
}

/// CRI: every field that is set must fit.
pub(crate) struct Filter {
    id: WantedId,
    state: Option<v1::PodSandboxState>,
    labels: model::StringMap,
}

impl Filter {
    pub(crate) fn new(
        filter: Option<v1::PodSandboxFilter>,
        index: &Index,
    ) -> Result<Self, FilterError> {
        let filter = filter.unwrap_or_default();
        let state = filter.state.map(|state| known("filter.state", state.state)).transpose()?;
        Ok(Self { id: wanted(&filter.id, index)?, state, labels: filter.label_selector })
    }

    pub(crate) fn of_stats(
        filter: Option<v1::PodSandboxStatsFilter>,
        index: &Index,
    ) -> Result<Self, FilterError> {
        let filter = filter.unwrap_or_default();
        Ok(Self { id: wanted(&filter.id, index)?, state: None, labels: filter.label_selector })
    }

    pub(crate) fn fits(&self, pod: &PodView) -> bool {
        self.id.fits(pod.record.id.as_str())
            && self.state.is_none_or(|wanted| wanted == state(&pod.record))
            && selects(&self.labels, &pod.record.config.labels)
    }
}

pub(super) fn wanted(id: &str, index: &Index) -> Result<WantedId, LookupError> {
    WantedId::new(id, |id| Ok(index.pod(id)?.record.id.to_string()))
}

/// CRI `label_selector`: equality on every pair.
pub(crate) fn selects(selector: &model::StringMap, labels: &model::StringMap) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
