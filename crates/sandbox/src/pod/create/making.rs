//! The blocking part of `CreateContainer`: host look-ups, spec, files.

use std::path::Path;
use std::sync::Arc;

use bundle::{
    AnonymousVolume, ContainerInput, HostFacts, NamespacePaths, PidSource, PodFiles,
    ResolvedDevice, ResolvedMount, RuntimeFacts, SpecError,
};
use failpoint::Point;
use model::{DiskUsage, MountPropagation, MountSource, NamespaceMode, SecurityProfile};
use oci_spec::runtime::Spec;
use store::{Durability, RecordFile};
use sys::trace::span;

use super::refused_image;
use crate::cdi;
use crate::classes;
use crate::confinement;
use crate::context::Context;
use crate::error::CreateError;
use crate::external;
use crate::files::{self, FileError};
use crate::handler::Program;
use crate::host;
use crate::image_volumes::{self, ImageVolumeError};
use crate::mounts::{self, HostPath};
use crate::plan;
use crate::record::{ContainerRecord, PodRecord};
use crate::volumes;

/// Below a container's directory: what its image declares.
const VOLUMES: &str = "volumes";

/// A container on its way.
pub(super) struct Making {
    pub(super) cx: Arc<Context>,
    pub(super) pod: Arc<PodRecord>,
    pub(super) record: ContainerRecord,
    pub(super) image: Arc<image::Image>,
    pub(super) cgroup_path: String,
    /// First process of the container whose PID namespace it joins.
    pub(super) target_pid: Option<i32>,
    pub(super) shim_pid: i32,
}

impl Making {
    /// The container, and what its layer takes up to begin with.
    pub(super) fn make(self) -> Result<(ContainerRecord, Option<DiskUsage>), CreateError> {
        let dir = self.cx.paths().container(&self.record.sandbox, &self.record.id);
        if let Err(error) = self.make_in(&dir) {
            // Without a record it was never announced; a restart removes it as well.
            if let Err(left) = files::remove_tree(&dir) {
                let left = crate::error::chain(&left);
                tracing::warn!(container = %self.record.id, left, "half-made container not removed");
            }
            return Err(error);
        }
        let _span = span("daemon: measure the writable layer");
        let usage = crate::sampler::measure(&self.cx, &self.record);
        Ok((self.record, usage))
    }

    fn make_in(&self, dir: &Path) -> Result<(), CreateError> {
        let spec = {
            let _span = span("daemon: specification");
            self.spec()?
        };
        let record = &self.record;
        // What StartContainer would refuse is refused now.
        let planning = span("daemon: plan on trial");
        plan::of_spec(&self.cx, record, &spec)
            .map_err(|source| CreateError::Plan { name: self.name(), source })?;
        drop(planning);
        let _span = span("daemon: writable layer, specification, record");
        self.write(dir, &spec)?;
        self.relabel(&spec)
    }

    /// The image's volumes are the container's, and, CRI `selinux_relabel`, others become so. Last, because it cannot be taken
    /// back.
    fn relabel(&self, spec: &Spec) -> Result<(), CreateError> {
        let linux = spec.linux().as_ref();
        let Some(label) = linux.and_then(|linux| linux.mount_label().as_deref()) else {
            return Ok(());
        };
        let own = self.cx.paths().container(&self.pod.id, &self.record.id).join(VOLUMES);
        if own.exists() {
            lsm::selinux::relabel(&own, label)
                .map_err(|source| CreateError::Relabel { name: self.name(), source })?;
        }
        for mount in self.record.config.mounts.iter().filter(|mount| mount.selinux_relabel) {
            if let MountSource::Host(path) = &mount.source {
                let path = std::fs::canonicalize(path).map_err(|error| {
                    let source = FileError::at("resolve", Path::new(path))(error);
                    self.unusable(format!("mount source `{path}`"), source)
                })?;
                lsm::selinux::relabel(&path, label)
                    .map_err(|source| CreateError::Relabel { name: self.name(), source })?;
            }
        }
        Ok(())
    }

    fn name(&self) -> String {
        self.record.config.name.name.clone()
    }

    fn write(&self, dir: &Path, spec: &Spec) -> Result<(), CreateError> {
        let stored = |source| CreateError::Files { name: self.name(), source };
        files::reach(Point::ContainerDirectory, "create directory", dir).map_err(stored)?;
        files::make_dir(dir).map_err(stored)?;
        files::reach(Point::ContainerLayer, "make layer in", dir).map_err(stored)?;
        let of_image = self
            .cx
            .parts
            .layers
            .root_dir(&self.record.layers)
            .map_err(|error| CreateError::Plan { name: self.name(), source: error.into() })?;
        // The container's `/` has the owner and mode the image gives it. The writable layer takes
        // ids as they are on the host.
        let users = self.pod.config.security.namespaces.own_users();
        let on_host = |(uid, gid)| match users {
            Some(users) => users.host_uid(uid).zip(users.host_gid(gid)),
            None => Some((uid, gid)),
        };
        let root = match of_image {
            Some(of_image) => snapshot::ContainerRoot::prepare_over(dir, &of_image, on_host),
            None => snapshot::ContainerRoot::prepare(dir, on_host((0, 0))),
        };
        root.map_err(|source| CreateError::Layer { name: self.name(), source })?;
        if spec.hooks().is_some() {
            // Where hooks in the container's mount namespace find its root; empty for all others.
            files::make_dir(&dir.join("rootfs")).map_err(stored)?;
        }
        let path = dir.join("config.json");
        let text = plan::encode(spec)
            .map_err(|error| stored(FileError::at("encode", &path)(error.into())))?;
        files::reach(Point::ContainerSpec, "write", &path).map_err(stored)?;
        std::fs::write(&path, text)
            .map_err(|error| stored(FileError::at("write", &path)(error)))?;
        let file = RecordFile::new(dir.join("container.json"));
        file.reach(Point::ContainerRecord)
            .and_then(|()| file.write(self.cx.disk(), &self.record, Durability::Process))
            .map_err(|source| CreateError::Record { name: self.name(), source })
    }

    fn spec(&self) -> Result<Spec, CreateError> {
        let config = &self.record.config;
        let paths = self.cx.paths();
        let state = paths.pod_state(&self.pod.id);
        let file = |name: &str| state.join(name).to_string_lossy().into_owned();
        let shm = if self.pod.config.security.namespaces.ipc == NamespaceMode::Node {
            "/dev/shm".to_owned()
        } else {
            plan::shm_path(paths, &self.pod.id)
        };
        let (mounts, devices) = (self.mounts()?, self.devices()?);
        let host = self.host()?;
        let localhost_seccomp = self.localhost_seccomp()?;
        let root_path = match self.program() {
            None => paths.container(&self.pod.id, &self.record.id).join("rootfs"),
            Some(_) => external::rootfs(paths, &self.pod.id, self.record.id.as_str()),
        };
        let root_path = root_path.display().to_string();
        // What a container has is more particular than what its pod has.
        let mut annotations = self.pod.runtime.passed(&self.pod.config.annotations);
        annotations.extend(self.pod.runtime.passed(&config.annotations));
        let mut spec = bundle::container_spec(&ContainerInput {
            sandbox: &self.pod.id,
            container: &self.record.id,
            pod: &self.pod.config,
            config,
            image_name: &self.record.image_name,
            image: &self.image.config,
            user: &self.record.user,
            hostname: &files::hostname(&self.pod.config),
            files: &PodFiles {
                hostname: file("hostname"),
                hosts: file("hosts"),
                resolv_conf: file("resolv.conf"),
                shm,
            },
            root_path: &root_path,
            cgroup_path: &self.cgroup_path,
            namespaces: &self.namespaces()?,
            mounts: &mounts,
            volumes: &self.volumes()?,
            devices: &devices,
            localhost_seccomp: localhost_seccomp.as_deref(),
            selinux_level: self.pod.selinux_level.as_deref(),
            annotations: &annotations,
            host: &host,
            runtime: self.runtime(),
        })
        .map_err(|source| {
            if matches!(source, SpecError::RecursiveReadOnly { .. }) {
                return CreateError::RecursiveReadOnly(source);
            }
            CreateError::Spec { name: self.name(), source }
        })?;
        if let Some(path) = &self.pod.runtime.base_spec {
            external::put_base(&mut spec, path)
                .map_err(|source| CreateError::BaseSpec { name: self.name(), source })?;
        }
        self.adapt(&mut spec)?;
        if let Some(program) = self.program() {
            external::adapt(&mut spec, program, &plan::pid_path(paths, &self.pod.id));
            for what in external::narrow(&mut spec, &self.cx.parts.host, own_oom_score()) {
                tracing::warn!(sandbox = %self.pod.id, container = %self.record.id, "not applied: {what}");
            }
        }
        Ok(spec)
    }

    /// The runtime that runs it, unless that is the built-in one.
    fn program(&self) -> Option<&Program> {
        self.pod.runtime.program.as_ref()
    }

    /// What is decided by files of the host: CDI devices, classes of service.
    fn adapt(&self, spec: &mut Spec) -> Result<(), CreateError> {
        let parts = &self.cx.parts;
        let config = &self.record.config;
        cdi::inject(&parts.cdi_dirs, config, spec)
            .map_err(|error| CreateError::Cdi { name: self.name(), source: Box::new(error) })?;
        let sources = classes::Sources {
            block_io: &parts.block_io_classes,
            resctrl: Path::new(oci_runtime::cgroup::RESCTRL),
            cgroup: &parts.host.cgroup,
        };
        classes::apply(sources, &self.pod.config, config, spec)
            .map_err(|error| CreateError::Class { name: self.name(), source: Box::new(error) })
    }

    fn namespaces(&self) -> Result<NamespacePaths, CreateError> {
        let options = &self.pod.config.security.namespaces;
        let own_net = options.network != NamespaceMode::Node;
        let shims = |kind: &str| format!("/proc/{}/ns/{kind}", self.shim_pid);
        let netns = self.cx.paths().netns(&self.pod.id);
        let source = bundle::pid_source(options, &self.record.config.security.namespaces)
            .map_err(|source| CreateError::Spec { name: self.name(), source })?;
        let pid = match source {
            PidSource::Pod => Some(plan::pid_path(self.cx.paths(), &self.pod.id)),
            PidSource::Target => Some(self.target()?),
            PidSource::Container | PidSource::Host => None,
        };
        Ok(NamespacePaths {
            net: own_net.then(|| netns.to_string_lossy().into_owned()),
            ipc: (options.ipc != NamespaceMode::Node).then(|| shims("ipc")),
            uts: own_net.then(|| shims("uts")),
            pid,
            user: options.own_users().map(|_| plan::user_path(self.cx.paths(), &self.pod.id)),
        })
    }

    fn target(&self) -> Result<String, CreateError> {
        let target = &self.record.config.security.namespaces.target_id;
        match self.target_pid {
            Some(pid) => Ok(plan::pid_path_of(pid)),
            None => Err(self.unusable(
                format!("PID namespace target `{target}`"),
                FileError::at("find", Path::new(target))(std::io::Error::new(
                    std::io::ErrorKind::NotFound,
                    "no running container of this pod has that id",
                )),
            )),
        }
    }

    fn unusable(&self, what: String, source: FileError) -> CreateError {
        CreateError::Host { what, name: self.name(), source }
    }

    fn mounts(&self) -> Result<Vec<ResolvedMount>, CreateError> {
        let mut images = self.record.image_volumes.iter();
        let mut resolve = |mount: &model::MountRequest| match &mount.source {
            MountSource::Host(path) => {
                let wants_peers = mount.propagation != MountPropagation::Private;
                let HostPath { path, peers, .. } = mounts::resolve(path, wants_peers)
                    .map_err(|source| self.unusable(format!("mount source `{path}`"), source))?;
                Ok(ResolvedMount { host_path: path, shared: peers.shared, slave: peers.slave })
            }
            MountSource::Image { image, sub_path } => {
                let refused = |error| refused_image(mount.container_path.clone(), error);
                let name = &image.image;
                let volume = images
                    .next()
                    .ok_or_else(|| refused(ImageVolumeError::NotPulled { image: name.clone() }))?;
                let (paths, layers) = (self.cx.paths(), &self.cx.parts.layers);
                let path =
                    image_volumes::source(paths, layers, &self.pod.id, volume, name, sub_path);
                let host_path = path.map_err(refused)?;
                Ok(ResolvedMount { host_path, shared: false, slave: false })
            }
        };
        self.record.config.mounts.iter().map(&mut resolve).collect()
    }

    fn devices(&self) -> Result<Vec<ResolvedDevice>, CreateError> {
        let mut nodes = Vec::new();
        for request in &self.record.config.devices {
            let found = host::device_nodes(&request.host_path).map_err(|source| {
                self.unusable(format!("device `{}`", request.host_path), source)
            })?;
            // Without a place of its own it is where the host has it.
            let place = if request.container_path.is_empty() {
                &request.host_path
            } else {
                &request.container_path
            };
            for mut node in found {
                let below = node.path.strip_prefix(&request.host_path).unwrap_or_default();
                node.path = format!("{place}{below}");
                nodes.push(ResolvedDevice { node, permissions: request.permissions.clone() });
            }
        }
        Ok(nodes)
    }

    /// A privileged container gets every device there is now, not those of the daemon's start.
    fn host(&self) -> Result<HostFacts, CreateError> {
        let security = &self.record.config.security;
        let mut facts = confinement::refreshed(
            &self.cx.parts.host,
            security.apparmor.as_ref(),
            security.privileged,
        )
        .map_err(|source| CreateError::AppArmor { name: self.name(), source })?;
        if security.privileged {
            facts.devices = host::all_devices()
                .map_err(|source| self.unusable("the host's devices".to_owned(), source))?;
        }
        Ok(facts)
    }

    /// What the pod's handler has. Of one that does not answer nothing is expected.
    fn runtime(&self) -> RuntimeFacts {
        let name = self.cx.handler_name(&self.pod.handler);
        let features = self.cx.features(name, &self.pod.runtime).unwrap_or_default();
        RuntimeFacts {
            recursive_read_only: features.recursive_read_only,
            seccomp: !features.without_seccomp,
        }
    }

    fn localhost_seccomp(&self) -> Result<Option<String>, CreateError> {
        let Some(SecurityProfile::Localhost(path)) = &self.record.config.security.seccomp else {
            return Ok(None);
        };
        let file = Path::new(path);
        std::fs::read_to_string(file).map(Some).map_err(|error| {
            self.unusable(format!("seccomp profile `{path}`"), FileError::at("read", file)(error))
        })
    }

    /// Volumes the image declares live in a directory of the container and begin with what the
    /// image has there, owners kept.
    fn volumes(&self) -> Result<Vec<AnonymousVolume>, CreateError> {
        let declared = bundle::image_volumes(&self.record.config, &self.image.config);
        if declared.is_empty() {
            return Ok(Vec::new());
        }
        let image = self
            .cx
            .parts
            .layers
            .open_merged(&self.record.layers)
            .map_err(|source| CreateError::Volumes { name: self.name(), source })?;
        let dir = self.cx.paths().container(&self.pod.id, &self.record.id).join(VOLUMES);
        let mut volumes = Vec::new();
        for (number, container_path) in declared.into_iter().enumerate() {
            let path = dir.join(number.to_string());
            volumes::fill(&image, &container_path, &path)
                .map_err(|source| self.unusable(format!("volume `{container_path}`"), source))?;
            volumes.push(AnonymousVolume {
                container_path,
                host_path: path.to_string_lossy().into_owned(),
            });
        }
        Ok(volumes)
    }
}

/// What this process has, and children get; 0 where it cannot be read.
fn own_oom_score() -> i32 {
    let text = std::fs::read_to_string("/proc/self/oom_score_adj");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}
