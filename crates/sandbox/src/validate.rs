//! What a pod may not ask for, said before anything is made.

use model::{IdMapping, NamespaceMode, PodConfig};

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
    /// CRI: one range of users and one of groups, both beginning with root.
    #[error("userns_options.{field} of the pod is {value}: want {want}")]
    IdMapping {
        /// `uids` or `gids`.
        field: &'static str,
        /// As requested: `container:host:length`, …
        value: String,
        /// What would be right.
        want: &'static str,
    },
    /// The host's UTS namespace has its own name.
    #[error("hostname `{0}` cannot be set: the pod uses the host's network and UTS namespaces")]
    HostnameOfHost(String),
    /// A host name the kernel refuses, or that is none in a file.
    #[error("hostname `{}` is longer than 64 bytes or holds white space or control characters", .0.escape_debug())]
    Hostname(String),
    /// More than one word where a line of `resolv.conf` has one.
    #[error("dns_config.{field} has `{}`: want no white space or control characters", .value.escape_debug())]
    Dns {
        /// `servers`, `searches`, `options`.
        field: &'static str,
        /// The refused entry.
        value: String,
    },
    /// The user of the pod's process.
    #[error("the pod's process cannot run as asked")]
    User(#[source] bundle::UserError),
    /// What plugins could not be told.
    #[error("the pod's network cannot be described to plugins")]
    Network(#[source] cni::RequestError),
    /// A kernel parameter that is the host's.
    #[error("kernel parameters of the pod cannot be set")]
    Sysctl(#[source] Box<bundle::SpecError>),
    /// A part of its SELinux label.
    #[error("the pod cannot be labelled")]
    Selinux(#[source] Box<bundle::SpecError>),
    /// A cgroup of the other driver, or one that systemd would not have there.
    #[error(transparent)]
    CgroupParent(crate::scopes::ParentError),
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
    dns(config)?;
    // No image's files could name a pod's user.
    bundle::resolve_user(&config.security.run_as, "", "", "").map_err(InvalidPod::User)?;
    // CRI: ports and bandwidth are for a network of the pod's own.
    if config.security.namespaces.network == NamespaceMode::Pod {
        cni::check_pod(name, &config.port_mappings, &config.annotations)
            .map_err(InvalidPod::Network)?;
    }
    bundle::pod_sysctls(config).map_err(|source| InvalidPod::Sysctl(Box::new(source)))?;
    for (field, path) in
        [("log_directory", &config.log_directory), ("cgroup_parent", &config.cgroup_parent)]
    {
        let relative = field == "log_directory" && !path.starts_with('/');
        let inside = path.split('/').all(|part| part != "..") && !path.contains('\0');
        if !path.is_empty() && (relative || !inside) {
            return Err(InvalidPod::Path { field, path: path.clone() });
        }
    }
    Ok(())
}

/// What could be no SELinux label, on every host.
pub(crate) fn labels(config: &PodConfig, host: &bundle::HostFacts) -> Result<(), InvalidPod> {
    bundle::selinux_labels(config.security.selinux.as_ref(), None, false, host)
        .map(|_labels| ())
        .map_err(|source| InvalidPod::Selinux(Box::new(source)))
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
    let Some(users) = &options.userns else { return Ok(()) };
    match users.mode {
        NamespaceMode::Node => {
            let want = "none in mode NODE";
            none("uids", &users.maps.uids, want).and_then(|()| none("gids", &users.maps.gids, want))
        }
        NamespaceMode::Pod => {
            mapping("uids", &users.maps.uids).and_then(|()| mapping("gids", &users.maps.gids))
        }
        mode @ (NamespaceMode::Container | NamespaceMode::Target) => {
            Err(InvalidPod::Mode { namespace: "user", mode })
        }
    }
}

fn none(field: &'static str, map: &[IdMapping], want: &'static str) -> Result<(), InvalidPod> {
    if map.is_empty() { Ok(()) } else { Err(bad_mapping(field, map, want)) }
}

/// The last id is no id: it stands for "none".
fn mapping(field: &'static str, map: &[IdMapping]) -> Result<(), InvalidPod> {
    let [range] = map else {
        return Err(bad_mapping(field, map, "exactly one mapping"));
    };
    if range.container_id != 0 {
        Err(bad_mapping(field, map, "a range that begins with id 0 of the container"))
    } else if range.length == 0 {
        Err(bad_mapping(field, map, "a length of at least 1"))
    } else if range.host_id > u32::MAX - range.length {
        Err(bad_mapping(field, map, "ids of the host below 4294967295"))
    } else {
        Ok(())
    }
}

fn bad_mapping(field: &'static str, map: &[IdMapping], want: &'static str) -> InvalidPod {
    let value = match map {
        [] => "empty".to_owned(),
        ranges => ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    InvalidPod::IdMapping { field, value, want }
}

/// What would end a word or a line of the files made of it.
fn breaks(letter: char) -> bool {
    letter.is_whitespace() || letter.is_control()
}

/// CRI: one server a line; searches and options are words of one line each.
fn dns(config: &PodConfig) -> Result<(), InvalidPod> {
    let Some(dns) = &config.dns else { return Ok(()) };
    for (field, values) in
        [("servers", &dns.servers), ("searches", &dns.searches), ("options", &dns.options)]
    {
        if let Some(value) = values.iter().find(|value| value.contains(breaks)) {
            return Err(InvalidPod::Dns { field, value: value.clone() });
        }
    }
    Ok(())
}

fn hostname(config: &PodConfig) -> Result<(), InvalidPod> {
    let hostname = &config.hostname;
    if hostname.len() > 64 || hostname.contains(breaks) {
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
    use model::{IdMaps, NamespaceOptions, PodName, UserNamespace};

    fn pod_of(edit: impl FnOnce(&mut PodConfig)) -> PodConfig {
        let mut config = PodConfig::new(PodName {
            name: "n".into(),
            namespace: "ns".into(),
            uid: "u".into(),
            attempt: 0,
        });
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
        ];
        for config in cases {
            assert!(pod(&config).is_err(), "{config:?}");
        }
    }

    fn with_users(mode: NamespaceMode, uids: &[IdMapping], gids: &[IdMapping]) -> PodConfig {
        pod_of(|c| {
            let users =
                UserNamespace { mode, maps: IdMaps { uids: uids.to_vec(), gids: gids.to_vec() } };
            c.security.namespaces.userns = Some(users);
        })
    }

    #[test]
    fn a_user_namespace_needs_one_range_each_that_begins_with_root() {
        let range = |container_id, host_id, length| IdMapping { host_id, container_id, length };
        let fine = range(0, 100_000, 65_536);
        let bad = [
            (&[][..], "uids of the pod is empty: want exactly one mapping"),
            (
                &[fine, range(65_536, 200_000, 1)],
                "0:100000:65536, 65536:200000:1: want exactly one",
            ),
            (&[range(1, 100_000, 10)], "is 1:100000:10: want a range that begins with id 0"),
            (&[range(0, 100_000, 0)], "is 0:100000:0: want a length"),
            (&[range(0, u32::MAX, 1)], "is 0:4294967295:1: want ids of the host below"),
            (&[range(0, u32::MAX - 9, 10)], "is 0:4294967286:10: want ids of the host below"),
        ];
        for (map, text) in bad {
            let error = pod(&with_users(NamespaceMode::Pod, map, &[fine])).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
            let error = pod(&with_users(NamespaceMode::Pod, &[fine], map)).unwrap_err().to_string();
            assert!(error.contains("gids"), "{error}");
        }
        pod(&with_users(NamespaceMode::Pod, &[fine], &[range(0, u32::MAX - 10, 10)])).unwrap();
        pod(&with_users(NamespaceMode::Node, &[], &[])).unwrap();
        let error = pod(&with_users(NamespaceMode::Node, &[fine], &[])).unwrap_err().to_string();
        assert!(error.contains("none in mode NODE"), "{error}");
        for mode in [NamespaceMode::Container, NamespaceMode::Target] {
            let error = pod(&with_users(mode, &[fine], &[fine])).unwrap_err().to_string();
            assert!(error.contains("user namespace of a pod"), "{error}");
        }
    }

    #[test]
    fn what_files_and_plugins_could_not_be_told_is_refused_by_value() {
        let port = |host_ip: &str| model::PortMapping {
            protocol: model::PortProtocol::Tcp,
            container_port: 80,
            host_port: 8080,
            host_ip: host_ip.into(),
        };
        let dns = |of: fn(&mut model::DnsConfig) -> &mut Vec<String>, value: &str| {
            let mut dns = model::DnsConfig::default();
            of(&mut dns).push(value.into());
            Some(dns)
        };
        type Edit<'a> = &'a dyn Fn(&mut PodConfig);
        let rows: &[(Edit<'_>, &str)] = &[
            (&|c| c.hostname = "a\nb".into(), "hostname `a\\nb`"),
            (&|c| c.hostname = "a b".into(), "hostname `a b`"),
            (&|c| c.hostname = "a\u{7f}".into(), "hostname `a\\u{7f}`"),
            (&|c| c.dns = dns(|d| &mut d.servers, "1.1.1.1\nx"), "dns_config.servers"),
            (&|c| c.dns = dns(|d| &mut d.searches, "a b"), "dns_config.searches has `a b`"),
            (&|c| c.dns = dns(|d| &mut d.options, "a\0"), "dns_config.options has `a\\0`"),
            (&|c| c.security.run_as.user = Some(-1), "run_as_user -1"),
            (&|c| c.security.run_as.user = Some(1 << 31), "run_as_user 2147483648"),
            (&|c| c.security.run_as.group = Some(5), "run_as_group is set without"),
            (&|c| c.security.run_as.supplemental_groups = vec![-5], "supplemental group -5"),
            (&|c| c.port_mappings = vec![port("not-an-ip")], "host_ip is `not-an-ip`"),
            (&|c| c.port_mappings = vec![port("10.0.0.1\n")], "host_ip is `10.0.0.1\\n`"),
            (
                &|c| drop(c.annotations.insert(BANDWIDTH.into(), "fast".into())),
                "annotation kubernetes.io/egress-bandwidth: `fast`",
            ),
            (&|c| c.name.name = "a;b".into(), "K8S_POD_NAME `a;b`"),
            (&|c| c.log_directory = "/a\0b".into(), "log_directory"),
        ];
        for (edit, words) in rows {
            let error = crate::error::chain(&pod(&pod_of(edit)).unwrap_err());
            assert!(error.contains(words), "{error}: want {words}");
        }
    }

    const BANDWIDTH: &str = "kubernetes.io/egress-bandwidth";

    #[test]
    fn a_pod_on_the_hosts_network_has_no_use_for_ports_and_bandwidth() {
        let config = pod_of(|c| {
            c.security.namespaces.network = NamespaceMode::Node;
            c.annotations.insert(BANDWIDTH.into(), "fast".into());
        });
        pod(&config).unwrap();
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
