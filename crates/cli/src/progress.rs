//! Bars for the layers of a running pull, where the runtime reports them.

use std::{collections::HashMap, future::Future, time::Duration};

use cri_api::knarr::{LayerProgress, LayerStage, PullProgress, WatchPullRequest};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::{
    client::{Client, RpcError},
    human::short_id,
};

/// Awaits `pull` and meanwhile draws what the runtime tells of it. A runtime that tells nothing
/// is fine: there are no bars then.
pub(crate) async fn drawn<T>(
    client: &Client,
    image: &str,
    pull: impl Future<Output = Result<T, RpcError>>,
) -> Result<T, RpcError> {
    let mut bars = Bars::default();
    let mut service = client.progress();
    let watch = async {
        let request = WatchPullRequest { image: image.to_owned() };
        if let Ok(answer) = service.watch_pull(request).await {
            let mut stream = answer.into_inner();
            while let Ok(Some(progress)) = stream.message().await {
                bars.show(&progress);
            }
        }
    };
    tokio::pin!(pull);
    // The pull alone says when it is over; the watcher may end before it.
    let early = tokio::select! {
        answer = &mut pull => Some(answer),
        () = watch => None,
    };
    let answer = match early {
        Some(answer) => answer,
        None => pull.await,
    };
    bars.clear();
    answer
}

#[derive(Default)]
struct Bars {
    all: MultiProgress,
    layers: HashMap<String, ProgressBar>,
}

impl Bars {
    fn show(&mut self, progress: &PullProgress) {
        for layer in &progress.layers {
            let bar = self.layers.entry(layer.digest.clone()).or_insert_with(|| {
                let bar = self.all.add(ProgressBar::new(layer.total_bytes).with_style(style()));
                bar.set_prefix(short_id(&layer.digest).to_owned());
                bar.enable_steady_tick(Duration::from_millis(200));
                bar
            });
            bar.set_length(layer.total_bytes);
            bar.set_position(layer.done_bytes);
            bar.set_message(stage_word(layer));
            if matches!(layer.stage(), LayerStage::Done | LayerStage::Present) {
                bar.abandon();
            }
        }
    }

    fn clear(&self) {
        // A terminal that went away is found out by the next write of a result.
        drop(self.all.clear());
    }
}

fn style() -> ProgressStyle {
    let template = "{prefix:13} {msg:11} {bar:30} {bytes:>11} / {total_bytes:11} {bytes_per_sec}";
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn stage_word(layer: &LayerProgress) -> &'static str {
    match layer.stage() {
        LayerStage::Waiting => "waiting",
        LayerStage::Downloading => "downloading",
        LayerStage::Syncing => "syncing",
        LayerStage::Done => "done",
        LayerStage::Present => "present",
    }
}
