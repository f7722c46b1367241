//! `state`, and what it shows.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Context, answer};
use crate::container::{Container, Record, Status};
use crate::error::OciError;
use crate::launching::Host;

/// OCI: the state of a container; `rootfs`, `created` and `owner` are runc's.
#[derive(Debug, Serialize)]
pub(crate) struct State {
    #[serde(rename = "ociVersion")]
    oci_version: &'static str,
    pub(crate) id: String,
    pub(crate) pid: i32,
    pub(crate) status: &'static str,
    pub(crate) bundle: String,
    rootfs: String,
    pub(crate) created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    pub(crate) owner: String,
}

impl State {
    pub(crate) fn of(host: &Host, container: &Container) -> Result<Self, OciError> {
        let record = container.record()?;
        let status = host.status(container, &record)?;
        let annotations = container.spec()?.annotations().clone().unwrap_or_default();
        let Record { id, bundle, rootfs, created, owner, init, .. } = record;
        // A number that may be another process's by now is not shown.
        let pid = init.filter(|_| status != Status::Stopped).map_or(0, |init| init.pid);
        Ok(Self {
            oci_version: crate::SPEC_VERSION,
            id,
            pid,
            status: status.as_str(),
            bundle,
            rootfs,
            created,
            annotations: annotations.into_iter().collect(),
            owner: user_name(owner),
        })
    }
}

/// By the host's table of users; a number without a name there is shown as it is.
fn user_name(uid: u32) -> String {
    let table = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let number = uid.to_string();
    let line = table.lines().find(|line| line.split(':').nth(2) == Some(&number));
    line.and_then(|line| line.split(':').next()).map_or_else(|| number.clone(), str::to_owned)
}

pub(crate) fn run(cx: &Context<'_>, id: &str) -> Result<(), OciError> {
    let container = cx.store.open(id)?;
    let state = State::of(&Host::look()?, &container)?;
    answer(&format!("{}\n", to_text(&state)))
}

/// On one line.
pub(super) fn to_line(value: &impl Serialize) -> String {
    serde_json::to_string(value)
        .unwrap_or_else(|error| unreachable!("texts and numbers are JSON: {error}"))
}

pub(super) fn to_text(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value)
        .unwrap_or_else(|error| unreachable!("texts and numbers are JSON: {error}"))
}
