//! `knarr.v1.Progress/WatchPull`: what a pull is doing, for the command line's bars.

use std::pin::Pin;

use cri_api::knarr::{LayerProgress, LayerStage, PullProgress, WatchPullRequest};
use futures_util::Stream;
use image::Stage;
use model::Reference;
use tonic::Status;

use crate::{Server, status};

type Updates = Pin<Box<dyn Stream<Item = Result<PullProgress, Status>> + Send>>;

/// Streams every change until the pull ends or the client leaves; waits for one to begin.
pub(crate) fn watch_pull(server: &Server, request: &WatchPullRequest) -> Result<Updates, Status> {
    let reference =
        Reference::parse(&request.image).map_err(|error| status::from_reference(&error))?;
    let watcher = server.images.watch_pull(&reference);
    let image = request.image.clone();
    Ok(Box::pin(futures_util::stream::unfold(Some(watcher), move |watcher| {
        let image = image.clone();
        async move {
            let mut watcher = watcher?;
            if watcher.changed().await.is_err() {
                return None;
            }
            let progress = watcher.borrow_and_update().clone();
            let finished = progress.finished;
            let message = to_cri(image, &progress);
            Some((Ok(message), (!finished).then_some(watcher)))
        }
    })))
}

fn to_cri(image: String, progress: &image::PullProgress) -> PullProgress {
    let layers = progress.layers.iter().map(|layer| LayerProgress {
        digest: layer.digest.to_string(),
        total_bytes: layer.total,
        done_bytes: layer.done,
        stage: match layer.stage {
            Stage::Waiting => LayerStage::Waiting,
            Stage::Downloading => LayerStage::Downloading,
            Stage::Syncing => LayerStage::Syncing,
            Stage::Done => LayerStage::Done,
            Stage::Present => LayerStage::Present,
        }
        .into(),
    });
    PullProgress { image, layers: layers.collect(), finished: progress.finished }
}
