//! Containers.

use cri_api::v1;
use model::{
    CdiDevice, ContainerConfig, ContainerName, DeviceRequest, EnvVar, MountPropagation,
    MountRequest, MountSource,
};
use prost::Message;
use prost::bytes::Bytes;
use sandbox::{ContainerRecord, ContainerState, ContainerView, Index, LookupError};

use super::{ConvertError, FilterError, WantedId, image, known, pod, resources, security, signal};

pub(crate) fn config(config: v1::ContainerConfig) -> Result<ContainerConfig, ConvertError> {
    let metadata = config.metadata.ok_or(ConvertError::Missing("metadata of the container"))?;
    let linux = config.linux.unwrap_or_default();
    Ok(ContainerConfig {
        name: ContainerName { name: metadata.name, attempt: metadata.attempt },
        image: image::spec(config.image.unwrap_or_default()),
        command: config.command,
        args: config.args,
        working_dir: config.working_dir,
        envs: config
            .envs
            .into_iter()
            .map(|env| EnvVar { key: env.key, value: env.value })
            .collect(),
        mounts: config.mounts.into_iter().map(mount).collect::<Result<_, _>>()?,
        devices: config
            .devices
            .into_iter()
            .map(|device| DeviceRequest {
                container_path: device.container_path,
                host_path: device.host_path,
                permissions: device.permissions,
            })
            .collect(),
        cdi_devices: config
            .cdi_devices
            .into_iter()
            .map(|device| CdiDevice { name: device.name })
            .collect(),
        labels: config.labels,
        annotations: config.annotations,
        log_path: config.log_path,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        stop_signal: signal::from_cri(config.stop_signal)?,
        resources: linux.resources.map(resources::from_cri).unwrap_or_default(),
        security: security::container(linux.security_context)?,
    })
}

fn mount(mount: v1::Mount) -> Result<MountRequest, ConvertError> {
    let source = match mount.image {
        Some(spec) if !spec.image.is_empty() => {
            if !mount.host_path.is_empty() {
                return Err(ConvertError::ImageAndHostPath { host_path: mount.host_path });
            }
            MountSource::Image { image: image::spec(spec), sub_path: mount.image_sub_path }
        }
        Some(_) | None if !mount.image_sub_path.is_empty() => {
            return Err(ConvertError::SubPathOfNoImage { sub_path: mount.image_sub_path });
        }
        Some(_) | None => MountSource::Host(mount.host_path),
    };
    Ok(MountRequest {
        container_path: mount.container_path,
        source,
        readonly: mount.readonly,
        recursive_read_only: mount.recursive_read_only,
        selinux_relabel: mount.selinux_relabel,
        propagation: match known::<v1::MountPropagation>("mounts.propagation", mount.propagation)? {
            v1::MountPropagation::PropagationPrivate => MountPropagation::Private,
            v1::MountPropagation::PropagationHostToContainer => MountPropagation::HostToContainer,
            v1::MountPropagation::PropagationBidirectional => MountPropagation::Bidirectional,
        },
        uid_mappings: mount.uid_mappings.iter().map(security::mapping).collect(),
        gid_mappings: mount.gid_mappings.iter().map(security::mapping).collect(),
        options: mount.mount_options,
    })
}

/// CRI: mounts are echoed as requested, not as resolved.
fn mount_to_cri(mount: &MountRequest) -> v1::Mount {
    let (host_path, image, image_sub_path) = match &mount.source {
        MountSource::Host(path) => (path.clone(), None, String::new()),
        MountSource::Image { image, sub_path } => {
            (String::new(), Some(image::spec_to_cri(image)), sub_path.clone())
        }
    };
    v1::Mount {
        container_path: mount.container_path.clone(),
        host_path,
        readonly: mount.readonly,
        selinux_relabel: mount.selinux_relabel,
        propagation: match mount.propagation {
            MountPropagation::Private => v1::MountPropagation::PropagationPrivate,
            MountPropagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
            MountPropagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
        }
        .into(),
        uid_mappings: mount.uid_mappings.iter().map(security::mapping_to_cri).collect(),
        gid_mappings: mount.gid_mappings.iter().map(security::mapping_to_cri).collect(),
        recursive_read_only: mount.recursive_read_only,
        image,
        image_sub_path,
        mount_options: mount.options.clone(),
    }
}

pub(crate) fn metadata(name: &ContainerName) -> v1::ContainerMetadata {
    v1::ContainerMetadata { name: name.name.clone(), attempt: name.attempt }
}

pub(crate) fn state(record: &ContainerRecord) -> v1::ContainerState {
    match &record.state {
        ContainerState::Created => v1::ContainerState::ContainerCreated,
        ContainerState::Running { .. } => v1::ContainerState::ContainerRunning,
        ContainerState::Exited(_) => v1::ContainerState::ContainerExited,
    }
}

/// As lists have it, encoded.
pub(crate) fn listed(container: &ContainerView) -> Bytes {
    container.listed(|record| item(record).encode_to_vec())
}

fn item(record: &ContainerRecord) -> v1::Container {
    v1::Container {
        id: record.id.to_string(),
        pod_sandbox_id: record.sandbox.to_string(),
        metadata: Some(metadata(&record.config.name)),
        image: Some(image::spec_to_cri(&record.config.image)),
        image_ref: record.image_ref.clone(),
        state: state(record).into(),
        created_at: record.created_at.0,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        image_id: record.image_id.to_string(),
    }
}

pub(crate) fn status(container: &ContainerView) -> v1::ContainerStatus {
    let record = &container.record;
    let config = &record.config;
    let mut status = v1::ContainerStatus {
        id: record.id.to_string(),
        metadata: Some(metadata(&config.name)),
        state: state(record).into(),
        created_at: record.created_at.0,
        image: Some(v1::ImageSpec {
            image: record.image_name.clone(),
            ..image::spec_to_cri(&config.image)
        }),
        image_ref: record.image_ref.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: config.mounts.iter().map(mount_to_cri).collect(),
        log_path: record.log_path.clone().unwrap_or_default(),
        resources: Some(v1::ContainerResources {
            linux: Some(resources::to_cri(&record.resources)),
            windows: None,
        }),
        image_id: record.image_id.to_string(),
        user: Some(v1::ContainerUser {
            linux: Some(v1::LinuxContainerUser {
                uid: record.user.uid.into(),
                gid: record.user.gid.into(),
                supplemental_groups: record.user.groups.iter().map(|id| (*id).into()).collect(),
            }),
        }),
        stop_signal: signal::to_cri(record.stop_signal),
        ..Default::default()
    };
    match &record.state {
        ContainerState::Created => {}
        ContainerState::Running { started_at, .. } => status.started_at = started_at.0,
        ContainerState::Exited(exit) => {
            status.started_at = exit.started_at.map_or(0, |at| at.0);
            status.finished_at = exit.finished_at.0;
            status.exit_code = exit.code;
            status.reason = exit.reason.as_str().to_owned();
            status.message.clone_from(&exit.message);
        }
    }
    status
}

/// CRI: every field that is set must fit.
pub(crate) struct Filter {
    id: WantedId,
    pod: WantedId,
    state: Option<v1::ContainerState>,
    labels: model::StringMap,
}

impl Filter {
    pub(crate) fn new(
        filter: Option<v1::ContainerFilter>,
        index: &Index,
    ) -> Result<Self, FilterError> {
        let filter = filter.unwrap_or_default();
        let state = filter.state.map(|state| known("filter.state", state.state)).transpose()?;
        let of_stats = v1::ContainerStatsFilter {
            id: filter.id,
            pod_sandbox_id: filter.pod_sandbox_id,
            label_selector: filter.label_selector,
        };
        Ok(Self { state, ..Self::of_stats(Some(of_stats), index)? })
    }

    pub(crate) fn of_stats(
        filter: Option<v1::ContainerStatsFilter>,
        index: &Index,
    ) -> Result<Self, LookupError> {
        let filter = filter.unwrap_or_default();
        Ok(Self {
            id: WantedId::new(&filter.id, |id| Ok(index.container(id)?.record.id.to_string()))?,
            pod: pod::wanted(&filter.pod_sandbox_id, index)?,
            state: None,
            labels: filter.label_selector,
        })
    }

    pub(crate) fn fits(&self, container: &ContainerView) -> bool {
        let record = &container.record;
        self.id.fits(record.id.as_str())
            && self.pod.fits(record.sandbox.as_str())
            && self.state.is_none_or(|wanted| wanted == state(record))
            && pod::selects(&self.labels, &record.config.labels)
    }
}
