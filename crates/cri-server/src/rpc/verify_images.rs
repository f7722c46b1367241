//! `knarr.v1.Images/VerifyImages`: whether images are still what was unpacked.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use cri_api::knarr::{LayerVerdict as Verdict, Login, VerifyImagesRequest};
use futures_util::Stream;
use image::{Image, LayerVerdict, Repaired};
use model::Digest;
use tonic::Status;

use super::inspect_image::known;
use super::pull_image_for::credentials;
use crate::{Server, status};

type Verdicts = Pin<Box<dyn Stream<Item = Result<Verdict, Status>> + Send>>;

/// What is left to do.
struct Todo {
    server: Server,
    layers: VecDeque<(Digest, Vec<Arc<Image>>)>,
    repair: bool,
    login: Option<Login>,
}

/// One verdict for each layer of the images, all if none is named; shared layers once.
pub(crate) fn verify_images(
    server: &Server,
    request: VerifyImagesRequest,
) -> Result<Verdicts, Status> {
    let images = if request.images.is_empty() {
        server.images.list().to_vec()
    } else {
        request.images.iter().map(|name| known(server, name)).collect::<Result<_, _>>()?
    };
    let mut layers: VecDeque<(Digest, Vec<Arc<Image>>)> = VecDeque::new();
    for image in &images {
        for diff_id in &image.diff_ids {
            match layers.iter_mut().find(|(known, _)| known == diff_id) {
                Some((_, with)) if with.iter().any(|known| known.id == image.id) => {}
                Some((_, with)) => with.push(Arc::clone(image)),
                None => layers.push_back((*diff_id, vec![Arc::clone(image)])),
            }
        }
    }
    let VerifyImagesRequest { repair, login, .. } = request;
    let todo = Todo { server: server.clone(), layers, repair, login };
    Ok(Box::pin(futures_util::stream::unfold(todo, |mut todo| async move {
        let (layer, images) = todo.layers.pop_front()?;
        let verdict = Box::pin(verify(&todo, layer, &images)).await;
        Some((verdict, todo))
    })))
}

async fn verify(todo: &Todo, layer: Digest, images: &[Arc<Image>]) -> Result<Verdict, Status> {
    let found = todo.server.images.verify(&layer).await;
    let found = found.map_err(|error| status::internal(&error))?;
    let mut verdict = Verdict {
        diff_id: layer.to_string(),
        images: images.iter().map(|image| image.id.to_string()).collect(),
        sound: found.is_sound(),
        ..Default::default()
    };
    match &found {
        LayerVerdict::Compared(compared) => {
            verdict.files = compared.checked;
            verdict.bytes = compared.bytes;
            verdict.differences = compared.different;
            verdict.findings = compared.findings.iter().map(ToString::to_string).collect();
        }
        LayerVerdict::Altered { found } => {
            let problem = format!(
                "every file has its checksum, but together they are {found}: somebody changed \
                 files and the list of their checksums"
            );
            differs(&mut verdict, problem);
        }
        LayerVerdict::NotPacked(error) => differs(&mut verdict, sandbox::chain(error)),
        LayerVerdict::NoInventory(error) => differs(&mut verdict, sandbox::chain(error)),
        LayerVerdict::NeverListed => verdict.unknown = true,
    }
    if todo.repair && !verdict.sound {
        repair(todo, layer, images, &mut verdict).await;
    }
    Ok(verdict)
}

/// Of the layer as a whole.
fn differs(verdict: &mut Verdict, problem: String) {
    verdict.differences = 1;
    verdict.findings = vec![problem];
}

/// From the first image that can give the layer again.
async fn repair(todo: &Todo, layer: Digest, images: &[Arc<Image>], verdict: &mut Verdict) {
    for image in images {
        let login = credentials(todo.login.clone());
        match todo.server.images.repair(image, &layer, login).await {
            Ok(repaired) => {
                verdict.repaired = true;
                verdict.problem.clear();
                if repaired == Repaired::StillUsed {
                    verdict.problem.push_str(
                        "containers that have it keep the damaged files until they are made anew",
                    );
                }
                return;
            }
            Err(error) => verdict.problem = sandbox::chain(&error),
        }
    }
}
