//! What a pod needs besides its containers: kernel parameters, and the process that is PID 1 of a
//! shared PID namespace.

use std::collections::HashMap;

use model::{NamespaceMode, PodConfig, Resources, SandboxId, SecurityProfile, StringMap};
use oci_spec::runtime::{
    Linux, LinuxCpu, LinuxDeviceCgroup, LinuxNamespace, LinuxNamespaceType as Kind, LinuxResources,
    LinuxSeccomp, Process, Root, Spec, User,
};

use crate::{
    CapabilityMasks, HostFacts, NamespacePaths, SelinuxLabels, SpecError, apparmor, capability,
    resolve_user, selinux_labels, spec::seccomp,
};

/// The pause process must outlive everything in its pod.
const PAUSE_OOM_SCORE: i32 = -998;

/// The least a cgroup can have: it only sleeps and reaps.
const PAUSE_SHARES: u64 = 2;

/// Everything the pause process's spec depends on.
#[derive(Debug, Clone, Copy)]
pub struct PauseInput<'a> {
    /// The pod's sandbox.
    pub sandbox: &'a SandboxId,
    /// The pod's configuration.
    pub pod: &'a PodConfig,
    /// The sum of its containers' resources, as told last.
    pub resources: Option<&'a Resources>,
    /// `linux.cgroupsPath`.
    pub cgroup_path: &'a str,
    /// The pod's namespaces; `pid` is not looked at, pause makes it.
    pub namespaces: &'a NamespacePaths,
    /// Text of the Localhost seccomp profile, if the pod asks for one.
    pub localhost_seccomp: Option<&'a str>,
    /// The pod's own SELinux level, on hosts with SELinux.
    pub selinux_level: Option<&'a str>,
    /// The host.
    pub host: &'a HostFacts,
}

/// The spec of the pause process: no capabilities, no devices, an empty read-only root, in the
/// pod's namespaces and a new PID namespace.
///
/// # Errors
/// [`SpecError`] names what of the pod's security settings cannot be honoured.
pub fn pause_spec(input: &PauseInput<'_>) -> Result<Spec, SpecError> {
    let asked = input.pod.security.selinux.as_ref();
    let labels = selinux_labels(asked, input.selinux_level, false, input.host)?;
    let mut root = Root::default();
    root.set_path("pause".into()).set_readonly(Some(true));
    // The types' defaults are sample configurations: every field is set here.
    let mut spec = Spec::default();
    spec.set_version("1.0.2".to_owned())
        .set_root(Some(root))
        .set_process(Some(process(input, labels.as_ref())?))
        .set_hostname(None)
        .set_mounts(Some(Vec::new()))
        .set_annotations(Some(annotations(input)))
        .set_linux(Some(linux(input, labels)?));
    Ok(spec)
}

/// What VM runtimes and node tools read of a pod. Its size is told to be planned with: kubelet owns
/// the pod's cgroup.
fn annotations(input: &PauseInput<'_>) -> HashMap<String, String> {
    let name = &input.pod.name;
    let mut own: Vec<(&str, String)> = vec![
        ("container-type", "sandbox".to_owned()),
        ("sandbox-id", input.sandbox.to_string()),
        ("sandbox-namespace", name.namespace.clone()),
        ("sandbox-name", name.name.clone()),
        ("sandbox-uid", name.uid.clone()),
        ("sandbox-log-directory", input.pod.log_directory.clone()),
    ];
    if let Some(resources) = input.resources {
        own.extend([
            ("sandbox-cpu-period", resources.cpu_period_us.to_string()),
            ("sandbox-cpu-quota", resources.cpu_quota_us.to_string()),
            ("sandbox-cpu-shares", resources.cpu_shares.to_string()),
            ("sandbox-memory", resources.memory_limit_bytes.to_string()),
        ]);
    }
    own.into_iter().map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value)).collect()
}

fn process(input: &PauseInput<'_>, labels: Option<&SelinuxLabels>) -> Result<Process, SpecError> {
    // The pod's user is numeric: there is no image whose files could name one.
    let resolved = resolve_user(&input.pod.security.run_as, "", "", "")?;
    let security = &input.pod.security;
    let profile = apparmor::profile(security.apparmor.as_ref(), security.privileged, input.host)?;
    let mut user = User::default();
    user.set_uid(resolved.uid).set_gid(resolved.gid).set_additional_gids(Some(resolved.groups));
    let mut process = Process::default();
    process
        .set_terminal(Some(false))
        .set_user(user)
        .set_args(Some(vec!["/pause".into()]))
        .set_env(Some(Vec::new()))
        .set_cwd("/".into())
        .set_capabilities(Some(capability::to_oci(CapabilityMasks::default())))
        .set_rlimits(None)
        .set_no_new_privileges(Some(true))
        .set_apparmor_profile(profile)
        .set_selinux_label(labels.map(|labels| labels.process.clone()))
        .set_oom_score_adj(Some(PAUSE_OOM_SCORE));
    Ok(process)
}

fn linux(input: &PauseInput<'_>, labels: Option<SelinuxLabels>) -> Result<Linux, SpecError> {
    let paths = input.namespaces;
    let kinds = [(Kind::Network, &paths.net), (Kind::Ipc, &paths.ipc), (Kind::Uts, &paths.uts)];
    let mut namespaces = vec![namespace(Kind::Mount, None), namespace(Kind::Pid, None)];
    let joined = kinds.iter().filter(|(_, path)| path.is_some());
    namespaces.extend(joined.map(|(kind, path)| namespace(*kind, path.as_ref())));
    let users = input.pod.security.namespaces.own_users();
    if users.is_some() {
        namespaces.push(crate::namespaces::user(paths.user.as_ref())?);
    }

    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(PAUSE_SHARES));
    let mut nothing = LinuxDeviceCgroup::default();
    nothing.set_allow(false).set_access(Some("rwm".into()));
    let mut resources = LinuxResources::default();
    resources.set_cpu(Some(cpu)).set_devices(Some(vec![nothing]));

    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces))
        .set_cgroups_path(Some(input.cgroup_path.into()))
        .set_resources(Some(resources))
        .set_seccomp(filter(input)?)
        .set_mount_label(labels.map(|labels| labels.mount))
        .set_masked_paths(None)
        .set_readonly_paths(None);
    if let Some(users) = users {
        linux
            .set_uid_mappings(Some(crate::namespaces::mappings(&users.uids)?))
            .set_gid_mappings(Some(crate::namespaces::mappings(&users.gids)?));
    }
    Ok(linux)
}

fn namespace(kind: Kind, path: Option<&String>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind).set_path(path.map(Into::into));
    namespace
}

fn filter(input: &PauseInput<'_>) -> Result<Option<LinuxSeccomp>, SpecError> {
    match &input.pod.security.seccomp {
        _ if input.pod.security.privileged => Ok(None),
        None | Some(SecurityProfile::Unconfined) => Ok(None),
        Some(SecurityProfile::RuntimeDefault) => {
            seccomp::default_profile(0, input.host.kernel).map(Some)
        }
        Some(SecurityProfile::Localhost(profile)) => {
            let what = "text of the Localhost seccomp profile";
            let text = input.localhost_seccomp.ok_or(SpecError::Missing { what })?;
            seccomp::parse(profile, text).map(Some)
        }
    }
}

/// Kernel parameters of IPC namespaces.
const IPC: &[&str] = &[
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// The kernel parameters of a pod: those asked for, and with a network of its own two that let
/// ordinary users bind low ports and, outside user namespaces, send pings.
///
/// # Errors
/// [`SpecError::Invalid`] for a parameter that is the host's, or belongs to a namespace the pod
/// shares with the host.
pub fn pod_sysctls(pod: &PodConfig) -> Result<StringMap, SpecError> {
    let namespaces = &pod.security.namespaces;
    let own_net = namespaces.network != NamespaceMode::Node;
    let own_ipc = namespaces.ipc != NamespaceMode::Node;
    let mut sysctls = StringMap::new();
    for (name, value) in &pod.sysctls {
        let dotted = name.replace('/', ".");
        let own = if dotted.starts_with("net.") {
            own_net
        } else if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
            own_ipc
        } else {
            false
        };
        if !own || dotted.split('.').any(str::is_empty) {
            let want = "parameters of namespaces that are the pod's own";
            return Err(SpecError::invalid("sysctls", name, want));
        }
        sysctls.insert(name.clone(), value.clone());
    }
    if own_net {
        let mut defaults = vec![("net.ipv4.ip_unprivileged_port_start", "0")];
        // The kernel takes no groups that do not exist in the user namespace.
        if namespaces.own_users().is_none() {
            defaults.push(("net.ipv4.ping_group_range", "0 2147483647"));
        }
        for (name, value) in defaults {
            if !sysctls.keys().any(|given| given.replace('/', ".") == name) {
                sysctls.insert(name.to_owned(), value.to_owned());
            }
        }
    }
    Ok(sysctls)
}

#[cfg(test)]
pub(crate) mod tests {
    use model::{CgroupLayout, PodName};

    use super::*;

    fn pod() -> PodConfig {
        let name = PodName { name: "p".into(), namespace: "n".into(), uid: "u".into(), attempt: 0 };
        let mut pod = PodConfig::new(name);
        pod.security.seccomp = Some(SecurityProfile::RuntimeDefault);
        pod
    }

    /// A host without security modules.
    pub(crate) fn host() -> HostFacts {
        HostFacts {
            cgroup: CgroupLayout::V1 { hierarchies: vec![], unified: None },
            swap_limit: false,
            apparmor: None,
            selinux: None,
            bounding_caps: u64::MAX,
            devices: vec![],
            kernel: (6, 1),
            recursive_read_only: true,
        }
    }

    #[test]
    fn pause_may_do_nothing_and_is_killed_last() {
        let resources = Resources { cpu_shares: 512, memory_limit_bytes: 64, ..Default::default() };
        let spec = pause_spec(&PauseInput {
            sandbox: &SandboxId::from_random([1; 32]),
            pod: &pod(),
            resources: Some(&resources),
            cgroup_path: "/a/b",
            namespaces: &NamespacePaths { net: Some("/n".into()), ..Default::default() },
            localhost_seccomp: None,
            selinux_level: None,
            host: &host(),
        })
        .unwrap();
        let process = spec.process().as_ref().unwrap();
        let bounding = process.capabilities().as_ref().unwrap().bounding();
        assert_eq!(bounding.as_ref().map(|set| set.len()), Some(0));
        assert_eq!(process.oom_score_adj(), Some(-998));
        let annotations = spec.annotations().as_ref().unwrap();
        assert_eq!(annotations["io.kubernetes.cri.container-type"], "sandbox");
        assert_eq!(annotations["io.kubernetes.cri.sandbox-cpu-shares"], "512");
        assert_eq!(annotations["io.kubernetes.cri.sandbox-memory"], "64");
        let linux = spec.linux().as_ref().unwrap();
        assert!(linux.seccomp().is_some());
        assert_eq!(linux.namespaces().as_ref().map(Vec::len), Some(3));
    }

    #[test]
    fn a_pod_with_its_own_network_gets_two_parameters_unless_it_set_them() {
        let mut pod = pod();
        assert_eq!(pod_sysctls(&pod).unwrap().len(), 2);
        pod.sysctls.insert("net/ipv4/ping_group_range".into(), "1 0".into());
        assert_eq!(pod_sysctls(&pod).unwrap().len(), 2);
        pod.sysctls.clear();
        pod.security.namespaces.network = NamespaceMode::Node;
        assert!(pod_sysctls(&pod).unwrap().is_empty());
    }

    #[test]
    fn in_a_user_namespace_no_groups_are_given_pings() {
        let mut pod = pod();
        let map = vec![model::IdMapping { host_id: 65_536, container_id: 0, length: 10 }];
        let users = model::UserNamespace {
            mode: NamespaceMode::Pod,
            maps: model::IdMaps { uids: map.clone(), gids: map },
        };
        pod.security.namespaces.userns = Some(users.clone());
        let names: Vec<String> = pod_sysctls(&pod).unwrap().into_keys().collect();
        assert_eq!(names, ["net.ipv4.ip_unprivileged_port_start"]);
        let users = model::UserNamespace { mode: NamespaceMode::Node, ..users };
        pod.security.namespaces.userns = Some(users);
        assert_eq!(pod_sysctls(&pod).unwrap().len(), 2);
    }

    #[test]
    fn parameters_of_the_host_are_refused() {
        for (name, host_network, host_ipc) in [
            ("kernel.panic", false, false),
            ("net..x", false, false),
            ("net.ipv4.ip_forward", true, false),
            ("kernel.shmmax", false, true),
            ("fs.mqueue.msg_max", false, true),
        ] {
            let mut pod = pod();
            let mode = |host| if host { NamespaceMode::Node } else { NamespaceMode::Pod };
            pod.security.namespaces.network = mode(host_network);
            pod.security.namespaces.ipc = mode(host_ipc);
            pod.sysctls.insert(name.into(), "1".into());
            assert!(pod_sysctls(&pod).is_err(), "{name}");
        }
    }
}
