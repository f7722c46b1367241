//! Records that were set aside because they cannot be read, now or by an earlier daemon, and what
//! must be kept for them.

use std::collections::HashSet;
use std::path::Path;

use model::{Digest, SandboxId};
use store::RecordFile;

use super::{Aside, names};
use crate::context::Context;
use crate::record::ContainerRecord;

/// What a directory is called whose record cannot be read: `<id>.bad`.
pub(super) const EXTENSION: &str = "bad";

/// Everything set aside in the store. Blocking.
pub(super) fn of(cx: &Context) -> Aside {
    let pods = cx.paths().pods();
    let mut aside = Aside::default();
    let mut unknown = false;
    for name in listed(&pods, &mut unknown) {
        let whose = set_aside(&name).and_then(|id| SandboxId::parse(id).ok());
        let is_pod = whose.is_some() || SandboxId::parse(&name).is_ok();
        if !is_pod {
            continue;
        }
        let containers = pods.join(&name).join("containers");
        for container in listed(&containers, &mut unknown) {
            let lost = set_aside(&container).is_some();
            if whose.is_some() || lost {
                let record = containers.join(container).join("container.json");
                unknown |= !keep_layers(cx, &record, &mut aside.layers);
            }
        }
        aside.pods.extend(whose);
    }
    if unknown {
        // Nobody knows what these containers stand on: so nothing that is there now goes.
        aside.layers.extend(cx.parts.layers.list());
    }
    if !aside.pods.is_empty() || unknown {
        tracing::warn!(
            pods = aside.pods.len(),
            layers = aside.layers.len(),
            "what records set aside may own is kept: look at <root>/pods/*.bad"
        );
    }
    aside
}

fn set_aside(name: &str) -> Option<&str> {
    name.strip_suffix(EXTENSION)?.strip_suffix('.')
}

fn listed(dir: &Path, unknown: &mut bool) -> Vec<String> {
    names(dir).unwrap_or_else(|error| {
        tracing::warn!(path = %dir.display(), %error, "cannot be listed");
        *unknown = true;
        Vec::new()
    })
}

/// Whether the record told them.
fn keep_layers(cx: &Context, record: &Path, layers: &mut HashSet<Digest>) -> bool {
    match RecordFile::new(record.to_owned()).read::<ContainerRecord>(cx.disk()) {
        Ok(Some(record)) => {
            layers.extend(record.all_layers());
            true
        }
        // Never announced: it has nothing.
        Ok(None) => true,
        Err(_said_when_it_was_set_aside) => false,
    }
}
