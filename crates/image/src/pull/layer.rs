//! One layer: from the registry into the layer store, in one pass.

use std::sync::Arc;

use layer::{Compression, UnpackOptions};
use model::Digest;
use registry::{Descriptor, LayerFormat, RegistryError, Session};
use snapshot::Layers;

use super::feed::{FeedReader, feed};
use crate::error::LayerError;
use crate::progress::{Reporter, Stage};
use crate::slots::{Hold, Slots};

/// Watchers are told of every so many bytes.
const REPORT_EVERY: u64 = 256 * 1024;

/// What all layers of one pull share.
pub(super) struct Context {
    pub(super) session: Session,
    pub(super) layers: Arc<Layers>,
    pub(super) slots: Arc<Slots>,
    pub(super) hold: Arc<Hold>,
    pub(super) reporter: Arc<Reporter>,
}

/// Which half of the pipeline failed.
#[derive(Debug)]
pub(super) enum Failure {
    Registry(RegistryError),
    Layer(LayerError),
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

impl From<LayerError> for Failure {
    fn from(error: LayerError) -> Self {
        Self::Layer(error)
    }
}

/// Makes sure that layer `diff_id` is in the store. If another pull is fetching it, waits for
/// that and looks again. When dropped the download stops, and with it the unpacking thread,
/// which takes its half-made directory along.
pub(super) async fn ensure(
    context: &Context,
    blob: &Descriptor,
    diff_id: Digest,
) -> Result<(), Failure> {
    let guard = context.slots.lock(&diff_id).await;
    if context.layers.contains(&diff_id) {
        context.reporter.stage(&blob.digest, Stage::Present);
        return Ok(());
    }
    context.reporter.stage(&blob.digest, Stage::Downloading);
    let stream = context.session.blob(blob).await?;
    let (feeder, reader) = feed();
    let unpacking = tokio::task::spawn_blocking({
        let job = Job {
            layers: Arc::clone(&context.layers),
            reporter: Arc::clone(&context.reporter),
            blob: blob.clone(),
            diff_id,
        };
        let hold = Arc::clone(&context.hold);
        move || {
            let result = job.run(reader);
            // Kept to the last even when nobody waits for this thread any more: the layer must
            // neither be collected nor made twice meanwhile.
            drop((hold, guard));
            result
        }
    });
    let mut next_report = 0;
    let fed = feeder
        .pump(stream, |received| {
            if received >= next_report {
                next_report = received + REPORT_EVERY;
                context.reporter.received(&blob.digest, received);
            }
        })
        .await;
    // Also after a failed download: its cause comes first, but the thread has to be gone.
    let unpacked = unpacking.await.map_err(|_| LayerError::ShuttingDown);
    fed?;
    unpacked??;
    context.reporter.stage(&blob.digest, Stage::Done);
    Ok(())
}

struct Job {
    layers: Arc<Layers>,
    reporter: Arc<Reporter>,
    blob: Descriptor,
    diff_id: Digest,
}

impl Job {
    /// Blocks until the layer is sealed on the device, or the reader fails.
    fn run(self, reader: FeedReader) -> Result<(), LayerError> {
        let ingest = self.layers.begin()?;
        let compression = compression(&self.blob);
        let unpacked =
            layer::unpack(reader, ingest.root(), compression, &UnpackOptions::default())?;
        if unpacked.blob_digest != self.blob.digest {
            return Err(LayerError::BlobDigest { found: unpacked.blob_digest });
        }
        if unpacked.diff_id != self.diff_id {
            return Err(LayerError::DiffId { wanted: self.diff_id, found: unpacked.diff_id });
        }
        self.reporter.stage(&self.blob.digest, Stage::Syncing);
        self.layers.commit(ingest, &unpacked)?;
        Ok(())
    }
}

/// The media type decides whether a blob is a layer; its first bytes decide how it is packed,
/// because builders do mislabel.
fn compression(blob: &Descriptor) -> Compression {
    match blob.layer_format() {
        Some(LayerFormat::Zstd) => Compression::Zstd,
        Some(LayerFormat::Tar | LayerFormat::Gzip) | None => Compression::Auto,
    }
}
