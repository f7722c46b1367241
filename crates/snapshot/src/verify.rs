//! Whether a layer still holds what was unpacked.

use std::fs::File;
use std::io::BufReader;
use std::os::fd::AsFd;

use layer::{Verified, VerifyError};
use model::Digest;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::ingest::{DIRECTORY, FS, INVENTORY};
use crate::layers::{Layers, MissingLayer};
use crate::packed::LayerTarError;

/// Why a layer could not be compared with its list.
#[derive(Debug, thiserror::Error)]
pub enum LayerVerifyError {
    #[error(transparent)]
    Missing(#[from] MissingLayer),
    #[error("cannot open layer {diff_id}")]
    Open { diff_id: Digest, source: Errno },
}

/// What is known about a layer after looking at all of it.
#[derive(Debug)]
pub enum LayerVerdict {
    /// Compared; what differs is listed.
    Compared(Verified),
    /// Every file has its sum, and still the whole is another layer: somebody changed files and
    /// the list.
    Altered {
        /// Of the tar that the files make now.
        found: Digest,
    },
    /// Every file has its sum, but what is needed beside them for the digest is damaged.
    NotPacked(LayerTarError),
    /// There is nothing sound to compare with.
    NoInventory(VerifyError),
    /// It was unpacked by a version that wrote no list.
    NeverListed,
}

impl LayerVerdict {
    /// Whether the layer is as it was unpacked, for all one can know.
    pub fn is_sound(&self) -> bool {
        match self {
            Self::Compared(verified) => verified.different == 0,
            Self::Altered { .. } | Self::NotPacked(_) | Self::NoInventory(_) => false,
            Self::NeverListed => true,
        }
    }
}

impl Layers {
    /// Reads every file of a layer and compares it with what was unpacked, then the digest of the
    /// tar they make with the one that the image asks for. Blocks for as long as the disk takes.
    /// The caller keeps the layer from being removed.
    ///
    /// # Errors
    /// The layer is not there or cannot be opened; findings are no error.
    pub fn verify(&self, diff_id: &Digest) -> Result<LayerVerdict, LayerVerifyError> {
        let diff_id = *diff_id;
        let seal = self.seal(&diff_id).ok_or(MissingLayer { diff_id })?;
        let Some(checksum) = seal.inventory else { return Ok(LayerVerdict::NeverListed) };
        let fault = |source| LayerVerifyError::Open { diff_id, source };
        let dir = rustix::fs::openat(&self.layers.fd, diff_id.hex(), DIRECTORY, Mode::empty())
            .map_err(fault)?;
        let fs = match rustix::fs::openat(&dir, FS, DIRECTORY, Mode::empty()) {
            Ok(fs) => fs,
            Err(source) => return Ok(LayerVerdict::NoInventory(VerifyError::Root { source })),
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let listed = rustix::fs::openat(&dir, INVENTORY, flags, Mode::empty())
            .map_err(|errno| VerifyError::Read { source: errno.into() })
            .and_then(|file| {
                layer::verify(fs.as_fd(), BufReader::new(File::from(file)), &checksum)
            });
        Ok(match listed {
            Ok(verified) if verified.different == 0 => match self.whole(&diff_id) {
                Ok(None) => LayerVerdict::Compared(verified),
                Ok(Some(found)) if found == diff_id => LayerVerdict::Compared(verified),
                Ok(Some(found)) => LayerVerdict::Altered { found },
                Err(error) => LayerVerdict::NotPacked(error),
            },
            Ok(verified) => LayerVerdict::Compared(verified),
            Err(error) => LayerVerdict::NoInventory(error),
        })
    }

    /// The digest of the layer's tar; `None` if the tar cannot be had from its files.
    fn whole(&self, diff_id: &Digest) -> Result<Option<Digest>, LayerTarError> {
        let Some(tar) = self.tar(diff_id)? else { return Ok(None) };
        let written = tar.write(std::io::sink());
        written.map(Some).map_err(|source| LayerTarError::Skeleton { diff_id: *diff_id, source })
    }
}
