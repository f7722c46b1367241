//! What a pod may not ask for, said before anything is made.

use model::{NamespaceMode, PodConfig};

/// A pod configuration that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum InvalidPod {
    /// A part of its identity is missing.
    #[error("metadata.{0} of the pod is empty")]
    EmptyName(&'static str),
    /// A namespace mode that makes no sense for a pod.
    #[error("namespace mode {mode:?} is not valid for the {namespace} namespace of a pod")]
    Mode {
        /// `network`, `pid`, `ipc`.
        namespace: &'static str,
        /// As requested.
        mode: NamespaceMode,
    },
    /// User namespaces are not served yet.
    #[error("pod user namespaces are not supported by this version of knarr")]
    UserNamespace,
    /// The host's UTS namespace has its own name.
    #[error("hostname `{0}` cannot be set: the pod uses the host's network and UTS namespaces")]
    HostnameOfHost(String),
    /// A host name the kernel refuses.
    #[error("hostname `{0}` is longer than 64 bytes or holds a NUL")]
    Hostname(String),
    /// A kernel parameter that is the host's.
    #[error("kernel parameters of the pod cannot be set")]
    Sysctl(#[source] Box<bundle::SpecError>),
    /// Paths must be absolute.
    #[error("{field} `{path}` is not an absolute path without `..`")]
    Path {
        /// Which field.
        field: &'static str,
        /// As requested.
        path: String,
    },
}

pub(crate) fn pod(config: &PodConfig) -> Result<(), InvalidPod> {
    let name = &config.name;
    for (field, value) in [("name", &name.name), ("namespace", &name.namespace), ("uid", &name.uid)]
    {
        if value.is_empty() {
            return Err(InvalidPod::EmptyName(field));
        }
    }
    namespaces(config)?;
    hostname(config)?;
    bundle::pod_sysctls(config).map_err(|source| InvalidPod::Sysctl(Box::new(source)))?;
    for (field, path) in
        [("log_directory", &config.log_directory), ("cgroup_parent", &config.cgroup_parent)]
    {
        let relative = field == "log_directory" && !path.starts_with('/');
        if !path.is_empty() && (relative || path.split('/').any(|part| part == "..")) {
            return Err(InvalidPod::Path { field, path: path.clone() });
        }
    }
    Ok(())
}

fn namespaces(config: &PodConfig) -> Result<(), InvalidPod> {
    let options = &config.security.namespaces;
    for (namespace, mode) in [("network", options.network), ("ipc", options.ipc)] {
        match mode {
            NamespaceMode::Pod | NamespaceMode::Node => {}
            NamespaceMode::Container | NamespaceMode::Target => {
                return Err(InvalidPod::Mode { namespace, mode });
            }
        }
    }
    match options.pid {
        NamespaceMode::Pod | NamespaceMode::Container | NamespaceMode::Node => {}
        mode @ NamespaceMode::Target => return Err(InvalidPod::Mode { namespace: "pid", mode }),
    }
    match options.userns.as_ref().map(|userns| userns.mode) {
        None | Some(NamespaceMode::Node) => Ok(()),
        Some(NamespaceMode::Pod) => Err(InvalidPod::UserNamespace),
        Some(mode @ (NamespaceMode::Container | NamespaceMode::Target)) => {
            Err(InvalidPod::Mode { namespace: "user", mode })
        }
    }
}

fn hostname(config: &PodConfig) -> Result<(), InvalidPod> {
    let hostname = &config.hostname;
    if hostname.len() > 64 || hostname.contains('\0') {
        return Err(InvalidPod::Hostname(hostname.clone()));
    }
    if !hostname.is_empty() && config.security.namespaces.network == NamespaceMode::Node {
        return Err(InvalidPod::HostnameOfHost(hostname.clone()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{NamespaceOptions, PodName, PodSecurity, UserNamespace};

    fn pod_of(edit: impl FnOnce(&mut PodConfig)) -> PodConfig {
        let mut config = PodConfig {
            name: PodName { name: "n".into(), namespace: "ns".into(), uid: "u".into(), attempt: 0 },
            hostname: String::new(),
            log_directory: String::new(),
            dns: None,
            port_mappings: Vec::new(),
            labels: Default::default(),
            annotations: Default::default(),
            cgroup_parent: String::new(),
            sysctls: Default::default(),
            overhead: None,
            resources: None,
            security: PodSecurity::default(),
        };
        edit(&mut config);
        config
    }

    #[test]
    fn what_would_reach_the_host_is_refused_by_name() {
        let node = NamespaceOptions { network: NamespaceMode::Node, ..Default::default() };
        let with_node = |c: &mut PodConfig| c.security.namespaces = node.clone();
        let cases = [
            pod_of(|c| c.name.uid = String::new()),
            pod_of(|c| c.security.namespaces.network = NamespaceMode::Container),
            pod_of(|c| c.security.namespaces.ipc = NamespaceMode::Target),
            pod_of(|c| c.security.namespaces.pid = NamespaceMode::Target),
            pod_of(|c| {
                with_node(c);
                c.hostname = "h".into();
            }),
            pod_of(|c| {
                with_node(c);
                c.sysctls.insert("net.core.somaxconn".into(), "1".into());
            }),
            pod_of(|c| {
                c.sysctls.insert("kernel.panic".into(), "1".into());
            }),
            pod_of(|c| c.log_directory = "logs".into()),
            pod_of(|c| c.log_directory = "/var/log/../../etc".into()),
            pod_of(|c| c.hostname = "h".repeat(65)),
            pod_of(|c| {
                c.security.namespaces.userns = Some(UserNamespace {
                    mode: NamespaceMode::Pod,
                    uids: Vec::new(),
                    gids: Vec::new(),
                });
            }),
        ];
        for config in cases {
            assert!(pod(&config).is_err(), "{config:?}");
        }
    }

    #[test]
    fn an_ordinary_pod_and_namespaced_sysctls_pass() {
        pod(&pod_of(|_| {})).unwrap();
        let config = pod_of(|c| {
            c.hostname = "web-0".into();
            for name in ["net/ipv4/ip_forward", "kernel.shm_rmid_forced", "fs.mqueue.msg_max"] {
                c.sysctls.insert(name.into(), "1".into());
            }
        });
        pod(&config).unwrap();
    }
}
