//! From a [`Manifest`] to the requests kubelet would make.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
};

use cri_api::v1;

use super::{
    Facts, GRACE_ANNOTATION, VOLUMES_ANNOTATION,
    expand::expand,
    fields::Problem,
    manifest::{
        Container, Dns, DnsPolicy, HostPathKind, Manifest, RestartPolicy, VolumeMount, VolumeSource,
    },
    resources::{self, Qos},
    security::effective,
};

/// A pod ready to be run: nothing is left to decide.
#[derive(Debug, Clone)]
pub struct PodPlan {
    /// The sandbox.
    pub sandbox: v1::PodSandboxConfig,
    /// Handler from `runtimeClassName`; empty: the default.
    pub handler: String,
    /// Made and checked before anything runs.
    pub volumes: Vec<VolumeStep>,
    /// Provided like the containers' images.
    pub volume_images: Vec<VolumeImage>,
    /// Directory that holds the pod's own volumes, if it has any.
    pub volumes_dir: Option<PathBuf>,
    /// Run one after another, each to its end.
    pub init_containers: Vec<ContainerPlan>,
    /// Then started in this order.
    pub containers: Vec<ContainerPlan>,
    /// What differs from a cluster, for the person who runs it.
    pub notes: Vec<String>,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Every time.
    Always,
    /// If the runtime lacks it.
    IfNotPresent,
    /// The image must be there.
    Never,
}

impl PullPolicy {
    /// Kubernetes' words for them.
    pub(super) const WORDS: &'static [(&'static str, Self)] =
        &[("Always", Self::Always), ("IfNotPresent", Self::IfNotPresent), ("Never", Self::Never)];
}

/// An image that is mounted as a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeImage {
    /// As the author wrote it; mounts have it as `user_specified_image` and get the id once the
    /// image is there.
    pub reference: String,
    /// When it is pulled.
    pub pull: PullPolicy,
}

/// A container ready to be created; its image is still a name.
#[derive(Debug, Clone)]
pub struct ContainerPlan {
    /// Its request. `image` is filled in once the image is there.
    pub config: v1::ContainerConfig,
    /// Image as the author wrote it.
    pub image: String,
    /// When it is pulled.
    pub pull: PullPolicy,
    /// The user must not be root; an image may name it, so this is checked last.
    pub non_root: bool,
}

/// One thing to do for the pod's volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeStep {
    /// Make an empty directory; `group` owns it and what is made in it.
    EmptyDir {
        /// The directory.
        path: PathBuf,
        /// `fsGroup`.
        group: Option<u32>,
    },
    /// Check, or make, a path of the host.
    HostPath {
        /// The path.
        path: PathBuf,
        /// What it must be.
        kind: HostPathKind,
    },
}

/// Plans a pod.
pub(super) fn plan(manifest: &Manifest, facts: &Facts) -> Result<PodPlan, Vec<Problem>> {
    let problems = check(manifest);
    if !problems.is_empty() {
        return Err(problems);
    }
    let uid = manifest.uid.as_ref().unwrap_or(&facts.uid).clone();
    let pod = Pod { manifest, facts, uid, qos: qos(manifest) };
    let volumes = pod.volume_steps();
    let own = volumes.iter().any(|step| matches!(step, VolumeStep::EmptyDir { .. }));
    let volumes_dir = own.then(|| pod.volumes_dir());
    Ok(PodPlan {
        sandbox: pod.sandbox(volumes_dir.as_deref()),
        handler: manifest.runtime_class.clone().unwrap_or_default(),
        volumes,
        volume_images: volume_images(manifest),
        volumes_dir,
        init_containers: manifest.init_containers.iter().map(|it| pod.container(it)).collect(),
        containers: manifest.containers.iter().map(|it| pod.container(it)).collect(),
        notes: notes(manifest),
    })
}

fn volume_images(manifest: &Manifest) -> Vec<VolumeImage> {
    let image = |volume: &super::manifest::Volume| match &volume.source {
        VolumeSource::Image { reference, pull } => Some(VolumeImage {
            reference: reference.clone(),
            pull: pull.unwrap_or_else(|| default_policy(reference)),
        }),
        VolumeSource::EmptyDir | VolumeSource::HostPath { .. } => None,
    };
    manifest.volumes.iter().filter_map(image).collect()
}

fn all_containers(manifest: &Manifest) -> impl Iterator<Item = &Container> {
    manifest.init_containers.iter().chain(&manifest.containers)
}

fn qos(manifest: &Manifest) -> Qos {
    Qos::of(all_containers(manifest))
}

/// What no single field can tell.
fn check(manifest: &Manifest) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut names = HashSet::new();
    let mut volumes = HashSet::new();
    for volume in &manifest.volumes {
        if !volumes.insert(volume.name.as_str()) {
            problems.push(volume.place.problem(format!("repeats the name `{}`", volume.name)));
        }
    }
    for container in all_containers(manifest) {
        if !names.insert(container.name.as_str()) {
            let text = format!("repeats the name `{}`", container.name);
            problems.push(container.place.problem(text));
        }
        for mount in &container.mounts {
            problems.extend(check_volume(manifest, mount));
            let two_way = mount.propagation == v1::MountPropagation::PropagationBidirectional;
            if two_way && !container.security.privileged {
                let text = "is Bidirectional, which only a privileged container may have";
                problems.push(mount.place.problem(text));
            }
        }
        let identity = effective(&manifest.security.identity, &container.security.identity);
        if identity.non_root == Some(true) && identity.user == Some(0) {
            problems.push(container.place.problem("must not run as root, but runAsUser is 0"));
        }
    }
    if manifest.dns_policy == Some(DnsPolicy::None)
        && manifest.dns.as_ref().is_none_or(|dns| dns.servers.is_empty())
    {
        let text = "dnsPolicy None needs nameservers".to_owned();
        problems.push(Problem { line: 0, path: "spec.dnsConfig:".to_owned(), text });
    }
    problems
}

fn check_volume(manifest: &Manifest, mount: &VolumeMount) -> Option<Problem> {
    let volume = manifest.volumes.iter().find(|volume| volume.name == mount.volume);
    let Some(volume) = volume else {
        let text = format!("names the volume `{}`, which the pod lacks", mount.volume);
        return Some(mount.place.problem(text));
    };
    let text = match &volume.source {
        // A container that may write could put a symlink there that leads to the host's files.
        VolumeSource::EmptyDir | VolumeSource::HostPath { .. } if !mount.sub_path.is_empty() => {
            "has a subPath, which knarr run supports of image volumes only"
        }
        VolumeSource::Image { .. }
            if mount.propagation != v1::MountPropagation::PropagationPrivate =>
        {
            "has a mountPropagation, which an image volume cannot have"
        }
        VolumeSource::EmptyDir | VolumeSource::HostPath { .. } | VolumeSource::Image { .. } => {
            return None;
        }
    };
    Some(mount.place.problem(text))
}

fn notes(manifest: &Manifest) -> Vec<String> {
    let mut notes = Vec::new();
    match manifest.restart_policy {
        Some(policy @ (RestartPolicy::Always | RestartPolicy::OnFailure)) => {
            notes.push(format!("restartPolicy {policy:?}: knarr run restarts nothing"));
        }
        Some(RestartPolicy::Never) | None => {}
    }
    match manifest.dns_policy {
        Some(DnsPolicy::ClusterFirst | DnsPolicy::ClusterFirstWithHostNet) => {
            notes
                .push("dnsPolicy ClusterFirst: there is no cluster, the host's is used".to_owned());
        }
        Some(DnsPolicy::Default | DnsPolicy::None) | None => {}
    }
    notes
}

struct Pod<'a> {
    manifest: &'a Manifest,
    facts: &'a Facts,
    uid: String,
    qos: Qos,
}

impl Pod<'_> {
    fn labels(&self) -> BTreeMap<String, String> {
        let pod = self.manifest;
        let own = [
            ("io.kubernetes.pod.name", &pod.name),
            ("io.kubernetes.pod.namespace", &pod.namespace),
            ("io.kubernetes.pod.uid", &self.uid),
        ];
        own.into_iter().map(|(key, value)| (key.to_owned(), value.clone())).collect()
    }

    fn volumes_dir(&self) -> PathBuf {
        self.facts.volumes_root.join(&self.uid)
    }

    fn namespaces(&self) -> v1::NamespaceOption {
        let node_or_pod =
            |node| if node { v1::NamespaceMode::Node } else { v1::NamespaceMode::Pod };
        let pid = match (self.manifest.host_pid, self.manifest.share_pid) {
            (true, _) => v1::NamespaceMode::Node,
            (false, true) => v1::NamespaceMode::Pod,
            (false, false) => v1::NamespaceMode::Container,
        };
        v1::NamespaceOption {
            network: node_or_pod(self.manifest.host_network).into(),
            pid: pid.into(),
            ipc: node_or_pod(self.manifest.host_ipc).into(),
            ..Default::default()
        }
    }

    fn sandbox(&self, volumes_dir: Option<&Path>) -> v1::PodSandboxConfig {
        let pod = self.manifest;
        let mut labels = pod.labels.clone();
        labels.extend(self.labels());
        let mut annotations = pod.annotations.clone();
        if let Some(dir) = volumes_dir {
            annotations.insert(VOLUMES_ANNOTATION.to_owned(), dir.display().to_string());
        }
        let log_dir = format!("{}_{}_{}", pod.namespace, pod.name, self.uid);
        let ports = all_containers(pod).flat_map(|container| &container.ports);
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: pod.name.clone(),
                uid: self.uid.clone(),
                namespace: pod.namespace.clone(),
                attempt: 0,
            }),
            hostname: self.hostname(),
            log_directory: self.facts.log_root.join(log_dir).display().to_string(),
            dns_config: self.dns(),
            port_mappings: ports.filter(|port| port.host_port > 0).cloned().collect(),
            labels,
            annotations,
            linux: Some(v1::LinuxPodSandboxConfig {
                security_context: Some(self.sandbox_security()),
                sysctls: pod.security.sysctls.clone(),
                ..Default::default()
            }),
            windows: None,
        }
    }

    /// The host's own with its network; else the given one, else the pod's name, as long as the
    /// kernel takes it.
    fn hostname(&self) -> String {
        if self.manifest.host_network {
            return String::new();
        }
        let name = self.manifest.hostname.as_ref().unwrap_or(&self.manifest.name);
        let short = name.get(..63).unwrap_or(name);
        short.trim_end_matches(['-', '.']).to_owned()
    }

    fn dns(&self) -> Option<v1::DnsConfig> {
        let own = self.manifest.dns.as_ref();
        match self.manifest.dns_policy {
            Some(DnsPolicy::None) => own.map(|dns| v1::DnsConfig {
                servers: dns.servers.clone(),
                searches: dns.searches.clone(),
                options: dns.options.clone(),
            }),
            // The runtime copies the host's file where nothing is added to it.
            _ => own.map(|dns| merged(host_dns(&self.facts.resolv_conf), dns)),
        }
    }

    fn sandbox_security(&self) -> v1::LinuxSandboxSecurityContext {
        let security = &self.manifest.security;
        v1::LinuxSandboxSecurityContext {
            namespace_options: Some(self.namespaces()),
            selinux_options: security.identity.selinux.clone(),
            run_as_user: security.identity.user.map(number),
            run_as_group: security.identity.user.and(security.identity.group).map(number),
            supplemental_groups: self.groups(),
            supplemental_groups_policy: self.groups_policy(),
            privileged: all_containers(self.manifest).any(|it| it.security.privileged),
            // As kubelet: whatever its containers are given, the sandbox itself needs little.
            seccomp: Some(v1::SecurityProfile {
                profile_type: v1::ProfileType::RuntimeDefault.into(),
                localhost_ref: String::new(),
            }),
            ..Default::default()
        }
    }

    fn groups(&self) -> Vec<i64> {
        let security = &self.manifest.security;
        security.supplemental_groups.iter().copied().chain(security.fs_group).collect()
    }

    fn groups_policy(&self) -> i32 {
        let policy = self.manifest.security.groups_policy;
        policy.unwrap_or(v1::SupplementalGroupsPolicy::Merge).into()
    }

    fn volume_steps(&self) -> Vec<VolumeStep> {
        let group = self.manifest.security.fs_group.and_then(|group| u32::try_from(group).ok());
        let step = |volume: &super::manifest::Volume| match &volume.source {
            VolumeSource::EmptyDir => {
                Some(VolumeStep::EmptyDir { path: self.volumes_dir().join(&volume.name), group })
            }
            VolumeSource::HostPath { path, kind } => {
                Some(VolumeStep::HostPath { path: path.into(), kind: *kind })
            }
            VolumeSource::Image { .. } => None,
        };
        self.manifest.volumes.iter().filter_map(step).collect()
    }

    fn container(&self, container: &Container) -> ContainerPlan {
        let variables = environment(&container.env);
        let expanded =
            |texts: &[String]| texts.iter().map(|text| expand(text, &variables.lookup)).collect();
        let mut labels = self.labels();
        labels.insert("io.kubernetes.container.name".to_owned(), container.name.clone());
        let identity = effective(&self.manifest.security.identity, &container.security.identity);
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: 0 }),
            command: expanded(&container.command),
            args: expanded(&container.args),
            working_dir: container.working_dir.clone(),
            envs: variables.list,
            mounts: container.mounts.iter().filter_map(|mount| self.mount(mount)).collect(),
            labels,
            annotations: self.container_annotations(),
            log_path: format!("{}/0.log", container.name),
            stdin: container.stdin,
            stdin_once: container.stdin_once,
            tty: container.tty,
            linux: Some(v1::LinuxContainerConfig {
                resources: Some(v1::LinuxContainerResources {
                    hugepage_limits: resources::huge_pages(&container.huge_pages),
                    ..resources::convert(container.resources, self.qos, self.facts.memory_bytes)
                }),
                security_context: Some(self.container_security(container)),
            }),
            ..Default::default()
        };
        ContainerPlan {
            config,
            image: container.image.clone(),
            pull: container.pull.unwrap_or_else(|| default_policy(&container.image)),
            non_root: identity.non_root.unwrap_or_default(),
        }
    }

    fn container_annotations(&self) -> BTreeMap<String, String> {
        let grace = self.manifest.grace_seconds.unwrap_or(30);
        // Device plugins ask for CDI devices container by container; who writes a manifest can
        // ask for the whole pod only.
        let devices = self.manifest.annotations.iter();
        let devices = devices.filter(|(key, _)| key.starts_with("cdi.k8s.io/"));
        let mut annotations: BTreeMap<String, String> =
            devices.map(|(key, value)| (key.clone(), value.clone())).collect();
        annotations.insert("io.kubernetes.container.restartCount".to_owned(), "0".to_owned());
        annotations.insert(GRACE_ANNOTATION.to_owned(), grace.to_string());
        annotations
    }

    fn mount(&self, mount: &VolumeMount) -> Option<v1::Mount> {
        let volume = self.manifest.volumes.iter().find(|volume| volume.name == mount.volume)?;
        let (host_path, image) = match &volume.source {
            VolumeSource::EmptyDir => {
                (self.volumes_dir().join(&volume.name).display().to_string(), None)
            }
            VolumeSource::HostPath { path, .. } => (path.clone(), None),
            VolumeSource::Image { reference, .. } => {
                let image = v1::ImageSpec {
                    image: reference.clone(),
                    user_specified_image: reference.clone(),
                    ..Default::default()
                };
                (String::new(), Some(image))
            }
        };
        Some(v1::Mount {
            container_path: mount.path.clone(),
            host_path,
            readonly: mount.readonly || image.is_some(),
            image,
            image_sub_path: mount.sub_path.clone(),
            recursive_read_only: mount.recursive,
            propagation: mount.propagation.into(),
            ..Default::default()
        })
    }

    fn container_security(&self, container: &Container) -> v1::LinuxContainerSecurityContext {
        let security = &container.security;
        let identity = effective(&self.manifest.security.identity, &security.identity);
        let (masked_paths, readonly_paths) =
            if security.unmasked_proc { Default::default() } else { self.hidden_paths() };
        v1::LinuxContainerSecurityContext {
            capabilities: Some(v1::Capability {
                add_capabilities: security.add_capabilities.clone(),
                drop_capabilities: security.drop_capabilities.clone(),
                add_ambient_capabilities: Vec::new(),
            }),
            privileged: security.privileged,
            namespace_options: Some(self.namespaces()),
            selinux_options: identity.selinux,
            run_as_user: identity.user.map(number),
            run_as_group: identity.group.map(number),
            readonly_rootfs: security.readonly_rootfs,
            supplemental_groups: self.groups(),
            supplemental_groups_policy: self.groups_policy(),
            no_new_privs: security.allow_escalation == Some(false),
            masked_paths,
            readonly_paths,
            // Kubernetes' own default, unless the manifest says otherwise.
            seccomp: Some(identity.seccomp.unwrap_or_else(|| v1::SecurityProfile {
                profile_type: v1::ProfileType::Unconfined.into(),
                localhost_ref: String::new(),
            })),
            apparmor: identity.apparmor,
            ..Default::default()
        }
    }

    /// What kubelet hides from containers and what it makes read-only.
    fn hidden_paths(&self) -> (Vec<String>, Vec<String>) {
        let masked = MASKED.iter().map(|&path| path.to_owned());
        let masked = masked.chain(self.facts.thermal_throttle.iter().cloned()).collect();
        (masked, READONLY.iter().map(|&path| path.to_owned()).collect())
    }
}

const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn number(value: i64) -> v1::Int64Value {
    v1::Int64Value { value }
}

/// A tag that moves is always pulled, a fixed one once.
fn default_policy(image: &str) -> PullPolicy {
    if image.contains('@') {
        return PullPolicy::IfNotPresent;
    }
    match image.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') && tag != "latest" => PullPolicy::IfNotPresent,
        _ => PullPolicy::Always,
    }
}

struct Environment {
    list: Vec<v1::KeyValue>,
    lookup: BTreeMap<String, String>,
}

/// Each value may refer to the variables before it.
fn environment(variables: &[(String, String)]) -> Environment {
    let mut lookup = BTreeMap::new();
    let mut list = Vec::with_capacity(variables.len());
    for (key, value) in variables {
        let value = expand(value, &lookup);
        list.push(v1::KeyValue { key: key.clone(), value: value.clone().into_bytes() });
        lookup.insert(key.clone(), value);
    }
    Environment { list, lookup }
}

/// The parts of a resolv.conf; the last `search` line counts.
fn host_dns(text: &str) -> v1::DnsConfig {
    let mut dns = v1::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.servers.extend(words.next()),
            Some("search") => dns.searches = words.collect(),
            Some("options") => dns.options.extend(words),
            Some(_) | None => {}
        }
    }
    dns
}

/// What the pod adds to the host's; an option of the pod replaces the host's of that name.
fn merged(mut host: v1::DnsConfig, own: &Dns) -> v1::DnsConfig {
    let add = |list: &mut Vec<String>, more: &[String]| {
        for text in more {
            if !list.contains(text) {
                list.push(text.clone());
            }
        }
    };
    let name = |option: &str| option.split(':').next().unwrap_or_default().to_owned();
    host.options.retain(|option| !own.options.iter().any(|other| name(other) == name(option)));
    add(&mut host.servers, &own.servers);
    add(&mut host.searches, &own.searches);
    add(&mut host.options, &own.options);
    host
}
