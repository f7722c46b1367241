//! CDI: reading the files of vendors, and changing a container's spec as they say. Blocking.
//!
//! The directories are read whenever a container asks for a device, never before: device plugins
//! write their files at any time.

use std::io;
use std::path::{Path, PathBuf};

use cdi::{ApplyError, Format, HostNode, NodeKind, Registry, Spec, SpecFile};
use model::ContainerConfig;

/// Why a container gets no CDI device.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// What is asked for is no name.
    #[error(transparent)]
    Name(#[from] cdi::NameError),
    /// Devices that no file defines.
    #[error(
        "CDI devices that are not defined: {devices}; searched {searched}{}",
        broken.iter().map(|file| format!("; not usable: {file}")).collect::<String>()
    )]
    Unresolved {
        /// With commas.
        devices: String,
        /// With commas.
        searched: String,
        /// Files that might have had them, with what is wrong with them.
        broken: Vec<String>,
    },
    /// A directory that cannot be read.
    #[error("cannot read the CDI directory {}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What a device needs of the host is not there.
    #[error("CDI device {device} mounts {path}, which is not there")]
    MountSource {
        /// Whose edit it is.
        device: String,
        /// On the host.
        path: String,
    },
    /// An edit that cannot be done.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// Gives a container the CDI devices it asks for. CRI: those of `CDI_devices` before those of
/// annotations, after its own devices and mounts.
pub(crate) fn inject(
    dirs: &[PathBuf],
    config: &ContainerConfig,
    spec: &mut oci_spec::runtime::Spec,
) -> Result<(), CdiError> {
    let fields = config.cdi_devices.iter().map(|device| device.name.as_str());
    let names = cdi::requested(fields, &config.annotations)?;
    if names.is_empty() {
        return Ok(());
    }
    let (files, broken) = read(dirs)?;
    let registry = Registry::new(&files);
    let injection = registry
        .resolve(&names)
        .map_err(|unresolved| unresolved_error(&unresolved, dirs, broken))?;
    for (device, path) in injection.bind_sources() {
        if !Path::new(path).exists() {
            return Err(CdiError::MountSource { device: device.into(), path: path.into() });
        }
    }
    Ok(injection.apply(spec, &node_at)?)
}

fn unresolved_error(
    unresolved: &[cdi::Unresolved],
    dirs: &[PathBuf],
    broken: Vec<String>,
) -> CdiError {
    let list = |texts: Vec<String>| texts.join(", ");
    CdiError::Unresolved {
        devices: list(unresolved.iter().map(ToString::to_string).collect()),
        searched: list(dirs.iter().map(|dir| dir.display().to_string()).collect()),
        broken,
    }
}

/// Every spec file; later directories have the higher priority. A file that is no spec hides
/// nothing but itself.
fn read(dirs: &[PathBuf]) -> Result<(Vec<SpecFile>, Vec<String>), CdiError> {
    let (mut files, mut broken) = (Vec::new(), Vec::new());
    for (priority, dir) in dirs.iter().enumerate() {
        let failed = |source| CdiError::Directory { dir: dir.clone(), source };
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        let mut paths = Vec::new();
        for entry in entries {
            paths.push(entry.map_err(failed)?.path());
        }
        paths.sort();
        for path in paths {
            let Some(format) = format_of(&path) else { continue };
            let text = path.display().to_string();
            match load(&path, format) {
                Ok(spec) => files.push(SpecFile { path: text, priority, spec }),
                Err(why) => broken.push(format!("{text} ({why})")),
            }
        }
    }
    Ok((files, broken))
}

fn format_of(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()? {
        "json" => Some(Format::Json),
        "yaml" => Some(Format::Yaml),
        _ => None,
    }
}

/// The spec, or what is wrong with it for whoever misses a device of it.
fn load(path: &Path, format: Format) -> Result<Spec, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    Spec::parse(&text, format).map_err(|error| crate::error::chain(&error))
}

fn node_at(path: &str) -> io::Result<HostNode> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    // Vendors' links to nodes are as good as nodes.
    let meta = std::fs::metadata(path)?;
    let kind = if meta.file_type().is_char_device() {
        NodeKind::Char
    } else if meta.file_type().is_block_device() {
        NodeKind::Block
    } else if meta.file_type().is_fifo() {
        NodeKind::Fifo
    } else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a device node"));
    };
    Ok(HostNode {
        kind,
        major: rustix::fs::major(meta.rdev()),
        minor: rustix::fs::minor(meta.rdev()),
        mode: meta.mode() & 0o7777,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirs(scratch: &Path) -> [PathBuf; 2] {
        let dirs = ["etc", "run"].map(|name| scratch.join(name));
        std::fs::create_dir(&dirs[0]).unwrap();
        dirs
    }

    #[test]
    fn both_forms_are_read_and_what_is_broken_is_told() {
        let scratch = tempfile::tempdir().unwrap();
        // The second does not exist, as `/var/run/cdi` often does not.
        let dirs = dirs(scratch.path());
        let device = "cdiVersion: 0.3.0\nkind: v.com/c\n\
                      devices: [{name: a, containerEdits: {env: [A=1]}}]\n";
        std::fs::write(dirs[0].join("a.yaml"), device).unwrap();
        std::fs::write(dirs[0].join("b.json"), "{").unwrap();
        std::fs::write(dirs[0].join("c.txt"), "no spec").unwrap();
        let (files, broken) = read(&dirs).unwrap();
        assert_eq!(files.len(), 1);
        let [why] = broken.as_slice() else { panic!("{broken:?}") };
        assert!(why.contains("b.json (it is not a CDI spec"), "{why}");
        let unresolved = [cdi::Unresolved::Unknown(
            cdi::requested(["v.com/c=z"], &Default::default()).unwrap().remove(0),
        )];
        let text = unresolved_error(&unresolved, &dirs, broken).to_string();
        for word in ["v.com/c=z", "/etc, ", "/run", "b.json"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn nodes_are_looked_at_through_links() {
        let null = node_at("/dev/null").unwrap();
        assert_eq!((null.kind, null.major, null.minor), (NodeKind::Char, 1, 3));
        assert!(node_at("/etc/passwd").is_err());
        let scratch = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", scratch.path().join("n")).unwrap();
        assert_eq!(node_at(scratch.path().join("n").to_str().unwrap()).unwrap(), null);
    }
}
