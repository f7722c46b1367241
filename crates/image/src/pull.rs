//! A pull: resolve, look what is here already, fetch the rest, record.

mod feed;
mod layer;
mod source;

use std::collections::HashSet;
use std::sync::Arc;

use failpoint::Point;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use model::{Digest, Platform, Reference};
use registry::{Credentials, Descriptor, ImageManifest, Session};

pub(crate) use self::layer::{Context, Failure, Purpose, ensure};
use crate::collect::blocking;
use crate::config::{self, Parsed};
use crate::error::PullError;
use crate::image::Image;
use crate::images::Inner;
use crate::progress::Reporter;
use crate::record::{Documents, ImageRecord};
use crate::slots::Hold;

/// Pulls `reference`. When dropped, everything under way stops.
pub(crate) async fn pull(
    inner: &Arc<Inner>,
    reference: &Reference,
    credentials: Credentials,
    platform: Option<Platform>,
) -> Result<Arc<Image>, PullError> {
    let platform = platform.unwrap_or_else(Platform::host);
    let reporter = inner.board.start(reference);
    let fail = |error| PullError::registry(reference, error);
    let session = inner.registry.session(reference, credentials).await.map_err(fail)?;
    // Asked each time: it says what a tag means now, and that this caller may have it.
    let root = session.resolve().await.map_err(fail)?;
    allowed(inner, reference, &root).await?;
    if let Some(image) = rename(inner, reference, &root.digest, &platform).await? {
        return Ok(image);
    }
    let found = session.image(&root, &platform).await.map_err(fail)?;
    let config = session.config_blob(&found.manifest.config).await.map_err(fail)?;
    let parsed = config::parse(&config)
        .and_then(|parsed| parsed.check(found.manifest.layers.len(), &platform).map(|()| parsed))
        .map_err(|source| PullError::Config { reference: reference.clone(), source })?;
    let hold = Arc::new(inner.slots.hold(&parsed.diff_ids));
    fetch_layers(inner, reference, session, &found, &parsed, (&hold, &reporter)).await?;
    let image = Image::new(new_record(&found), parsed);
    let documents = Documents { manifest: found.bytes, index: found.index, config };
    let published =
        publish(inner, reference, root.digest, image.id, Some((image, documents)), hold).await?;
    published.ok_or_else(|| PullError::ShuttingDown { reference: reference.clone() })
}

/// Asks the node's verifiers, if there are any; also about what is here already.
async fn allowed(
    inner: &Arc<Inner>,
    reference: &Reference,
    root: &Descriptor,
) -> Result<(), PullError> {
    let Some(verifiers) = inner.verifiers.clone() else { return Ok(()) };
    let (name, root) = (reference.clone(), root.clone());
    let asked = blocking(inner, move |_| verifiers.ask(&name, &root)).await;
    let reference = reference.clone();
    match asked {
        Some(verdict) => verdict.map_err(|source| PullError::Refused { reference, source }),
        None => Err(PullError::ShuttingDown { reference }),
    }
}

/// If an image here came from `root` and is whole, all that is new is a name.
async fn rename(
    inner: &Arc<Inner>,
    reference: &Reference,
    root: &Digest,
    platform: &Platform,
) -> Result<Option<Arc<Image>>, PullError> {
    let images = inner.catalog.load_full();
    // One index leads to an image for each platform.
    let is_it = |image: &&Arc<Image>| image.came_from(root) && image.is_for(platform);
    let Some(known) = images.iter().find(is_it).cloned() else {
        return Ok(None);
    };
    let hold = Arc::new(inner.slots.hold(&known.diff_ids));
    for layer in &known.diff_ids {
        // Waits for a removal that has begun.
        drop(inner.slots.lock(layer).await);
        if !inner.layers.contains(layer) {
            return Ok(None);
        }
    }
    publish(inner, reference, *root, known.id, None, hold).await
}

/// Fetches what is missing; the first failure stops the others.
async fn fetch_layers(
    inner: &Arc<Inner>,
    reference: &Reference,
    session: Session,
    found: &ImageManifest,
    parsed: &Parsed,
    (hold, reporter): (&Arc<Hold>, &Arc<Reporter>),
) -> Result<(), PullError> {
    reporter.layers(&found.manifest.layers);
    let context = Context::new(inner, session, Arc::clone(hold), Arc::clone(reporter));
    let context = &context;
    // Builders repeat the empty layer.
    let mut seen = HashSet::new();
    let wanted: Vec<(Descriptor, Digest)> = found
        .manifest
        .layers
        .iter()
        .cloned()
        .zip(parsed.diff_ids.iter().copied())
        .filter(|(_, diff_id)| seen.insert(*diff_id))
        .collect();
    let fetch = |(blob, diff_id): (Descriptor, Digest)| async move {
        let ensured = Box::pin(ensure(context, &blob, diff_id, Purpose::Have)).await;
        ensured.map_err(|failure| match failure {
            Failure::Registry(source) => PullError::registry(reference, source),
            Failure::Layer(source) => {
                PullError::Layer { reference: reference.clone(), layer: blob.digest, source }
            }
        })
    };
    // Each waits for its turn by itself: one that is on its way to the device takes none.
    let all = wanted.len().max(1);
    stream::iter(wanted.into_iter().map(fetch)).buffer_unordered(all).try_collect::<()>().await
}

fn new_record(found: &ImageManifest) -> ImageRecord {
    let ImageManifest { digest, bytes, manifest, .. } = found;
    let config = usize::try_from(manifest.config.size).unwrap_or(usize::MAX);
    let other = config.saturating_add(bytes.len());
    ImageRecord::new(manifest.config.digest, *digest, &manifest.layers, other)
}

/// Writes the record on a blocking thread, which keeps the layers held until it is done even if
/// nobody waits for it any more.
async fn publish(
    inner: &Arc<Inner>,
    reference: &Reference,
    root: Digest,
    id: Digest,
    fresh: Option<(Image, Documents)>,
    hold: Arc<Hold>,
) -> Result<Option<Arc<Image>>, PullError> {
    let (inner, name) = (Arc::clone(inner), reference.clone());
    let published = tokio::task::spawn_blocking(move || {
        if let Some((image, _)) = &fresh {
            inner.layers.complete(&image.diff_ids).map_err(Box::new)?;
        }
        let published = inner.publish(&name, &root, id, fresh);
        drop(hold);
        failpoint::pass(Point::ImageAnswer);
        Ok(published)
    });
    let reference = reference.clone();
    match published.await {
        Ok(Ok(published)) => published.map_err(|source| PullError::Record { reference, source }),
        Ok(Err(source)) => Err(PullError::Fixup { reference, source }),
        Err(_) => Err(PullError::ShuttingDown { reference }),
    }
}
