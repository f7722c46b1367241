//! `CreateContainer`: image, user, spec, writable layer, record. Nothing runs afterwards, and
//! nothing is mounted.

use std::path::{Component, Path};
use std::sync::Arc;

use bundle::{
    AnonymousVolume, ContainerInput, HostFacts, NamespacePaths, PidSource, PodFiles,
    ResolvedDevice, ResolvedMount, SpecError,
};
use image::ImageLease;
use model::{
    ContainerConfig, ContainerId, DiskUsage, MountPropagation, MountSource, NamespaceMode,
    PodConfig, ResolvedUser, SecurityProfile, Signal, StringMap,
};
use oci_spec::runtime::Spec;
use store::{Durability, RecordFile};

use super::{Container, Owner, Reply};
use crate::admission;
use crate::blocking;
use crate::cdi;
use crate::claim::Fresh;
use crate::classes;
use crate::confinement;
use crate::context::{Context, cgroup_of, now, random_id};
use crate::error::CreateError;
use crate::events::EventKind;
use crate::files::{self, FileError};
use crate::host;
use crate::image_volumes::{self, ImageVolumeError};
use crate::mounts::{self, HostPath};
use crate::plan;
use crate::record::{ContainerRecord, ContainerState, PodRecord};
use crate::volumes;

impl Owner {
    pub(super) async fn on_create(
        &mut self,
        config: ContainerConfig,
        reply: Reply<Fresh<ContainerId>, CreateError>,
    ) {
        let answer = match self.claim(&config) {
            Some(fresh) => Ok(fresh),
            None => self.create(config).await,
        };
        drop(reply.send(answer));
    }

    /// Kubelet asks again when its first call timed out: it gets that call's result, once, while
    /// nothing else has happened to it.
    fn claim(&self, config: &ContainerConfig) -> Option<Fresh<ContainerId>> {
        let same = |container: &Container| {
            container.record.config.as_ref() == config
                && container.record.state == ContainerState::Created
        };
        let mut containers = self.containers.iter();
        let (id, container) = containers.find(|(_, c)| same(c) && c.claim.take())?;
        Some(container.claim.answer(id.clone()))
    }

    async fn create(&mut self, config: ContainerConfig) -> Result<Fresh<ContainerId>, CreateError> {
        let name = config.name.name.clone();
        self.admit(&config)?;
        let lease = self.lease(&config)?;
        let volumes = image_volumes::lease(&self.cx.parts.images, &config)
            .map_err(|(destination, error)| refused_image(destination, error))?;
        let user = self.resolve_user(&config, &lease).await?;
        let id = ContainerId::from_random(random_id().map_err(CreateError::Random)?);
        let mut record = self.new_container(id.clone(), config, &lease, user)?;
        record.image_volumes = image_volumes::records(&volumes);
        let making = Making {
            cx: Arc::clone(&self.cx),
            pod: Arc::clone(&self.record),
            cgroup_path: cgroup_of(&self.cgroup_parent, &id),
            target_pid: self.target_pid(&record.config),
            shim_pid: self.record.shim.map_or(0, |shim| shim.pid),
            record,
            image: Arc::clone(&lease),
        };
        let (record, usage) = blocking::run(move || making.make()).await?;
        let container = Container::new(record);
        self.publish_container(&container.record);
        if let Some(usage) = usage {
            self.cx.index.set_writable(&id, usage);
        }
        let answer = container.claim.answer(id.clone());
        self.containers.insert(id.clone(), container);
        self.tell(EventKind::Created, id.as_str());
        // The record is visible: from here on it keeps the layers.
        drop((lease, volumes));
        tracing::info!(sandbox = %self.id(), container = %id, name, "container created");
        Ok(answer)
    }

    fn admit(&self, config: &ContainerConfig) -> Result<(), CreateError> {
        if config.name.name.is_empty() {
            return Err(CreateError::EmptyName);
        }
        admission::create(self.record.phase).map_err(|source| CreateError::Refused {
            name: config.name.name.clone(),
            sandbox: self.id().clone(),
            source,
        })?;
        match self.containers.iter().find(|(_, c)| c.record.config.name == config.name) {
            Some((holder, _)) => Err(CreateError::NameTaken {
                name: format!("{}_{}", config.name.name, config.name.attempt),
                holder: holder.clone(),
            }),
            None => Ok(()),
        }
    }

    /// CRI: the image is looked up here, never pulled.
    fn lease(&self, config: &ContainerConfig) -> Result<ImageLease, CreateError> {
        let image = &config.image.image;
        self.cx
            .parts
            .images
            .lease(image)
            .map_err(CreateError::Image)?
            .ok_or_else(|| CreateError::ImageNotFound { image: image.clone() })
    }

    async fn resolve_user(
        &self,
        config: &ContainerConfig,
        image: &ImageLease,
    ) -> Result<ResolvedUser, CreateError> {
        let accounts = self.cx.parts.images.accounts(image).await.map_err(|source| {
            CreateError::Accounts { image: config.image.image.clone(), source }
        })?;
        let run_as = &config.security.run_as;
        bundle::resolve_user(run_as, &image.config.user, &accounts.passwd, &accounts.group)
            .map_err(|source| CreateError::User { name: config.name.name.clone(), source })
    }

    fn new_container(
        &self,
        id: ContainerId,
        config: ContainerConfig,
        image: &ImageLease,
        user: ResolvedUser,
    ) -> Result<ContainerRecord, CreateError> {
        let asked = &config.image.image;
        let stop_signal = config.stop_signal.or(image.config.stop_signal).unwrap_or(Signal::TERM);
        Ok(ContainerRecord {
            id,
            sandbox: self.id().clone(),
            image_id: image.id,
            image_name: image.repo_tags.first().unwrap_or(asked).clone(),
            image_ref: image.repo_digests.first().cloned().unwrap_or_else(|| image.id.to_string()),
            layers: image.diff_ids.clone(),
            image_volumes: Vec::new(),
            user,
            stop_signal,
            log_path: log_path(&self.record.config, &config)?,
            created_at: now(),
            resources: config.resources.clone(),
            state: ContainerState::Created,
            config: Arc::new(config),
        })
    }

    /// The first process of the container whose PID namespace is to be joined.
    fn target_pid(&self, config: &ContainerConfig) -> Option<i32> {
        self.pid_target(config).map(|(_, pid)| pid)
    }

    /// CRI: the target must be a running container of the same pod.
    pub(super) fn pid_target(&self, config: &ContainerConfig) -> Option<(&ContainerId, i32)> {
        let options = &config.security.namespaces;
        if options.pid != NamespaceMode::Target || options.target_id.is_empty() {
            return None;
        }
        let mut fitting =
            self.containers.iter().filter(|(id, _)| id.as_str().starts_with(&options.target_id));
        // A prefix that fits several names none of them.
        let (id, container) = fitting.next().filter(|_| fitting.next().is_none())?;
        match container.record.state {
            ContainerState::Running { pid, .. } => Some((id, pid)),
            ContainerState::Created | ContainerState::Exited(_) => None,
        }
    }
}

fn refused_image(destination: String, error: ImageVolumeError) -> CreateError {
    CreateError::ImageVolume { destination, source: Box::new(error) }
}

/// CRI: `log_directory/log_path`; without either there is no log. It must not leave the directory.
fn log_path(pod: &PodConfig, config: &ContainerConfig) -> Result<Option<String>, CreateError> {
    if pod.log_directory.is_empty() || config.log_path.is_empty() {
        return Ok(None);
    }
    let relative = Path::new(&config.log_path);
    let stays =
        relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !stays {
        return Err(CreateError::LogPath {
            path: config.log_path.clone(),
            name: config.name.name.clone(),
        });
    }
    let path = Path::new(&pod.log_directory).join(relative);
    Ok(Some(path.to_string_lossy().into_owned()))
}

/// The blocking part: host look-ups, spec, files.
struct Making {
    cx: Arc<Context>,
    pod: Arc<PodRecord>,
    record: ContainerRecord,
    image: Arc<image::Image>,
    cgroup_path: String,
    target_pid: Option<i32>,
    shim_pid: i32,
}

impl Making {
    /// The container, and what its layer takes up to begin with.
    fn make(self) -> Result<(ContainerRecord, Option<DiskUsage>), CreateError> {
        let dir = self.cx.paths().container(&self.record.sandbox, &self.record.id);
        if let Err(error) = self.make_in(&dir) {
            // Without a record it was never announced; a restart removes it as well.
            if let Err(left) = files::remove_tree(&dir) {
                let left = crate::error::chain(&left);
                tracing::warn!(container = %self.record.id, left, "half-made container not removed");
            }
            return Err(error);
        }
        let usage = crate::sampler::measure(&self.cx, &self.record);
        Ok((self.record, usage))
    }

    fn make_in(&self, dir: &Path) -> Result<(), CreateError> {
        let spec = self.spec()?;
        let record = &self.record;
        // What StartContainer would refuse is refused now.
        plan::of_spec(&self.cx, record, &spec)
            .map_err(|source| CreateError::Plan { name: self.name(), source })?;
        self.write(dir, &spec)?;
        self.relabel(&spec)
    }

    /// CRI `selinux_relabel`: the volume becomes the container's. Last, because it cannot be taken
    /// back.
    fn relabel(&self, spec: &Spec) -> Result<(), CreateError> {
        let linux = spec.linux().as_ref();
        let Some(label) = linux.and_then(|linux| linux.mount_label().as_deref()) else {
            return Ok(());
        };
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
        files::make_dir(dir).map_err(stored)?;
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
        if let Some(log) = &self.record.log_path {
            make_log_dir(Path::new(log)).map_err(stored)?;
        }
        let path = dir.join("config.json");
        let text = plan::encode(spec)
            .map_err(|error| stored(FileError::at("encode", &path)(error.into())))?;
        std::fs::write(&path, text)
            .map_err(|error| stored(FileError::at("write", &path)(error)))?;
        RecordFile::new(dir.join("container.json"))
            .write(self.cx.disk(), &self.record, Durability::Process)
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
        let root_path =
            paths.container(&self.pod.id, &self.record.id).join("rootfs").display().to_string();
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
            annotations: &StringMap::new(),
            host: &host,
        })
        .map_err(|source| {
            if matches!(source, SpecError::RecursiveReadOnly { .. }) {
                return CreateError::RecursiveReadOnly(source);
            }
            CreateError::Spec { name: self.name(), source }
        })?;
        self.adapt(&mut spec)?;
        Ok(spec)
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
        let dir = self.cx.paths().container(&self.pod.id, &self.record.id).join("volumes");
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

/// Kubelet makes the directory of a container's log itself; other callers may not.
fn make_log_dir(log: &Path) -> Result<(), FileError> {
    match log.parent() {
        Some(dir) => {
            std::fs::create_dir_all(dir).map_err(FileError::at("create log directory", dir))
        }
        None => Ok(()),
    }
}
