//! Images as files: what `docker save` and tools that write OCI layouts make, as a tar or as a
//! directory.

mod contents;
mod load;
mod manifest;
mod members;
mod save;
mod single;

use std::io;
use std::path::PathBuf;

use model::{Digest, Reference, ReferenceError};
use registry::{ManifestError, RegistryError};
use snapshot::{FixupError, LayerTarError};
use store::WriteError;

use crate::config::ConfigError;
use crate::error::{LayerError, PullError};

pub use load::Loaded;
pub use save::{ArchiveStream, LayerSource};
pub(crate) use single::ArchiveImage;

/// Why an archive was not stored, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be opened or read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The archive.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is compressed, and cannot be inflated.
    #[error("cannot decompress {}", path.display())]
    Inflate {
        /// The archive.
        path: PathBuf,
        /// Why.
        #[source]
        source: layer::UnpackError,
    },
    /// There is no place to inflate it to.
    #[error("there is no place in {} for the decompressed archive", path.display())]
    Scratch {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not a tar.
    #[error("{} is neither a directory nor a tar, compressed by gzip or zstd or not", path.display())]
    NotATar {
        /// The archive.
        path: PathBuf,
        /// Why.
        #[source]
        source: layer::UnpackError,
    },
    /// Neither of the files that say what is in it.
    #[error("{} has neither manifest.json nor index.json: it holds no image", path.display())]
    NoImages {
        /// The archive.
        path: PathBuf,
    },
    /// Something it speaks of is not there.
    #[error("the archive has no `{member}`")]
    Missing {
        /// What.
        member: String,
    },
    /// A description that is too long to be one.
    #[error("`{member}` of the archive is larger than {limit} bytes")]
    TooLarge {
        /// What.
        member: String,
        /// Bytes.
        limit: u64,
    },
    /// A description that cannot be understood.
    #[error("`{member}` of the archive cannot be understood")]
    Json {
        /// What.
        member: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Content that is not what its name says.
    #[error("`{member}` of the archive has digest {found}")]
    Digest {
        /// What.
        member: String,
        /// What was found.
        found: Digest,
    },
    /// A manifest that is of no use here.
    #[error("cannot use a manifest of the archive")]
    Manifest(#[source] RegistryError),
    /// A name that is none.
    #[error("the archive calls an image `{name}`")]
    Name {
        /// As written.
        name: String,
        /// Why.
        #[source]
        source: ReferenceError,
    },
    /// A name of other content: pulls by digest would take this image for that.
    #[error("the archive calls an image `{name}`, whose digest is not its own")]
    ForeignName {
        /// As written.
        name: String,
    },
    /// The image is of no use here.
    #[error("cannot use image {id} of the archive")]
    Config {
        /// The image.
        id: Digest,
        /// Why.
        #[source]
        source: ConfigError,
    },
    /// A layer could not be stored.
    #[error("cannot store layer `{member}` of the archive")]
    Layer {
        /// Which.
        member: String,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// The layers do not fit on each other.
    #[error("cannot put the layers of image {id} together")]
    Fixup {
        /// The image.
        id: Digest,
        /// Why.
        #[source]
        source: Box<FixupError>,
    },
    /// The record could not be written.
    #[error("cannot record image {id}")]
    Record {
        /// The image.
        id: Digest,
        /// Why.
        #[source]
        source: WriteError,
    },
    /// The program is shutting down.
    #[error("interrupted by shutdown")]
    ShuttingDown,
}

/// Why an image was not written to an archive.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// Its manifest or configuration cannot be read.
    #[error("cannot read the stored description of image {id}")]
    Stored {
        /// The image.
        id: Digest,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// The store cannot give the layer as it was, and no registry is known that could.
    #[error(
        "layer {layer} of image {id} cannot be packed again, and the image came from no registry that could give it"
    )]
    NoSource {
        /// The image.
        id: Digest,
        /// The layer.
        layer: Digest,
    },
    /// A layer of the store cannot be opened.
    #[error("cannot read a layer of image {id}")]
    Layer {
        /// The image.
        id: Digest,
        /// Why.
        #[source]
        source: LayerTarError,
    },
    /// A layer of the store cannot be packed.
    #[error("cannot pack layer {layer} again; `knarr image verify` tells what became of it")]
    Pack {
        /// The layer.
        layer: Digest,
        /// Why.
        #[source]
        source: layer::RepackError,
    },
    /// A layer could not be fetched.
    #[error("cannot fetch the layers of {reference} for the archive")]
    Fetch {
        /// Where they are.
        reference: Reference,
        /// Why.
        #[source]
        source: Box<PullError>,
    },
    /// What came is not the layer: the registry's fault, or damage in the store.
    #[error(
        "layer {wanted} came with digest {found}; `knarr image verify` tells whether the store is damaged"
    )]
    Digest {
        /// What the manifest says.
        wanted: Digest,
        /// What came.
        found: Digest,
    },
}
