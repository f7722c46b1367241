//! Records that cannot be used: set aside now or by an earlier daemon, or left where they are.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use model::{ContainerId, Digest, SandboxId};
use store::{ReadError, RecordFile};

use super::names;
use crate::context::Context;
use crate::error::chain;
use crate::quarantine::Quarantined;
use crate::record::{ContainerRecord, PodRecord};

/// What a directory is called whose record is damaged: `<id>.bad`.
const EXTENSION: &str = "bad";

/// Those found so far.
#[derive(Debug, Default)]
pub(super) struct Broken(Vec<Quarantined>);

impl Broken {
    /// A pod, or a container of it, whose record in `dir` cannot be used.
    pub(super) fn add(
        &mut self,
        sandbox: &SandboxId,
        container: Option<ContainerId>,
        dir: &Path,
        error: &ReadError,
    ) {
        let path = set_aside(error, dir);
        let (sandbox, reason) = (sandbox.clone(), chain(error));
        self.0.push(Quarantined { sandbox, container, path, reason, layers: HashSet::new() });
    }

    /// Adds what earlier daemons set aside, and what all of it stands on. Blocking.
    pub(super) fn complete(mut self, cx: &Context) -> Vec<Quarantined> {
        let earlier = earlier(cx);
        let known: HashSet<PathBuf> = self.0.iter().map(|object| object.path.clone()).collect();
        self.0.extend(earlier.into_iter().filter(|object| !known.contains(&object.path)));
        for object in &mut self.0 {
            object.layers = layers_of(cx, object);
            tracing::error!(
                sandbox = %object.sandbox, kind = object.kind(), id = object.id(),
                path = %object.path.display(), reason = object.reason,
                "a record cannot be used; what it owns is kept: see `knarr doctor`"
            );
        }
        self.0
    }
}

/// A damaged record is moved aside, so that nothing takes its directory for one that is whole. One
/// of a newer version stays as it is, and so does one that could not be read this time.
fn set_aside(error: &ReadError, dir: &Path) -> PathBuf {
    match error {
        ReadError::Io { .. } | ReadError::Unknown { .. } => return dir.to_owned(),
        ReadError::Damaged { .. } | ReadError::Body { .. } => {}
    }
    let aside = dir.with_extension(EXTENSION);
    match std::fs::rename(dir, &aside) {
        Ok(()) => aside,
        Err(error) => {
            tracing::error!(%error, path = %dir.display(), "a damaged record is not set aside");
            dir.to_owned()
        }
    }
}

fn earlier(cx: &Context) -> Vec<Quarantined> {
    let pods = cx.paths().pods();
    let mut found = Vec::new();
    for name in listed(&pods).unwrap_or_default() {
        let whose = bad(&name);
        let Ok(sandbox) = SandboxId::parse(whose.unwrap_or(&name)) else { continue };
        let dir = pods.join(&name);
        if whose.is_some() {
            let reason = reason::<PodRecord>(cx, &dir.join("pod.json"));
            let (path, layers) = (dir, HashSet::new());
            found.push(Quarantined { sandbox, container: None, path, reason, layers });
            continue;
        }
        let containers = dir.join("containers");
        for name in listed(&containers).unwrap_or_default() {
            let Some(Ok(id)) = bad(&name).map(ContainerId::parse) else { continue };
            let path = containers.join(&name);
            found.push(Quarantined {
                sandbox: sandbox.clone(),
                container: Some(id),
                reason: reason::<ContainerRecord>(cx, &path.join("container.json")),
                path,
                layers: HashSet::new(),
            });
        }
    }
    found
}

fn bad(name: &str) -> Option<&str> {
    name.strip_suffix(EXTENSION)?.strip_suffix('.')
}

fn listed(dir: &Path) -> Option<Vec<String>> {
    names(dir)
        .inspect_err(|error| tracing::warn!(path = %dir.display(), %error, "cannot be listed"))
        .ok()
}

fn reason<R: store::Record>(cx: &Context, record: &Path) -> String {
    match RecordFile::new(record.to_owned()).read::<R>(cx.disk()) {
        Err(error) => chain(&error),
        Ok(Some(_)) => {
            let record = record.display();
            format!(
                "{record} was set aside and is whole now: take the `.bad` off the name of its directory and restart knarr"
            )
        }
        Ok(None) => format!("there is no record {}", record.display()),
    }
}

fn layers_of(cx: &Context, object: &Quarantined) -> HashSet<Digest> {
    let mut layers = HashSet::new();
    let known = if object.container.is_some() {
        keep_layers(cx, &object.path, &mut layers)
    } else {
        let containers = object.path.join("containers");
        listed(&containers).is_some_and(|names| {
            let dirs = names.iter().map(|name| containers.join(name));
            // Not `all`: each is to be looked at.
            dirs.map(|dir| keep_layers(cx, &dir, &mut layers)).fold(true, |all, one| all & one)
        })
    };
    if !known {
        // Nobody knows what these containers stand on: so nothing that is there now goes.
        layers.extend(cx.parts.layers.list());
    }
    layers
}

/// Whether the record told them.
fn keep_layers(cx: &Context, dir: &Path, layers: &mut HashSet<Digest>) -> bool {
    match RecordFile::new(dir.join("container.json")).read::<ContainerRecord>(cx.disk()) {
        Ok(Some(record)) => {
            layers.extend(record.all_layers());
            true
        }
        // Never announced: it has nothing.
        Ok(None) => true,
        Err(_said_when_it_was_set_aside) => false,
    }
}
