//! Failures of pulls and removals, by what a caller does about them.

use std::io;
use std::path::PathBuf;

use model::{Digest, Reference};
use registry::RegistryError;
use store::WriteError;

use crate::catalog::ResolveError;
use crate::config::ConfigError;
use crate::verifiers::VerifierError;

/// Why the images of a root cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory of records cannot be made or read.
    #[error("cannot use {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why a pull failed. Each variant names the reference; causes are in `source()`.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry does not have it.
    #[error("image {reference} not found")]
    NotFound {
        /// What was pulled.
        reference: Reference,
        /// The registry's answer.
        #[source]
        source: RegistryError,
    },
    /// Log-in is needed, or was refused.
    #[error("not allowed to pull image {reference}")]
    Unauthorized {
        /// What was pulled.
        reference: Reference,
        /// The registry's answer.
        #[source]
        source: RegistryError,
    },
    /// The registry cannot be reached, is overloaded or fell silent: later may be better.
    #[error("cannot pull image {reference} now")]
    RegistryUnavailable {
        /// What was pulled.
        reference: Reference,
        /// How it is unavailable.
        #[source]
        source: RegistryError,
    },
    /// Any other failure of or refusal by the registry, or content that is not what it should be.
    #[error("cannot pull image {reference}")]
    Registry {
        /// What was pulled.
        reference: Reference,
        /// What went wrong.
        #[source]
        source: RegistryError,
    },
    /// The node's verifiers do not let it in.
    #[error("image {reference} may not be pulled")]
    Refused {
        /// What was to be pulled.
        reference: Reference,
        /// Who says so, and why.
        #[source]
        source: VerifierError,
    },
    /// The image's configuration is not usable here.
    #[error("cannot use image {reference}")]
    Config {
        /// What was pulled.
        reference: Reference,
        /// Why.
        #[source]
        source: ConfigError,
    },
    /// A layer arrived but could not be stored, or is not what the image says.
    #[error("cannot store layer {layer} of image {reference}")]
    Layer {
        /// What was pulled.
        reference: Reference,
        /// Digest of the compressed blob.
        layer: Digest,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// Its layers arrived but do not fit on each other.
    #[error("cannot put the layers of image {reference} together")]
    Fixup {
        /// What was pulled.
        reference: Reference,
        /// Why.
        #[source]
        source: Box<snapshot::FixupError>,
    },
    /// The image's record could not be written.
    #[error("cannot record image {reference}")]
    Record {
        /// What was pulled.
        reference: Reference,
        /// Why.
        #[source]
        source: WriteError,
    },
    /// The program is shutting down.
    #[error("pull of image {reference} ended by shutdown")]
    ShuttingDown {
        /// What was pulled.
        reference: Reference,
    },
}

impl PullError {
    pub(crate) fn registry(reference: &Reference, source: RegistryError) -> Self {
        let reference = reference.clone();
        match source {
            RegistryError::NotFound { .. } => Self::NotFound { reference, source },
            RegistryError::Unauthorized { .. } | RegistryError::PlainTextCredentials { .. } => {
                Self::Unauthorized { reference, source }
            }
            RegistryError::Unavailable { .. }
            | RegistryError::Stalled { .. }
            | RegistryError::Status { status: 429 | 500..=599, .. } => {
                Self::RegistryUnavailable { reference, source }
            }
            RegistryError::ShuttingDown => Self::ShuttingDown { reference },
            RegistryError::Status { .. }
            | RegistryError::Redirect { .. }
            | RegistryError::Truncated { .. }
            | RegistryError::TooLarge { .. }
            | RegistryError::DigestMismatch { .. }
            | RegistryError::UnsupportedMediaType { .. }
            | RegistryError::UnsupportedPlatform { .. }
            | RegistryError::Malformed { .. }
            | RegistryError::Hosts { .. } => Self::Registry { reference, source },
        }
    }
}

/// Why a layer that arrived was not stored.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// There is no place to unpack it.
    #[error("there is no place to unpack it")]
    Begin(#[from] snapshot::IngestError),
    /// It could not be made durable.
    #[error("it could not be made durable")]
    Commit(#[from] snapshot::CommitError),
    /// The tar could not be unpacked.
    #[error("it cannot be unpacked")]
    Unpack(#[from] layer::UnpackError),
    /// The compressed bytes are not those the manifest names.
    #[error("its content has digest {found}")]
    BlobDigest {
        /// Digest of what came.
        found: Digest,
    },
    /// The unpacked bytes are not those the configuration names.
    #[error("unpacked it has digest {found}, the image configuration says {wanted}")]
    DiffId {
        /// What the configuration says.
        wanted: Digest,
        /// What came out.
        found: Digest,
    },
    /// No thread to unpack it on.
    #[error("there is no thread to unpack it on")]
    Thread {
        /// Why.
        source: io::Error,
    },
    /// The program is shutting down.
    #[error("interrupted by shutdown")]
    ShuttingDown,
}

impl LayerError {
    /// Whether other bytes could be better ones.
    pub(crate) fn is_of_content(&self) -> bool {
        match self {
            Self::BlobDigest { .. } | Self::DiffId { .. } => true,
            Self::Unpack(error) => !matches!(
                error,
                layer::UnpackError::Read { .. }
                    | layer::UnpackError::Syscall { .. }
                    | layer::UnpackError::Inventory { .. }
                    | layer::UnpackError::Skeleton { .. }
                    | layer::UnpackError::Write { .. }
                    | layer::UnpackError::Thread { .. }
            ),
            Self::Begin(_) | Self::Commit(_) | Self::Thread { .. } | Self::ShuttingDown => false,
        }
    }
}

/// Why an image was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The name leads to no image for certain.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// Its record could not be removed.
    #[error("cannot remove image {id}")]
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
