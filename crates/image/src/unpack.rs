//! From a blob's bytes to an unpacked layer that is the one that was asked for.

use std::io::BufRead;

use layer::{Beside, Compression, UnpackOptions, Unpacked};
use model::Digest;
use snapshot::{Ingest, Layers};

use crate::error::LayerError;

/// Bytes that are read from a file at once.
pub(crate) const READ_BYTES: usize = 128 * 1024;

/// What a layer has to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Digest of the blob, if anybody has told it.
    pub(crate) blob: Option<Digest>,
    pub(crate) diff_id: Digest,
}

/// Unpacks a layer into a place of its own, ready to be committed. Blocks until the reader ends.
pub(crate) fn unpack(
    layers: &Layers,
    blob: impl BufRead,
    compression: Compression,
    options: &UnpackOptions,
    wanted: Wanted,
) -> Result<(Ingest, Unpacked), LayerError> {
    let ingest = layers.begin()?;
    let (mut inventory, mut skeleton) = (ingest.inventory()?, ingest.skeleton()?);
    let beside = Beside { inventory: Some(&mut inventory), skeleton: Some(&mut skeleton) };
    let unpacked = layer::unpack(blob, ingest.root(), compression, options, beside)?;
    if wanted.blob.is_some_and(|wanted| wanted != unpacked.blob_digest) {
        return Err(LayerError::BlobDigest { found: unpacked.blob_digest });
    }
    if unpacked.diff_id != wanted.diff_id {
        return Err(LayerError::DiffId { wanted: wanted.diff_id, found: unpacked.diff_id });
    }
    Ok((ingest, unpacked))
}
