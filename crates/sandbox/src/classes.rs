//! Classes that annotations name: of block IO, and of cache and memory bandwidth (RDT). Blocking.
//!
//! An RDT class is a group of `resctrl` the operator has made. A block IO class is defined in a
//! file of its own, in the form that the peers read.

mod block_io;
mod glob;

use std::io;
use std::path::{Path, PathBuf};

use model::{CgroupLayout, ContainerConfig, PodConfig};
use oci_spec::runtime::{LinuxIntelRdt, Spec};

pub use block_io::ClassFileError;

/// Why a container cannot have its class.
#[derive(Debug, thiserror::Error)]
pub enum ClassError {
    /// The kernel cannot do it, or nobody has mounted it.
    #[error(
        "RDT class `{class}` is asked for, but this host has no resctrl at {}: its processor or \
         kernel lacks it, or it is not mounted",
        root.display()
    )]
    NoResctrl {
        /// The class.
        class: String,
        /// Where it would be.
        root: PathBuf,
    },
    /// The groups cannot be listed.
    #[error("cannot list the RDT classes in {}", root.display())]
    ListResctrl {
        /// Where they are.
        root: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No such class.
    #[error("{kind} class `{class}` does not exist; there is {known}")]
    Unknown {
        /// `RDT` or `block IO`.
        kind: &'static str,
        /// The class.
        class: String,
        /// Those there are, with commas.
        known: String,
    },
    /// The kernel limits no block IO.
    #[error("block IO class `{class}` is asked for, but this host has no {controller} controller")]
    NoController {
        /// The class.
        class: String,
        /// `io` or `blkio`.
        controller: &'static str,
    },
    /// The file with the classes.
    #[error("block IO class `{class}` cannot be looked up in {}", file.display())]
    File {
        /// The class.
        class: String,
        /// The file.
        file: PathBuf,
        /// Why.
        source: ClassFileError,
    },
}

/// Where classes are looked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sources<'s> {
    /// The file of block IO classes.
    pub(crate) block_io: &'s Path,
    /// Where `resctrl` is mounted.
    pub(crate) resctrl: &'s Path,
    pub(crate) cgroup: &'s CgroupLayout,
}

/// Puts a container into the classes its annotations and its pod's name.
pub(crate) fn apply(
    sources: Sources<'_>,
    pod: &PodConfig,
    config: &ContainerConfig,
    spec: &mut Spec,
) -> Result<(), ClassError> {
    if let Some(class) = named("rdt", pod, config) {
        let mut rdt = LinuxIntelRdt::default();
        rdt.set_clos_id(Some(group_of(class, sources.resctrl)?));
        if let Some(linux) = spec.linux_mut() {
            linux.set_intel_rdt(Some(rdt));
        }
    }
    if let Some(class) = named("blockio", pod, config) {
        let block_io = block_io_of(class, sources)?;
        if let Some(linux) = spec.linux_mut() {
            let mut resources = linux.resources().clone().unwrap_or_default();
            resources.set_block_io(Some(block_io));
            linux.set_resources(Some(resources));
        }
    }
    Ok(())
}

/// The container's own annotation, else the pod's for this container, else the pod's for all.
fn named<'a>(kind: &str, pod: &'a PodConfig, config: &'a ContainerConfig) -> Option<&'a str> {
    let prefix = format!("{kind}.resources.beta.kubernetes.io");
    let of = |annotations: &'a model::StringMap, key: String| annotations.get(&key);
    of(&config.annotations, format!("io.kubernetes.cri.{kind}-class"))
        .or_else(|| of(&pod.annotations, format!("{prefix}/container.{}", config.name.name)))
        .or_else(|| of(&pod.annotations, format!("{prefix}/pod")))
        .map(String::as_str)
        .filter(|class| !class.is_empty())
}

/// The name the peers give the class that everything is in.
const DEFAULT_RDT_CLASS: &str = "system/default";

/// The group's name as specs have it; `/` is the root.
fn group_of(class: &str, root: &Path) -> Result<String, ClassError> {
    if !root.join("schemata").is_file() {
        return Err(ClassError::NoResctrl { class: class.to_owned(), root: root.to_owned() });
    }
    if class == DEFAULT_RDT_CLASS {
        return Ok("/".to_owned());
    }
    let failed = |source| ClassError::ListResctrl { root: root.to_owned(), source };
    let mut known = vec![DEFAULT_RDT_CLASS.to_owned()];
    for entry in std::fs::read_dir(root).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // Monitoring groups and information have no schemata.
        if entry.path().join("schemata").is_file() {
            known.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    if known.iter().any(|name| name == class) {
        return Ok(class.to_owned());
    }
    known.sort();
    Err(ClassError::Unknown { kind: "RDT", class: class.to_owned(), known: known.join(", ") })
}

fn block_io_of(
    class: &str,
    sources: Sources<'_>,
) -> Result<oci_spec::runtime::LinuxBlockIo, ClassError> {
    let failed = |source| ClassError::File {
        class: class.to_owned(),
        file: sources.block_io.to_owned(),
        source,
    };
    let classes = block_io::read(sources.block_io).map_err(failed)?;
    let Some(rules) = classes.get(class) else {
        let known: Vec<&str> = classes.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(ClassError::Unknown { kind: "block IO", class: class.to_owned(), known });
    };
    let controller = if sources.cgroup.is_v2() { "io" } else { "blkio" };
    if sources.cgroup.controller(controller).is_none() {
        return Err(ClassError::NoController { class: class.to_owned(), controller });
    }
    block_io::limits(rules).map_err(failed)
}

#[cfg(test)]
mod tests;
