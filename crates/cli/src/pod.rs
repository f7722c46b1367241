//! From a Kubernetes Pod manifest to CRI requests, without touching anything.
//!
//! [`node`] keeps where each value stands, [`fields`] names every field that is missing, unknown
//! or not supported, [`read`] gives the [`manifest`], and [`plan`] turns that into what kubelet
//! would ask of a runtime. A field is honoured or refused by name; none is ignored.

mod expand;
mod fields;
mod manifest;
mod node;
mod plan;
mod quantity;
mod read;
mod read_container;
mod read_volume;
mod resources;
mod security;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use fields::Problem;
pub use manifest::HostPathKind;
pub use plan::{ContainerPlan, PodPlan, PullPolicy, VolumeImage, VolumeStep};

/// The host directory that holds a pod's `emptyDir` volumes; `knarr rm` removes it with the pod.
pub const VOLUMES_ANNOTATION: &str = "knarr.io/volumes-dir";
/// Seconds a container may take to stop, as kubelet records it.
pub const GRACE_ANNOTATION: &str = "io.kubernetes.pod.terminationGracePeriod";

/// What the plan needs to know of the host and the caller's wishes.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The pod's uid if its manifest names none.
    pub uid: String,
    /// Directory under which pods get their log directories.
    pub log_root: PathBuf,
    /// Directory under which pods get their volumes.
    pub volumes_root: PathBuf,
    /// Text of the host's resolv.conf.
    pub resolv_conf: String,
    /// Memory of the machine, bytes.
    pub memory_bytes: u64,
    /// The machine's `thermal_throttle` directories, to be masked.
    pub thermal_throttle: Vec<String>,
}

/// A manifest is not accepted.
#[derive(Debug, thiserror::Error)]
#[error("{file} cannot be run:\n  {}", lines(problems))]
pub struct ManifestError {
    /// The file's name as given.
    pub file: String,
    /// All that is wrong with it.
    pub problems: Vec<Problem>,
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n  ")
}

/// Reads a manifest and plans its pod.
///
/// # Errors
/// [`ManifestError`] with every problem found.
pub fn plan_manifest(file: &str, text: &str, facts: &Facts) -> Result<PodPlan, ManifestError> {
    let fail = |problems| ManifestError { file: file.to_owned(), problems };
    let manifest = read::read(text).map_err(fail)?;
    plan::plan(&manifest, facts).map_err(fail)
}
