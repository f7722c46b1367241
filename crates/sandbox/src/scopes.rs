//! systemd's part of a pod: one scope, delegated to us, that holds the pod's shim and the groups of
//! its containers. `docs/adr/0016-one-delegated-scope-per-pod.md` says why.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use failpoint::Point;
use model::{CgroupDriver, CgroupLayout, SandboxId, Slice, SliceError};
use rustix::fs::CWD;
use sys::cgroup::CgroupError;
use systemd::{Manager, Property, Scope, SystemdError};

use crate::record::PodRecord;

/// The shim's own group. Not that of the scope: a group whose children have controllers has no
/// processes (cgroups(7), "no internal processes").
const SHIM: &str = "shim";
/// Where pods have their scopes if kubelet names no slice.
pub(crate) const DEFAULT_SLICE: &str = "knarr.slice";
/// What the names of scopes begin with.
const PREFIX: &str = "knarr";

/// How long a pod is given by who stops its scope, which the end of its slice at shutdown does:
/// containers hear SIGTERM, and the shim leaves when they have ended, in 8 s at most. Kubelet stops pods
/// in its own time before.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// Which drivers pods have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupDrivers {
    /// systemd does not run this host: any parent is a directory.
    Cgroupfs,
    /// One, on a host that systemd runs. A parent in the other's form is refused: kubelet and knarr
    /// would both manage the same groups.
    Only(CgroupDriver),
    /// systemd, but for pods whose parent is in the other's form.
    ByParent,
}

/// The parent of the last pod that was refused because it was made for the other driver; none once
/// one of the right form has come.
#[derive(Debug, Default)]
pub(crate) struct RefusedParent(Mutex<Option<String>>);

impl RefusedParent {
    /// Takes note of what has become of a pod's parent.
    pub(crate) fn note(&self, parent: &str, driver: &Result<CgroupDriver, ParentError>) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match driver {
            Err(ParentError::Driver { parent, .. }) => *last = Some(parent.clone()),
            // Nobody's form.
            Ok(_) if parent.trim_matches('/').is_empty() => {}
            Ok(_) => *last = None,
            Err(ParentError::Slice(_) | ParentError::Place { .. }) => {}
        }
    }

    pub(crate) fn last(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A parent that the driver has no use for.
#[derive(Debug, thiserror::Error)]
pub enum ParentError {
    /// Of the other driver.
    #[error(
        "cgroup_parent `{parent}` is of the {} driver and knarr uses {}: kubelet's cgroupDriver and \
         cgroup.driver must be the same", driver_name(*.wants), driver_name(*.driver)
    )]
    Driver {
        /// As requested.
        parent: String,
        /// The driver it is made for.
        wants: CgroupDriver,
        /// Ours.
        driver: CgroupDriver,
    },
    /// No slice.
    #[error(transparent)]
    Slice(#[from] SliceError),
    /// A slice somewhere else than its name says.
    #[error("cgroup_parent `{parent}` is not where its last part is: want `{want}`")]
    Place {
        /// As requested.
        parent: String,
        /// Where systemd has that slice.
        want: String,
    },
}

/// Why a pod has no scope.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// systemd has not made it.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// The group for its shim.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] SliceError),
    /// systemd's hierarchy is not the one containers are in.
    #[error("scopes need cgroup v2: boot with systemd.unified_cgroup_hierarchy=1")]
    NotUnified,
    /// It was not to be.
    #[error("cannot ask for the pod's scope")]
    Ask(#[source] io::Error),
}

/// As configurations call it.
pub(crate) fn driver_name(driver: CgroupDriver) -> &'static str {
    match driver {
        CgroupDriver::Cgroupfs => "cgroupfs",
        CgroupDriver::Systemd => "systemd",
    }
}

impl CgroupDrivers {
    /// That of pods whose parent does not tell; kubelet is to use it too.
    pub fn usual(self) -> CgroupDriver {
        match self {
            Self::Cgroupfs => CgroupDriver::Cgroupfs,
            Self::Only(driver) => driver,
            Self::ByParent => CgroupDriver::Systemd,
        }
    }

    /// The driver of a pod with this `cgroup_parent`.
    ///
    /// # Errors
    /// [`ParentError`].
    pub(crate) fn of(self, parent: &str) -> Result<CgroupDriver, ParentError> {
        let wants = match parent.trim_matches('/') {
            "" => self.usual(),
            slice if slice.ends_with(".slice") => CgroupDriver::Systemd,
            _directory => CgroupDriver::Cgroupfs,
        };
        let driver = match self {
            Self::Cgroupfs => CgroupDriver::Cgroupfs,
            Self::Only(driver) if driver != wants => {
                let parent = parent.to_owned();
                return Err(ParentError::Driver { parent, wants, driver });
            }
            Self::Only(_) | Self::ByParent => wants,
        };
        if driver == CgroupDriver::Systemd {
            slice(parent)?;
        }
        Ok(driver)
    }
}

/// The slice that a `cgroup_parent` names: by its name alone, or where it is.
fn slice(parent: &str) -> Result<Slice, ParentError> {
    let parent = parent.trim_matches('/');
    let name = match parent.rsplit('/').next() {
        Some("") | None => DEFAULT_SLICE,
        Some(name) => name,
    };
    let slice = Slice::parse(name)?;
    let want = slice.path();
    if parent.contains('/') && want.trim_start_matches('/') != parent {
        return Err(ParentError::Place { parent: parent.to_owned(), want });
    }
    Ok(slice)
}

/// What a pod's scope is called.
pub(crate) fn scope_name(id: &SandboxId) -> String {
    format!("{PREFIX}-{id}.scope")
}

/// The pod whose scope has this name.
pub(crate) fn pod_of(scope: &str) -> Option<SandboxId> {
    let id = scope.strip_prefix(PREFIX)?.strip_prefix('-')?.strip_suffix(".scope")?;
    SandboxId::parse(id).ok()
}

/// Absolute path of a pod's scope. A parent that is no slice's was refused before it was recorded.
pub(crate) fn path(id: &SandboxId, parent: &str) -> String {
    let slice = slice(parent).map(|slice| slice.path()).unwrap_or_default();
    format!("{slice}/{}", scope_name(id))
}

/// Has systemd begin the pod's scope with its shim in it, and moves that into its own group there;
/// nothing for a pod of the other driver.
/// Blocks for a few milliseconds, and for as long as systemd reads its units anew.
pub(crate) fn begin(
    layout: &CgroupLayout,
    record: &PodRecord,
    shim: u32,
) -> Result<(), ScopeError> {
    failpoint::reach(Point::PodScope).map_err(ScopeError::Ask)?;
    if record.cgroup_driver == CgroupDriver::Cgroupfs {
        return Ok(());
    }
    let CgroupLayout::V2(unified) = layout else { return Err(ScopeError::NotUnified) };
    let slice = match slice(&record.config.cgroup_parent) {
        Ok(slice) => slice,
        // Refused before it was recorded, by name.
        Err(_) => Slice::parse(DEFAULT_SLICE)?,
    };
    let scope = scope_name(&record.id);
    let pod = &record.config.name;
    Manager::system().start_scope(&Scope {
        name: &scope,
        description: &format!("pod {}/{}", pod.namespace, pod.name),
        slice: slice.as_str(),
        pid: shim,
        // Containers have limits of their own; the pod's are kubelet's, at the slice.
        properties: vec![Property::any_number_of_tasks(), Property::stops_within(STOPS_WITHIN)],
    })?;
    let mountpoint = unified.mountpoint.trim_end_matches('/');
    let group = format!("{mountpoint}{}/{scope}/{SHIM}", slice.path());
    move_into(&group, shim)?;
    Ok(())
}

/// Ends what systemd holds of a pod's scope, whose processes have ended. It would notice by itself, but
/// only by and by. Blocks as [`begin`] does; where systemd does not run there is nothing.
pub(crate) fn end(record: &PodRecord) -> Result<(), ScopeError> {
    if record.cgroup_driver == CgroupDriver::Systemd && systemd::is_running() {
        Manager::system().stop(&scope_name(&record.id))?;
    }
    Ok(())
}

/// Makes a group and moves a process into it. The group above must not have handed controllers down
/// yet: with a process in it, that would make this one invalid (cgroups(7), "threaded mode").
fn move_into(group: &str, pid: u32) -> Result<(), CgroupError> {
    let failed = |action| {
        let path = group.to_owned();
        move |source| CgroupError { action, path, source }
    };
    match std::fs::create_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed("make")(error));
        }
        _made_or_there => {}
    }
    let procs = format!("{group}/cgroup.procs");
    sys::fs::write_value(CWD, procs.as_str(), pid.to_string().as_bytes())
        .map_err(failed("move the shim into"))
}

/// Every scope of a pod in a slice, which lies at `path`, as path and pod.
pub(crate) fn in_slice(layout: &CgroupLayout, path: &str) -> Vec<(String, SandboxId)> {
    let names = crate::cgroups::children(layout, path);
    let pods =
        names.into_iter().filter_map(|name| Some((format!("{path}/{name}"), pod_of(&name)?)));
    pods.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSTEMD: CgroupDrivers = CgroupDrivers::Only(CgroupDriver::Systemd);
    const CGROUPFS: CgroupDrivers = CgroupDrivers::Only(CgroupDriver::Cgroupfs);
    const AUTO: CgroupDrivers = CgroupDrivers::ByParent;

    const SLICE: &str = "/kubepods.slice/kubepods-burstable.slice";
    const DIRECTORY: &str = "/kubepods/burstable";

    #[test]
    fn a_parent_is_of_one_driver() {
        assert_eq!(SYSTEMD.of(SLICE).unwrap(), CgroupDriver::Systemd);
        assert_eq!(SYSTEMD.of("").unwrap(), CgroupDriver::Systemd);
        assert_eq!(CGROUPFS.of(DIRECTORY).unwrap(), CgroupDriver::Cgroupfs);
        assert_eq!(CGROUPFS.of("").unwrap(), CgroupDriver::Cgroupfs);
        assert_eq!(AUTO.of(DIRECTORY).unwrap(), CgroupDriver::Cgroupfs);
        assert_eq!(AUTO.of(SLICE).unwrap(), CgroupDriver::Systemd);
        assert_eq!(CgroupDrivers::Cgroupfs.of(SLICE).unwrap(), CgroupDriver::Cgroupfs);
        for (drivers, parent) in [(SYSTEMD, DIRECTORY), (CGROUPFS, SLICE)] {
            let refused = drivers.of(parent).unwrap_err().to_string();
            assert!(refused.contains("kubelet's cgroupDriver"), "{refused}");
        }
    }

    #[test]
    fn a_refused_parent_is_known_until_one_of_the_right_form_comes() {
        let refused = RefusedParent::default();
        let note = |parent| refused.note(parent, &SYSTEMD.of(parent));
        note(DIRECTORY);
        note("");
        note("/a.slice/b.slice");
        assert_eq!(refused.last().as_deref(), Some(DIRECTORY));
        note(SLICE);
        assert_eq!(refused.last(), None);
    }

    #[test]
    fn a_slice_may_be_named_or_placed_but_not_elsewhere() {
        let at = |parent| slice(parent).map(|slice| slice.path());
        assert_eq!(at("kubepods-burstable.slice").unwrap(), SLICE);
        assert_eq!(at(SLICE).unwrap(), SLICE);
        assert_eq!(at("").unwrap(), "/knarr.slice");
        assert!(matches!(at("/a.slice/b.slice"), Err(ParentError::Place { .. })));
        assert!(matches!(at("/a--b.slice"), Err(ParentError::Slice(_))));
    }

    #[test]
    fn a_scope_tells_its_pod() {
        let id = SandboxId::from_random([7; 32]);
        assert_eq!(pod_of(&scope_name(&id)), Some(id.clone()));
        assert_eq!(pod_of("knarr-7.scope"), None);
        assert_eq!(path(&id, "a-b.slice"), format!("/a.slice/a-b.slice/knarr-{id}.scope"));
    }
}
