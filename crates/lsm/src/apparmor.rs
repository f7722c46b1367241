//! AppArmor: which profiles are loaded, and loading the containers' default one.
//!
//! The profile is compiled here, so that a node needs no `apparmor_parser`
//! (`docs/adr/0011-own-apparmor-compiler.md`).

mod automaton;
mod pattern;
mod profile;
mod stream;

use std::io;
use std::path::{Path, PathBuf};

/// The profile of containers that name none. Whoever loads something of this name means to replace
/// it, and is replaced by the next daemon's.
pub const DEFAULT_PROFILE: &str = "knarr-default";

const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
const INTERFACE: &str = "/sys/kernel/security/apparmor";

/// Why AppArmor could not be asked or told something.
#[derive(Debug, thiserror::Error)]
pub enum AppArmorError {
    /// The list of profiles.
    #[error("cannot read the loaded AppArmor profiles from {}", path.display())]
    List {
        /// The kernel's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The default profile.
    #[error(
        "cannot load AppArmor profile `{DEFAULT_PROFILE}` by {}: knarr needs CAP_MAC_ADMIN for it",
        path.display()
    )]
    Load {
        /// The kernel's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The kernel's AppArmor interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppArmor {
    dir: PathBuf,
}

/// Whether a host has AppArmor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// Not, or switched off.
    Off,
    /// It is enabled, but there is no way to talk to it: securityfs is not mounted, as in most
    /// containers.
    Unreachable,
    /// It is there.
    On(AppArmor),
}

/// Looks whether this host has AppArmor. Blocking.
pub fn detect() -> Presence {
    let enabled = std::fs::read_to_string(ENABLED).unwrap_or_default();
    if enabled.trim() != "Y" {
        Presence::Off
    } else if Path::new(INTERFACE).join("profiles").exists() {
        Presence::On(AppArmor { dir: INTERFACE.into() })
    } else {
        Presence::Unreachable
    }
}

impl AppArmor {
    /// Names of all loaded profiles. Blocking.
    ///
    /// # Errors
    /// [`AppArmorError::List`].
    pub fn loaded(&self) -> Result<Vec<String>, AppArmorError> {
        let path = self.dir.join("profiles");
        let text = std::fs::read_to_string(&path)
            .map_err(|source| AppArmorError::List { path, source })?;
        Ok(names(&text))
    }

    /// Loads or replaces [`DEFAULT_PROFILE`]. Containers that run in it go on in the new one.
    /// Blocking.
    ///
    /// # Errors
    /// [`AppArmorError::Load`].
    pub fn load_default(&self) -> Result<(), AppArmorError> {
        let path = self.dir.join(".replace");
        let policy = profile::policy(DEFAULT_PROFILE, &signallers());
        let load = || {
            let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
            let file = rustix::fs::open(&path, flags, rustix::fs::Mode::empty())?;
            // The kernel takes a policy in one piece.
            match rustix::io::write(&file, &policy)? {
                written if written == policy.len() => Ok(()),
                _part => Err(io::Error::from(io::ErrorKind::WriteZero)),
            }
        };
        load().map_err(|source| AppArmorError::Load { path: path.clone(), source })
    }
}

/// Labels whose signals containers obey: the unconfined host, and this daemon.
fn signallers() -> Vec<String> {
    let own = ["/proc/self/attr/apparmor/current", "/proc/self/attr/current"]
        .into_iter()
        .find_map(|path| std::fs::read_to_string(path).ok())
        .unwrap_or_default();
    let own = without_mode(own.trim_end_matches(['\0', '\n']));
    let mut labels = vec!["unconfined".to_owned()];
    if !own.is_empty() && own != "unconfined" {
        labels.push(own.to_owned());
    }
    labels
}

/// `NAME (enforce)` per line.
fn names(text: &str) -> Vec<String> {
    text.lines().map(|line| without_mode(line).to_owned()).collect()
}

/// Names may hold spaces and brackets themselves.
fn without_mode(label: &str) -> &str {
    match label.rsplit_once(" (") {
        Some((name, mode)) if mode.ends_with(')') => name,
        Some(_) | None => label,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_modes() {
        let text = "knarr-default (enforce)\n/usr/bin/a b (c) (complain)\nunconfined\n";
        assert_eq!(names(text), ["knarr-default", "/usr/bin/a b (c)", "unconfined"]);
    }

    #[test]
    fn the_default_profile_goes_to_the_kernel_in_one_write() {
        let dir = tempfile::tempdir().unwrap();
        let apparmor = AppArmor { dir: dir.path().to_owned() };
        let refused = apparmor.load_default().unwrap_err();
        assert!(refused.to_string().contains("CAP_MAC_ADMIN"), "{refused}");
        std::fs::write(dir.path().join(".replace"), "").unwrap();
        apparmor.load_default().unwrap();
        let policy = std::fs::read(dir.path().join(".replace")).unwrap();
        assert!(policy.starts_with(b"\x04\x08\0version\0\x02\x07\0\0\0"));
        assert!(matches!(apparmor.loaded(), Err(AppArmorError::List { .. })));
        std::fs::write(dir.path().join("profiles"), "a (enforce)\n").unwrap();
        assert_eq!(apparmor.loaded().unwrap(), ["a"]);
    }
}
