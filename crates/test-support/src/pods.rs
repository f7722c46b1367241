//! Pod and container configurations the way kubelet sends them.

use cri_api::v1;

use crate::handlers::Runtime;
use crate::scratch::Scratch;

/// A pod to run. The configuration is open to changes.
#[derive(Debug, Clone)]
pub struct PodBuilder {
    /// What is sent.
    pub config: v1::PodSandboxConfig,
    /// Runtime handler; empty: the default.
    pub handler: String,
}

impl PodBuilder {
    /// A pod of the namespace `tests`: own network and IPC, a PID namespace per container,
    /// seccomp by [`seccomp`], logs and cgroups within the scratch place.
    pub fn new(scratch: &Scratch, name: &str) -> Self {
        let uid = format!("uid-{name}");
        let labels = [
            ("io.kubernetes.pod.name", name),
            ("io.kubernetes.pod.namespace", "tests"),
            ("io.kubernetes.pod.uid", &uid),
        ];
        let security = v1::LinuxSandboxSecurityContext {
            namespace_options: Some(namespaces(v1::NamespaceMode::Container)),
            seccomp: Some(seccomp()),
            ..Default::default()
        };
        let config = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.to_owned(),
                uid: uid.clone(),
                namespace: "tests".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: scratch.logs().join(format!("tests_{name}_{uid}")).display().to_string(),
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: scratch.cgroup_parent(),
                security_context: Some(security),
                ..Default::default()
            }),
            ..Default::default()
        };
        Self { config, handler: String::new() }
    }

    /// Changes anything.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut v1::PodSandboxConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Changes the security context.
    #[must_use]
    pub fn security(mut self, change: impl FnOnce(&mut v1::LinuxSandboxSecurityContext)) -> Self {
        let linux = self.config.linux.get_or_insert_default();
        change(linux.security_context.get_or_insert_default());
        self
    }

    /// Changes the namespaces.
    #[must_use]
    pub fn namespaces(self, change: impl FnOnce(&mut v1::NamespaceOption)) -> Self {
        self.security(|security| change(security.namespace_options.get_or_insert_default()))
    }

    /// A user namespace of `length` ids of users and groups of its own.
    #[must_use]
    pub fn users(self, first: u32, length: u32) -> Self {
        let map = vec![v1::IdMapping { host_id: first, container_id: 0, length }];
        self.namespaces(|namespaces| {
            namespaces.userns_options = Some(v1::UserNamespace {
                mode: v1::NamespaceMode::Pod.into(),
                uids: map.clone(),
                gids: map,
            });
        })
    }

    /// A container of this pod, with the pod's namespace options.
    pub fn container(&self, name: &str, image: &str) -> ContainerBuilder {
        let namespaces = self
            .config
            .linux
            .as_ref()
            .and_then(|linux| linux.security_context.as_ref())
            .and_then(|security| security.namespace_options.clone());
        ContainerBuilder::new(name, image).security(|security| {
            security.namespace_options = namespaces;
        })
    }
}

/// RuntimeDefault; but none under a runtime that has no seccomp, which would get no container at all: what is not about
/// seccomp can be tested all the same.
fn seccomp() -> v1::SecurityProfile {
    let filters = Runtime::from_environment().ok().flatten().is_none_or(Runtime::has_seccomp);
    let kind = if filters { v1::ProfileType::RuntimeDefault } else { v1::ProfileType::Unconfined };
    v1::SecurityProfile { profile_type: kind.into(), ..v1::SecurityProfile::default() }
}

/// A container to create. The configuration is open to changes.
#[derive(Debug, Clone)]
pub struct ContainerBuilder {
    /// What is sent.
    pub config: v1::ContainerConfig,
}

impl ContainerBuilder {
    fn new(name: &str, image: &str) -> Self {
        let security = v1::LinuxContainerSecurityContext {
            seccomp: Some(seccomp()),
            masked_paths: words(&["/proc/acpi", "/proc/kcore", "/proc/keys", "/sys/firmware"]),
            readonly_paths: words(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"]),
            ..Default::default()
        };
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(v1::ImageSpec {
                image: image.to_owned(),
                user_specified_image: image.to_owned(),
                ..Default::default()
            }),
            log_path: format!("{name}/0.log"),
            labels: [("io.kubernetes.container.name".to_owned(), name.to_owned())].into(),
            linux: Some(v1::LinuxContainerConfig {
                resources: Some(v1::LinuxContainerResources {
                    cpu_period: 100_000,
                    cpu_shares: 102,
                    oom_score_adj: 500,
                    ..Default::default()
                }),
                security_context: Some(security),
            }),
            ..Default::default()
        };
        Self { config }
    }

    /// Replaces the image's entrypoint.
    #[must_use]
    pub fn command(mut self, command: &[&str]) -> Self {
        self.config.command = words(command);
        self
    }

    /// Runs a shell script instead of the image's entrypoint.
    #[must_use]
    pub fn script(self, script: &str) -> Self {
        self.command(&["/bin/sh", "-c", script])
    }

    /// Sleeps until told to stop, which it obeys at once, from when it has said `asleep`.
    #[must_use]
    pub fn sleeper(self) -> Self {
        self.script("trap 'exit 0' TERM; echo asleep; while :; do sleep 1000 & wait $!; done")
    }

    /// Changes anything.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut v1::ContainerConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Changes the security context.
    #[must_use]
    pub fn security(mut self, change: impl FnOnce(&mut v1::LinuxContainerSecurityContext)) -> Self {
        let linux = self.config.linux.get_or_insert_default();
        change(linux.security_context.get_or_insert_default());
        self
    }

    /// Changes the resources.
    #[must_use]
    pub fn resources(mut self, change: impl FnOnce(&mut v1::LinuxContainerResources)) -> Self {
        let linux = self.config.linux.get_or_insert_default();
        change(linux.resources.get_or_insert_default());
        self
    }

    /// A bind mount of a host path.
    #[must_use]
    pub fn mount(mut self, host: &std::path::Path, container: &str, readonly: bool) -> Self {
        self.config.mounts.push(v1::Mount {
            container_path: container.to_owned(),
            host_path: host.display().to_string(),
            readonly,
            ..Default::default()
        });
        self
    }
}

/// A pod's own network and IPC with the given PID mode.
pub fn namespaces(pid: v1::NamespaceMode) -> v1::NamespaceOption {
    v1::NamespaceOption {
        network: v1::NamespaceMode::Pod.into(),
        pid: pid.into(),
        ipc: v1::NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|&word| word.to_owned()).collect()
}
