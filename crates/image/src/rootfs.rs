//! An image as one plain directory tree, without a store: what a bundle's `rootfs` is. Layers are
//! fetched one after the other, unpacked beside the tree and merged into it.

mod description;
mod merge;

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use layer::{Beside, Compression, Rights, UnpackOptions};
use model::{Digest, ImageDescription, Platform, Reference};
use registry::{Client, Credentials, RegistryError};

use crate::archive::{ArchiveImage, LoadError};
use crate::config::{self, ConfigError, Parsed};
use crate::unpack::READ_BYTES;

pub use merge::MergeError;

/// Where an image is.
#[derive(Debug)]
pub enum Source {
    /// In a registry.
    Registry {
        /// Its name.
        reference: Reference,
        /// Who asks.
        credentials: Credentials,
    },
    /// In an archive or an OCI layout.
    Archive {
        /// A tar, compressed or not, or a directory.
        path: PathBuf,
        /// Which of its images: its tag or its name there. None: its only one.
        name: Option<String>,
    },
}

/// Why no tree was made; what there is of it is of no use.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// The registry.
    #[error("cannot get the image {reference}")]
    Registry {
        /// Its name.
        reference: Reference,
        /// Why.
        source: Box<RegistryError>,
    },
    /// The archive.
    #[error("cannot read an image of {}", path.display())]
    Archive {
        /// It.
        path: PathBuf,
        /// Why.
        source: Box<LoadError>,
    },
    /// The archive has no image of that name, or several and none was named.
    #[error("{} has {there}; say which: {}:NAME", path.display(), path.display())]
    Which {
        /// The archive.
        path: PathBuf,
        /// What it has.
        there: String,
    },
    /// The image is of no use here.
    #[error("cannot use the image")]
    Config(#[from] ConfigError),
    /// A layer cannot be unpacked.
    #[error("cannot unpack layer {layer}")]
    Unpack {
        /// Its diff id.
        layer: Digest,
        /// Why.
        source: layer::UnpackError,
    },
    /// A layer is not what the image says.
    #[error("layer {wanted} came with digest {found}")]
    Digest {
        /// Its diff id.
        wanted: Digest,
        /// What came.
        found: Digest,
    },
    /// It cannot be put onto those below it.
    #[error("cannot put layer {layer} onto those below it")]
    Merge {
        /// Its diff id.
        layer: Digest,
        /// Why.
        source: MergeError,
    },
    /// A file or directory beside the tree.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Makes the tree of an image in `rootfs`, an empty directory, and says what the image is.
/// `scratch`, an empty directory on the same file system, is used for layers on their way. Blocks
/// the thread that polls it: it is for a program that does nothing else.
///
/// # Errors
/// [`RootfsError`].
pub async fn make_rootfs(
    config: registry::Config,
    source: &Source,
    rootfs: &Path,
    scratch: &Path,
    rights: Rights,
) -> Result<ImageDescription, RootfsError> {
    let tree = Tree { rootfs, scratch, options: UnpackOptions { rights, ..Default::default() } };
    match source {
        Source::Registry { reference, credentials } => {
            tree.of_registry(config, reference, credentials.clone()).await
        }
        Source::Archive { path, name } => tree.of_archive(path, name.as_deref()),
    }
}

struct Tree<'a> {
    rootfs: &'a Path,
    scratch: &'a Path,
    options: UnpackOptions,
}

impl Tree<'_> {
    async fn of_registry(
        &self,
        config: registry::Config,
        reference: &Reference,
        credentials: Credentials,
    ) -> Result<ImageDescription, RootfsError> {
        let fail = |source| RootfsError::Registry {
            reference: reference.clone(),
            source: Box::new(source),
        };
        let client = Client::new(config);
        let session = client.session(reference, credentials).await.map_err(fail)?;
        let root = session.resolve().await.map_err(fail)?;
        let platform = Platform::host();
        let found = session.image(&root, &platform).await.map_err(fail)?;
        let config = session.config_blob(&found.manifest.config).await.map_err(fail)?;
        let parsed = parsed(&config, found.manifest.layers.len())?;
        let path = self.scratch.join("blob");
        let failed = |source| RootfsError::File { path: path.clone(), source };
        for (descriptor, diff_id) in found.manifest.layers.iter().zip(&parsed.diff_ids) {
            let mut file = File::create(&path).map_err(failed)?;
            let mut blob = session.blob(descriptor).await.map_err(fail)?;
            while let Some(chunk) = blob.chunk().await.map_err(fail)? {
                file.write_all(&chunk).map_err(failed)?;
            }
            drop(file);
            self.add(File::open(&path).map_err(failed)?, diff_id)?;
            std::fs::remove_file(&path).map_err(failed)?;
        }
        Ok(description::describe(&config, parsed.config)?)
    }

    fn of_archive(&self, path: &Path, name: Option<&str>) -> Result<ImageDescription, RootfsError> {
        let fail =
            |source| RootfsError::Archive { path: path.to_owned(), source: Box::new(source) };
        let images = ArchiveImage::all(path, self.scratch, &self.options).map_err(fail)?;
        let image = choose(&images, name).ok_or_else(|| {
            let names: Vec<String> = images.iter().flat_map(ArchiveImage::names).collect();
            let there = match names.as_slice() {
                [] => format!("{} images without names", images.len()),
                names => names.join(", "),
            };
            RootfsError::Which { path: path.to_owned(), there }
        })?;
        let parsed = parsed(image.config(), image.layers())?;
        for (index, diff_id) in parsed.diff_ids.iter().enumerate() {
            self.add(image.layer(index).map_err(fail)?, diff_id)?;
        }
        Ok(description::describe(image.config(), parsed.config)?)
    }

    /// Unpacks one layer and puts it onto what is there.
    fn add(&self, blob: impl Read, layer: &Digest) -> Result<(), RootfsError> {
        let layer = *layer;
        let path = self.scratch.join("layer");
        let failed = |source| RootfsError::File { path: path.clone(), source };
        std::fs::create_dir(&path).map_err(failed)?;
        let from = open_to_list(&path).map_err(failed)?;
        let (auto, beside) = (Compression::Auto, Beside::default());
        let blob = BufReader::with_capacity(READ_BYTES, blob);
        let unpacked = layer::unpack(blob, from.as_fd(), auto, &self.options, beside)
            .map_err(|source| RootfsError::Unpack { layer, source })?;
        if unpacked.diff_id != layer {
            return Err(RootfsError::Digest { wanted: layer, found: unpacked.diff_id });
        }
        let to = open_to_list(self.rootfs)
            .map_err(|source| RootfsError::File { path: self.rootfs.to_owned(), source })?;
        merge::merge(from.as_fd(), to.as_fd(), unpacked.implied, self.options.rights)
            .map_err(|source| RootfsError::Merge { layer, source })?;
        let scratch = sys::fs::open_dir(self.scratch).map_err(failed)?;
        layer::remove_tree(scratch.as_fd(), c"layer")
            .map_err(|error| failed(error.source.into()))?;
        Ok(())
    }
}

fn open_to_list(path: &Path) -> std::io::Result<std::os::fd::OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn parsed(config: &[u8], layers: usize) -> Result<Parsed, ConfigError> {
    let parsed = config::parse(config)?;
    parsed.check(layers, &Platform::host())?;
    Ok(parsed)
}

fn choose<'a>(images: &'a [ArchiveImage], name: Option<&str>) -> Option<&'a ArchiveImage> {
    match name {
        Some(name) => images.iter().find(|image| image.is_called(name)),
        None => match images {
            [only] => Some(only),
            _ => None,
        },
    }
}
