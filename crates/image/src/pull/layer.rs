//! One layer: from the registry into the layer store, in one pass.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use layer::{Compression, UnpackError, UnpackOptions};
use model::Digest;
use registry::{Descriptor, LayerFormat, RegistryError, Session};
use snapshot::Layers;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::feed::{Feeder, feed};
use super::source::Source;
use crate::error::LayerError;
use crate::images::Inner;
use crate::partial::{Partial, Partials};
use crate::progress::{Reporter, Stage};
use crate::slots::{Hold, LayerGuard, Slots};
use crate::unpack::{Wanted, unpack};

/// Watchers are told of every so many bytes.
const REPORT_EVERY: u64 = 256 * 1024;

/// What all layers of one pull share.
pub(crate) struct Context {
    pub(crate) session: Session,
    pub(crate) layers: Arc<Layers>,
    pub(crate) slots: Arc<Slots>,
    pub(crate) partials: Partials,
    /// One permit for each layer of this pull that is fetched.
    pub(crate) turns: Arc<Semaphore>,
    /// One permit for each layer that is unpacked anywhere in this process.
    pub(crate) room: Arc<Semaphore>,
    pub(crate) unpack: UnpackOptions,
    pub(crate) hold: Arc<Hold>,
    pub(crate) reporter: Arc<Reporter>,
}

impl Context {
    pub(crate) fn new(
        inner: &Inner,
        session: Session,
        hold: Arc<Hold>,
        reporter: Arc<Reporter>,
    ) -> Self {
        Self {
            session,
            layers: Arc::clone(&inner.layers),
            slots: Arc::clone(&inner.slots),
            partials: inner.partials.clone(),
            turns: Arc::new(Semaphore::new(inner.parallel_layers)),
            room: Arc::clone(&inner.room),
            unpack: inner.unpack.clone(),
            hold,
            reporter,
        }
    }
}

/// One layer's permits. They are given back when it is unpacked: while the device takes it, the
/// processors and the network are for the next.
#[derive(Debug, Default)]
struct Turn(Mutex<Vec<OwnedSemaphorePermit>>);

impl Turn {
    /// Waits for `of`, and has it too from then on.
    async fn wait(&self, of: &Arc<Semaphore>) -> Result<(), LayerError> {
        let permit = Arc::clone(of).acquire_owned().await;
        self.permits().push(permit.map_err(|_| LayerError::ShuttingDown)?);
        Ok(())
    }

    fn is_over(&self) {
        self.permits().clear();
    }

    fn permits(&self) -> MutexGuard<'_, Vec<OwnedSemaphorePermit>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which half of the pipeline failed.
#[derive(Debug)]
pub(crate) enum Failure {
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

/// Whether a layer that is there already is good enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It is.
    Have,
    /// It is damaged: a fresh one takes its place.
    Replace,
}

/// Makes sure that layer `diff_id` is in the store. If another pull is fetching it, waits for
/// that and looks again. When dropped the download stops, and with it the unpacking thread,
/// which takes its half-made directory along; bytes that took long to fetch are kept for the next
/// attempt.
pub(crate) async fn ensure(
    context: &Context,
    blob: &Descriptor,
    diff_id: Digest,
    purpose: Purpose,
) -> Result<(), Failure> {
    // In this order: who has a layer's lock only waits for those who unpack, and they come to an end.
    let turn = Arc::new(Turn::default());
    turn.wait(&context.turns).await?;
    let guard = context.slots.lock(&diff_id).await;
    if purpose == Purpose::Have && context.layers.contains(&diff_id) {
        context.reporter.stage(&blob.digest, Stage::Present);
        return Ok(());
    }
    turn.wait(&context.room).await?;
    context.reporter.stage(&blob.digest, Stage::Downloading);
    let earlier = find_earlier(context, blob).await;
    let had_some = earlier.is_some();
    // Shared, because a second attempt may need them.
    let kept = (Arc::new(guard), turn);
    match fetch(context, blob, diff_id, purpose, earlier, kept.clone()).await {
        // What an earlier attempt kept was not what it should have been.
        Err(Failure::Layer(error)) if had_some && error.is_of_content() => {
            tracing::warn!(blob = %blob.digest, "a resumed download is spoilt and begins anew");
            fetch(context, blob, diff_id, purpose, None, kept).await?;
        }
        outcome => outcome?,
    }
    context.reporter.stage(&blob.digest, Stage::Done);
    Ok(())
}

async fn find_earlier(context: &Context, blob: &Descriptor) -> Option<Partial> {
    let (partials, blob) = (context.partials.clone(), blob.clone());
    let find = move || partials.find(&blob.digest, blob.size);
    tokio::task::spawn_blocking(find).await.ok().flatten()
}

async fn fetch(
    context: &Context,
    blob: &Descriptor,
    diff_id: Digest,
    purpose: Purpose,
    earlier: Option<Partial>,
    (guard, turn): (Arc<LayerGuard>, Arc<Turn>),
) -> Result<(), Failure> {
    let kept = earlier.as_ref().map(|partial| (partial.from, partial.length));
    let replay = earlier.as_ref().map(Partial::replay).transpose();
    let earlier = match (earlier, replay) {
        (Some(partial), Ok(Some(replay))) => Some((partial, replay)),
        (None, _) => None,
        (Some(partial), Err(_) | Ok(None)) => {
            partial.remove();
            let again = fetch(context, blob, diff_id, purpose, None, (guard, turn));
            return Box::pin(again).await;
        }
    };
    let (feeder, reader) = feed();
    let source = Source::new(reader, context.partials.clone(), blob.clone(), earlier);
    let job = Job {
        layers: Arc::clone(&context.layers),
        reporter: Arc::clone(&context.reporter),
        options: context.unpack.clone(),
        blob: blob.clone(),
        diff_id,
        purpose,
        turn,
    };
    let unpacking = job.start(source, (Arc::clone(&context.hold), guard))?;
    let fed = download(context, blob, feeder, kept).await;
    // Also after a failed download: its cause comes first, but the thread has to be gone.
    let unpacked = unpacking.await.map_err(|_| LayerError::ShuttingDown);
    fed?;
    unpacked??;
    Ok(())
}

/// Feeds what `kept` does not cover.
async fn download(
    context: &Context,
    blob: &Descriptor,
    feeder: Feeder,
    kept: Option<(u64, u64)>,
) -> Result<(), RegistryError> {
    let (before, behind) = match kept {
        Some((from, length)) => (from, from.saturating_add(length)),
        None => (0, 0),
    };
    let (mut done, mut next_report) = (0, 0);
    let mut received = |bytes| {
        done += bytes;
        if done >= next_report {
            next_report = done + REPORT_EVERY;
            context.reporter.received(&blob.digest, done);
        }
    };
    if before > 0 {
        let stream = context.session.blob(blob).await?;
        if !feeder.pump(stream, before, &mut received).await? {
            return Ok(());
        }
    }
    received(behind - before);
    if behind < blob.size || blob.size == 0 {
        let stream = context.session.blob_from(blob, behind).await?;
        if !feeder.pump(stream, u64::MAX, &mut received).await? {
            return Ok(());
        }
    }
    feeder.end();
    Ok(())
}

struct Job {
    layers: Arc<Layers>,
    reporter: Arc<Reporter>,
    options: UnpackOptions,
    blob: Descriptor,
    diff_id: Digest,
    purpose: Purpose,
    turn: Arc<Turn>,
}

impl Job {
    /// Runs on a thread of its own, which gives way to whatever else the machine has to do, and so
    /// does the one it starts. `kept` is dropped last: the layer must neither be collected nor
    /// made twice meanwhile, even when nobody waits for this thread any more.
    fn start<T: Send + 'static>(
        self,
        source: Source,
        kept: T,
    ) -> Result<oneshot::Receiver<Result<(), LayerError>>, LayerError> {
        let (done, outcome) = oneshot::channel();
        let work = move || {
            if let Err(error) = sys::priority::give_way() {
                tracing::debug!(%error, "unpacking runs with the priority of everything else");
            }
            let result = self.run(source);
            drop(kept);
            // Whoever waited may have gone.
            drop(done.send(result));
        };
        std::thread::Builder::new()
            .name("layer-fetch".to_owned())
            .spawn(work)
            .map_err(|source| LayerError::Thread { source })?;
        Ok(outcome)
    }

    /// Blocks until the layer is sealed on the device, or the reader fails.
    fn run(self, mut source: Source) -> Result<(), LayerError> {
        let wanted = Wanted { blob: Some(self.blob.digest), diff_id: self.diff_id };
        let how = compression(&self.blob);
        let result = unpack(&self.layers, &mut source, how, &self.options, wanted);
        match &result {
            // The download broke, or the disk did: the bytes may serve another time.
            Err(LayerError::Unpack(UnpackError::Read { .. })) | Err(LayerError::Begin(_)) => {}
            Ok(_) | Err(_) => source.forget(),
        }
        drop(source);
        let (ingest, unpacked) = result?;
        self.turn.is_over();
        self.reporter.stage(&self.blob.digest, Stage::Syncing);
        match self.purpose {
            Purpose::Have => self.layers.commit(ingest, &unpacked)?,
            Purpose::Replace => self.layers.replace(ingest, &unpacked)?,
        }
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
