//! Layers as the tars they were.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use layer::{Packed, RepackError};
use model::Digest;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::ingest::{DIRECTORY, FS, SKELETON};
use crate::layers::{Layers, MissingLayer};

/// Why a layer cannot be had as a tar.
#[derive(Debug, thiserror::Error)]
pub enum LayerTarError {
    #[error(transparent)]
    Missing(#[from] MissingLayer),
    #[error("cannot open layer {diff_id}")]
    Open { diff_id: Digest, source: Errno },
    #[error("cannot use the skeleton of layer {diff_id}")]
    Skeleton { diff_id: Digest, source: RepackError },
}

/// The tar of a layer, not yet put together.
#[derive(Debug)]
pub struct LayerTar {
    packed: Packed,
    fs: OwnedFd,
}

impl LayerTar {
    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.packed.bytes()
    }

    /// Writes it; gives its digest, which is the layer's unless the disk has lost something. Blocks.
    ///
    /// # Errors
    /// [`RepackError`].
    pub fn write(&self, out: impl Write) -> Result<Digest, RepackError> {
        self.packed.write(self.fs.as_fd(), out)
    }
}

impl Layers {
    /// The layer as the tar it was; `None` if that is not known: it was unpacked by an earlier
    /// version, or replaced a file of its own. The caller keeps the layer from being removed.
    ///
    /// # Errors
    /// [`LayerTarError`].
    pub fn tar(&self, diff_id: &Digest) -> Result<Option<LayerTar>, LayerTarError> {
        let diff_id = *diff_id;
        self.seal(&diff_id).ok_or(MissingLayer { diff_id })?;
        let fault = |source| LayerTarError::Open { diff_id, source };
        let dir = rustix::fs::openat(&self.layers.fd, diff_id.hex(), DIRECTORY, Mode::empty())
            .map_err(fault)?;
        let fs = rustix::fs::openat(&dir, FS, DIRECTORY, Mode::empty()).map_err(fault)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let skeleton = match rustix::fs::openat(&dir, SKELETON, flags, Mode::empty()) {
            Ok(skeleton) => File::from(skeleton),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(fault(errno)),
        };
        let packed =
            Packed::open(skeleton).map_err(|source| LayerTarError::Skeleton { diff_id, source })?;
        Ok(Some(LayerTar { packed, fs }))
    }
}
