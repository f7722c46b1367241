//! Images mounted as volumes. CRI: `Mount.image`.
//!
//! A volume's tree exists nowhere but in containers: specs name it by a path below the pod's state
//! directory at which nothing is, and the plan made of a spec has the layers instead. The
//! container's record keeps the layers, over a restart too.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use image::{ImageLease, Images};
use model::{ContainerConfig, Digest, MountPropagation, MountRequest, MountSource, SandboxId};
use oci_runtime::ImageTree;
use rustix::fs::OFlags;
use snapshot::{Layers, MissingLayer, ViewError};

use crate::paths::Paths;
use crate::record::{ContainerRecord, ImageVolumeRecord};

/// Why an image cannot be a volume.
#[derive(Debug, thiserror::Error)]
pub enum ImageVolumeError {
    /// CRI: it must have been pulled.
    #[error("image `{image}` is not here: it has to be pulled first")]
    NotPulled {
        /// As requested.
        image: String,
    },
    /// What is no name of an image, or of several.
    #[error("`{image}` names no image")]
    Name {
        /// As requested.
        image: String,
        /// Why.
        source: image::ResolveError,
    },
    /// Nothing is ever mounted in an image.
    #[error("propagation must be private")]
    Propagates,
    /// Not a path below the image.
    #[error("image_sub_path `{sub_path}` must be relative and without `..`")]
    SubPath {
        /// As requested.
        sub_path: String,
    },
    /// The image has nothing there.
    #[error("image `{image}` has no `{sub_path}`")]
    NoSubPath {
        /// As requested.
        image: String,
        /// As requested.
        sub_path: String,
    },
    /// It has a file there.
    #[error("`{sub_path}` of image `{image}` is not a directory")]
    NotADirectory {
        /// As requested.
        image: String,
        /// As requested.
        sub_path: String,
    },
    /// A symlink of the image.
    #[error("`{sub_path}` leads out of image `{image}`")]
    Escapes {
        /// As requested.
        image: String,
        /// As requested.
        sub_path: String,
    },
    /// The image cannot be looked into.
    #[error("cannot look into image `{image}`")]
    View {
        /// As requested.
        image: String,
        /// Why.
        source: ViewError,
    },
    /// The image cannot be looked into at that place.
    #[error("cannot look at `{sub_path}` of image `{image}`")]
    Look {
        /// As requested.
        image: String,
        /// As requested.
        sub_path: String,
        /// Why.
        source: io::Error,
    },
}

impl ImageVolumeError {
    /// Whether the image is what is missing.
    pub fn is_not_pulled(&self) -> bool {
        matches!(self, Self::NotPulled { .. })
    }
}

/// The images a container mounts, in the order of its mounts.
pub(crate) fn requested(
    config: &ContainerConfig,
) -> impl Iterator<Item = (&MountRequest, &str, &str)> {
    config.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Image { image, sub_path } => {
            Some((mount, image.image.as_str(), sub_path.as_str()))
        }
        MountSource::Host(_) => None,
    })
}

/// Looks up the images of `config` and keeps their layers until the leases are dropped. An error
/// comes with the mount's place in the container.
pub(crate) fn lease(
    images: &Images,
    config: &ContainerConfig,
) -> Result<Vec<ImageLease>, (String, ImageVolumeError)> {
    requested(config)
        .map(|(mount, name, sub_path)| {
            lease_one(images, mount, name, sub_path)
                .map_err(|error| (mount.container_path.clone(), error))
        })
        .collect()
}

fn lease_one(
    images: &Images,
    mount: &MountRequest,
    name: &str,
    sub_path: &str,
) -> Result<ImageLease, ImageVolumeError> {
    if mount.propagation != MountPropagation::Private {
        return Err(ImageVolumeError::Propagates);
    }
    if sub_path.starts_with('/') || sub_path.split('/').any(|part| part == "..") {
        return Err(ImageVolumeError::SubPath { sub_path: sub_path.to_owned() });
    }
    images
        .lease(name)
        .map_err(|source| ImageVolumeError::Name { image: name.to_owned(), source })?
        .ok_or_else(|| ImageVolumeError::NotPulled { image: name.to_owned() })
}

/// What the container's record says of the leased images.
pub(crate) fn records(leases: &[ImageLease]) -> Vec<ImageVolumeRecord> {
    let record = |lease: &ImageLease| ImageVolumeRecord {
        image_id: lease.id,
        layers: lease.diff_ids.clone(),
    };
    leases.iter().map(record).collect()
}

/// The path by which specs name an image of a pod.
fn path(paths: &Paths, sandbox: &SandboxId, image: &Digest) -> String {
    paths.pod_state(sandbox).join("images").join(image.hex()).to_string_lossy().into_owned()
}

/// The path by which specs name a directory of an image, `sub_path` or its root, which is made
/// sure to be one. Blocking.
pub(crate) fn source(
    paths: &Paths,
    layers: &Layers,
    sandbox: &SandboxId,
    volume: &ImageVolumeRecord,
    image: &str,
    sub_path: &str,
) -> Result<String, ImageVolumeError> {
    let names: Vec<&str> = sub_path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    let root = path(paths, sandbox, &volume.image_id);
    if names.is_empty() {
        return Ok(root);
    }
    let below = names.join("/");
    check(layers, volume, image, &below)?;
    Ok(format!("{root}/{below}"))
}

fn check(
    layers: &Layers,
    volume: &ImageVolumeRecord,
    image: &str,
    sub_path: &str,
) -> Result<(), ImageVolumeError> {
    let (image, sub_path) = (image.to_owned(), sub_path.to_owned());
    let tree = match layers.open_merged(&volume.layers) {
        Ok(tree) => tree,
        Err(ViewError::NoLayers) => return Err(ImageVolumeError::NoSubPath { image, sub_path }),
        Err(source) => return Err(ImageVolumeError::View { image, source }),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let error = match sys::fs::open_beneath(tree.as_fd(), sub_path.as_str(), flags) {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    Err(match error.kind() {
        io::ErrorKind::NotFound => ImageVolumeError::NoSubPath { image, sub_path },
        io::ErrorKind::NotADirectory => ImageVolumeError::NotADirectory { image, sub_path },
        io::ErrorKind::CrossesDevices => ImageVolumeError::Escapes { image, sub_path },
        _ => ImageVolumeError::Look { image, sub_path, source: error },
    })
}

/// What the paths in a container's spec stand for.
pub(crate) fn trees(
    paths: &Paths,
    layers: &Layers,
    record: &ContainerRecord,
) -> Result<Vec<ImageTree>, MissingLayer> {
    let text = |dir: &Path| dir.to_string_lossy().into_owned();
    record
        .image_volumes
        .iter()
        .map(|volume| {
            let lower = layers.lower_dirs(&volume.layers)?;
            Ok(ImageTree {
                path: path(paths, &record.sandbox, &volume.image_id),
                lower: lower.iter().map(|dir| text(dir)).collect(),
            })
        })
        .collect()
}
