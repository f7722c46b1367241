//! All spec files, and finding devices in them.

use std::collections::BTreeMap;
use std::fmt;

use crate::name::DeviceName;
use crate::spec::{Edits, Spec};

/// A spec and where it lies.
#[derive(Debug, Clone, PartialEq)]
pub struct SpecFile {
    /// Path, for messages.
    pub path: String,
    /// Rank of its directory: of two directories that define a device the higher decides.
    pub priority: usize,
    /// What it says.
    pub spec: Spec,
}

/// The devices that can be had.
#[derive(Debug, Default)]
pub struct Registry<'s> {
    devices: BTreeMap<DeviceName, Entry<'s>>,
}

#[derive(Debug)]
struct Entry<'s> {
    file: &'s SpecFile,
    edits: &'s Edits,
    /// Another file of the same rank.
    rival: Option<&'s SpecFile>,
}

/// A device that nobody can be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unresolved {
    /// No file defines it.
    Unknown(DeviceName),
    /// Two files of one directory do.
    Conflict {
        /// The device.
        name: DeviceName,
        /// One file.
        first: String,
        /// The other.
        second: String,
    },
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => write!(f, "{name}"),
            Self::Conflict { name, first, second } => {
                write!(f, "{name} (both {first} and {second} define it)")
            }
        }
    }
}

/// What is to be done for a list of devices, in order. Each edit knows whose it is.
#[derive(Debug, Default)]
pub struct Injection<'s> {
    pub(crate) edits: Vec<(String, &'s Edits)>,
}

impl<'s> Registry<'s> {
    /// Sorts the devices of these files.
    pub fn new(files: &'s [SpecFile]) -> Self {
        let mut devices: BTreeMap<DeviceName, Entry<'s>> = BTreeMap::new();
        for file in files {
            for device in &file.spec.devices {
                let name = DeviceName::new(&file.spec.kind, &device.name);
                let new = Entry { file, edits: &device.container_edits, rival: None };
                match devices.get_mut(&name) {
                    Some(old) if old.file.priority > file.priority => {}
                    Some(old) if old.file.priority == file.priority => old.rival = Some(file),
                    Some(old) => *old = new,
                    None => drop(devices.insert(name, new)),
                }
            }
        }
        Self { devices }
    }

    /// The edits of these devices; those common to a file come once, before its first device.
    ///
    /// # Errors
    /// Every device that cannot be had.
    pub fn resolve(&self, names: &[DeviceName]) -> Result<Injection<'s>, Vec<Unresolved>> {
        let mut injection = Injection::default();
        let mut unresolved = Vec::new();
        let mut seen: Vec<&str> = Vec::new();
        for name in names {
            let Some(entry) = self.devices.get(name) else {
                unresolved.push(Unresolved::Unknown(name.clone()));
                continue;
            };
            if let Some(rival) = entry.rival {
                unresolved.push(Unresolved::Conflict {
                    name: name.clone(),
                    first: entry.file.path.clone(),
                    second: rival.path.clone(),
                });
                continue;
            }
            if !seen.contains(&entry.file.path.as_str()) {
                seen.push(&entry.file.path);
                injection.edits.push((name.to_string(), &entry.file.spec.container_edits));
            }
            injection.edits.push((name.to_string(), entry.edits));
        }
        if unresolved.is_empty() { Ok(injection) } else { Err(unresolved) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;

    fn file(path: &str, priority: usize, devices: &[&str]) -> SpecFile {
        let devices: Vec<String> = devices
            .iter()
            .map(|name| {
                format!(r#"{{"name": "{name}", "containerEdits": {{"env": ["BY={path}"]}}}}"#)
            })
            .collect();
        let text = format!(
            r#"{{"cdiVersion": "0.5.0", "kind": "v.com/c", "devices": [{}],
                 "containerEdits": {{"env": ["COMMON={path}"]}}}}"#,
            devices.join(",")
        );
        SpecFile { path: path.into(), priority, spec: Spec::parse(&text, Format::Json).unwrap() }
    }

    fn resolve(files: &[SpecFile], names: &[&str]) -> Result<Vec<String>, Vec<String>> {
        let names: Vec<DeviceName> =
            names.iter().map(|name| DeviceName::new("v.com/c", name)).collect();
        let registry = Registry::new(files);
        let injection = registry
            .resolve(&names)
            .map_err(|unresolved| unresolved.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        Ok(injection.edits.iter().flat_map(|(_, edits)| edits.env.clone()).collect())
    }

    #[test]
    fn the_higher_directory_decides_and_common_edits_come_once() {
        let files = [file("low", 0, &["a", "b"]), file("high", 1, &["b"]), file("x", 0, &["c"])];
        let env = resolve(&files, &["b", "a", "c"]).unwrap();
        let want = ["COMMON=high", "BY=high", "COMMON=low", "BY=low", "COMMON=x", "BY=x"];
        assert_eq!(env, want);
        let both = [file("f", 0, &["a", "b"])];
        assert_eq!(resolve(&both, &["a", "b"]).unwrap(), ["COMMON=f", "BY=f", "BY=f"]);
    }

    #[test]
    fn unknown_and_contested_devices_are_all_named() {
        let files = [file("one", 1, &["a", "b"]), file("two", 1, &["b"]), file("low", 0, &["b"])];
        let unresolved = resolve(&files, &["a", "b", "z"]).unwrap_err();
        assert_eq!(unresolved, ["v.com/c=b (both one and two define it)", "v.com/c=z"]);
    }
}
