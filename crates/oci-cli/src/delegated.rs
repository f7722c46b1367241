//! Cgroups of ordinary users: below the one they are in, where its manager has given it to them (`Delegate=` of
//! a systemd unit, or an administrator's `chown`). Cgroup v2 alone lets that be done safely.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use model::{CgroupHierarchy, CgroupLayout};
use rustix::fs::Access;
use serde::{Deserialize, Serialize};

use crate::error::{At as _, OciError};
use crate::log::Log;

/// Where this program goes: a group whose children have controllers has no processes (cgroups(7)).
const OWN: &str = "knarr-oci";
/// What systemd marks a delegated group with.
const MARK: &str = "user.delegate";

/// A cgroup that is a user's to do with as it likes. Kept with the container: later calls may come from
/// anywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Delegated {
    /// Its directory, absolute.
    dir: String,
    /// What its children can be limited by.
    controllers: Vec<String>,
}

impl Delegated {
    /// That of the caller, if it is in one.
    pub(crate) fn find(layout: &CgroupLayout) -> Option<Self> {
        let CgroupLayout::V2(unified) = layout else { return None };
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
        let dir = Path::new(&unified.mountpoint).join(own.trim_start_matches('/'));
        let usable = ["", "cgroup.procs", "cgroup.subtree_control"]
            .iter()
            .all(|file| rustix::fs::access(dir.join(file), Access::WRITE_OK).is_ok());
        let controllers = fs::read_to_string(dir.join("cgroup.controllers")).ok()?;
        (usable && is_given(&dir)).then(|| Self {
            dir: dir.to_string_lossy().into_owned(),
            controllers: controllers.split_whitespace().map(str::to_owned).collect(),
        })
    }

    /// The hierarchy as containers see it that are made there.
    pub(crate) fn layout(&self) -> CgroupLayout {
        CgroupLayout::V2(CgroupHierarchy {
            mountpoint: self.dir.clone(),
            controllers: self.controllers.clone(),
        })
    }

    /// Goes out of the way of its controllers. None, and a warning, where others are in it: with them in
    /// place some controllers could be handed down all the same, but that makes the group the root of a
    /// threaded one, in whose children nothing can be started (cgroups(7), "threaded mode").
    pub(crate) fn make_room(self, log: &Log) -> Result<Option<Self>, OciError> {
        let dir = PathBuf::from(&self.dir);
        let procs = dir.join("cgroup.procs");
        let own = std::process::id().to_string();
        let members = fs::read_to_string(&procs).at("read", &procs)?;
        if members.lines().any(|pid| pid != own) {
            log.warning(&format!(
                "{} has other processes than this one and is not divided: for limits begin the container in a \
                 unit of its own, as by `systemd-run --user --scope -p Delegate=yes`",
                self.dir
            ));
            return Ok(None);
        }
        let place = dir.join(OWN);
        match fs::create_dir(&place) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).at("make", &place);
            }
            Ok(()) | Err(_) => {}
        }
        let procs = place.join("cgroup.procs");
        fs::write(&procs, &own).at("move this program to", &procs)?;
        Ok(Some(self))
    }
}

/// Whether somebody has given this group away: systemd marks it so, and else it is the uppermost that
/// belongs to the caller. What belongs to it further down may be a unit of its systemd, which keeps it.
fn is_given(dir: &Path) -> bool {
    let mut value = [0; 8];
    let marked = rustix::fs::getxattr(dir, MARK, &mut value).is_ok_and(|_| value[0] == b'1');
    let is_own = |dir: &Path| {
        fs::metadata(dir).is_ok_and(|it| it.uid() == rustix::process::geteuid().as_raw())
    };
    is_own(dir) && (marked || !dir.parent().is_some_and(is_own))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unified(mountpoint: &str) -> CgroupLayout {
        CgroupLayout::V2(CgroupHierarchy {
            mountpoint: mountpoint.to_owned(),
            controllers: Vec::new(),
        })
    }

    #[test]
    fn what_is_nobodys_to_divide_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Delegated::find(&unified(dir.path().to_str().unwrap())), None);
        let v1 = CgroupLayout::V1 { hierarchies: Vec::new(), unified: None };
        assert_eq!(Delegated::find(&v1), None);
    }

    #[test]
    fn a_group_is_given_by_its_owner_or_its_mark() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("unit");
        fs::create_dir(&inner).unwrap();
        // Both are the caller's: whoever has made the outer one has made the inner one.
        assert!(!is_given(&inner));
        let flags = rustix::fs::XattrFlags::empty();
        match rustix::fs::setxattr(&inner, MARK, b"1", flags) {
            Ok(()) => assert!(is_given(&inner)),
            Err(errno) => println!("skipped: no attributes there: {errno}"),
        }
    }
}
