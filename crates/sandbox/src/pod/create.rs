//! `CreateContainer`: image, user, spec, writable layer, record. Nothing runs afterwards, and
//! nothing is mounted.

mod making;

use std::path::{Component, Path};
use std::sync::Arc;

use failpoint::Point;
use image::ImageLease;
use model::{
    ContainerConfig, ContainerId, MountRequest, MountSource, NamespaceMode, PodConfig,
    ResolvedUser, Signal,
};

use self::making::Making;
use super::{Container, Owner, Reply};
use crate::admission;
use crate::blocking;
use crate::claim::{Claim, Fresh};
use crate::context::{cgroup_of, now, random_id};
use crate::error::CreateError;
use crate::events::EventKind;
use crate::image_volumes::{self, ImageVolumeError};
use crate::record::{ContainerRecord, ContainerState};

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
        bundle::check_container(&config)
            .map_err(|source| CreateError::Spec { name: name.clone(), source })?;
        self.sources_answer(&config).await?;
        let lease = self.lease(&config)?;
        let volumes = image_volumes::lease(&self.cx.parts.images, &config)
            .map_err(|(destination, error)| refused_image(destination, error))?;
        let user = self.resolve_user(&config, &lease).await?;
        let id = ContainerId::from_random(random_id().map_err(CreateError::Random)?);
        let mut record = self.new_container(id.clone(), config, &lease, user)?;
        record.image_volumes = image_volumes::records(&volumes);
        self.make_container_log_dir(&record).await?;
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
        let container = Container::new(record, Claim::default());
        self.publish_container(&container.record);
        if let Some(usage) = usage {
            self.cx.index.set_writable(&id, usage);
        }
        let answer = container.claim.answer(id.clone());
        self.containers.insert(id.clone(), container);
        self.tell(EventKind::Created, id.as_str());
        // The record is visible: from here on it keeps the layers.
        drop((lease, volumes));
        failpoint::pass(Point::ContainerAnswer);
        tracing::info!(sandbox = %self.id(), container = %id, name, "container created");
        Ok(answer)
    }

    /// Kubelet makes the directory of a container's log itself; other callers may not.
    async fn make_container_log_dir(&self, record: &ContainerRecord) -> Result<(), CreateError> {
        let Some(dir) = record.log_dir() else { return Ok(()) };
        let name = record.config.name.name.clone();
        let made = self.cx.silent.make_log_dir(dir).await;
        made.map_err(|source| CreateError::Files { name, source })
    }

    /// A volume that is dead must not keep its pod from being stopped, nor must a handler's file.
    async fn sources_answer(&self, config: &ContainerConfig) -> Result<(), CreateError> {
        let base = self.record.runtime.base_spec.iter().map(|it| it.to_string_lossy().into_owned());
        let paths = mount_sources(config).into_iter().chain(base).collect();
        self.cx.silent.ask(paths).await.map_err(|source| CreateError::Host {
            what: "a mount source or the handler's base spec".to_owned(),
            name: config.name.name.clone(),
            source,
        })
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

/// Where a container's mounts lead to on the host.
pub(super) fn mount_sources(config: &ContainerConfig) -> Vec<String> {
    let path = |mount: &MountRequest| match &mount.source {
        MountSource::Host(path) => Some(path.clone()),
        MountSource::Image { .. } => None,
    };
    config.mounts.iter().filter_map(path).collect()
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
