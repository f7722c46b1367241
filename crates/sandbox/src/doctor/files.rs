//! Records, volatile state, layers and ingests.

use std::collections::HashSet;

use model::{Digest, SandboxId};

use super::{Area, Cases, Examination, Mend, Severity};
use crate::record::ContainerRecord;

/// Pods, containers and images whose records cannot be used.
pub(super) fn records(out: &mut Examination<'_>) {
    for object in out.cx.quarantine.all() {
        let problem = format!("the record of {} {}: {}", object.kind(), object.id(), object.reason);
        let remedy = if object.container.is_some() {
            format!(
                "repair it and restart knarr, or remove its pod: `knarr rm --force {}`",
                object.sandbox
            )
        } else {
            format!(
                "repair it and restart knarr, or remove it and what it owns: `knarr rm --force {}`",
                object.sandbox
            )
        };
        out.problem(Area::Record, &object.path.display(), problem, &remedy);
    }
    for behind in out.cx.backlog.all() {
        let problem =
            format!("the record of {} {} is behind: {}", behind.kind(), behind.id(), behind.reason);
        let remedy = "make it writable, and room where there is none: it is written by itself then";
        out.problem(Area::Record, &behind.path.display(), problem, remedy);
    }
    for image in out.cx.parts.images.unusable() {
        let problem = format!("the record of image {}: {}", image.id, image.reason);
        out.advice(Area::Record, &image.path.display(), problem, "pull the image again");
    }
}

/// Directories of pods that are not known.
pub(super) fn states(out: &mut Examination<'_>) {
    let dir = out.cx.paths().pod_states();
    for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
        let id = entry.file_name().to_str().and_then(|name| SandboxId::parse(name).ok());
        // One that is gone by now went with its pod.
        if let Some(id) = id.filter(|id| !out.knows(id.as_str()) && entry.path().exists()) {
            let problem = format!("the state of pod sandbox {id}, which is not known");
            let mend = Mend::RemoveState(id);
            out.mendable(Area::State, &entry.path().display(), (problem, "remove it"), mend);
        }
    }
}

/// What the daemon knows of its layers.
pub(super) fn layers_of_all(out: &mut Examination<'_>) {
    let present: HashSet<_> = out.cx.parts.layers.list().into_iter().collect();
    let mut used: HashSet<_> = out.cx.quarantine.layers();
    for image in out.cx.parts.images.list().iter() {
        used.extend(image.diff_ids.iter().copied());
    }
    let containers = out.cx.index.containers();
    let containers = containers.iter().map(|container| container.record.as_ref());
    layers(&mut out.cases, &present, containers, Some(used));
}

/// Layers that nothing uses, and containers whose layers are not there. `used`, besides by
/// containers: without it, who uses what is not known.
pub(super) fn layers<'a>(
    out: &mut Cases,
    present: &HashSet<Digest>,
    containers: impl Iterator<Item = &'a ContainerRecord>,
    used: Option<HashSet<Digest>>,
) {
    let mut stood_on = HashSet::new();
    for container in containers {
        for layer in container.all_layers() {
            if !present.contains(&layer) {
                let problem =
                    format!("container {} stands on it and it is not there", container.id);
                out.problem(
                    Area::Layer,
                    &layer,
                    problem,
                    "remove the container and pull its image again",
                );
            }
            stood_on.insert(layer);
        }
    }
    let Some(used) = used else { return };
    for layer in present.difference(&used).filter(|layer| !stood_on.contains(layer)) {
        let problem = "no image and no container uses it".to_owned();
        let told = (problem, "remove it, as happens by itself every ten minutes");
        out.add(Area::Layer, Severity::Advice, &layer, told, Some(Mend::CollectLayers));
    }
}

/// What is from before this daemon's start should have gone then.
pub(super) fn ingests(out: &mut Examination<'_>) {
    for (name, path) in out.cx.parts.layers.abandoned() {
        let problem = "an ingest that no pull is working on".to_owned();
        let mend = Mend::RemoveIngest(name);
        out.mendable(Area::Ingest, &path.display(), (problem, "remove it"), mend);
    }
}
