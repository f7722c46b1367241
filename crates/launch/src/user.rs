//! User namespaces from the parent's side: making one, finding a plan's, acting as its root.
//!
//! The launcher never enters one: it would lose its privileges for good. What has to be done inside
//! is done by a short-lived child.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use model::{IdMapping, IdMaps};
use rustix::fs::{Mode, OFlags};
use sys::credentials;
use sys::namespace::{self, Kind};
use sys::pidfd::Ended;
use sys::process::NewNamespaces;
use sys::userns::Made;

use crate::birth;
use crate::error::{At, LaunchError, Step};
use crate::launcher::Launcher;
use crate::plan::{LaunchPlan, UserNamespace};
use crate::sysctl;

/// Makes a user namespace, and others that belong to it.
pub(crate) fn make(ids: &IdMaps, owned: &[Kind]) -> Result<Made, LaunchError> {
    sys::userns::make(ids, owned).at(Step::UserNamespace, "")
}

/// Becomes root of the user namespace this process is in, so that what it makes there has an owner.
/// Every capability there stays.
pub(crate) fn become_root() -> Result<(), LaunchError> {
    credentials::set_gid(0).at(Step::UserNamespace, ": group 0")?;
    credentials::set_uid(0).at(Step::UserNamespace, ": user 0")
}

impl Launcher {
    /// Makes the pod's user namespace, which from then on is the one that [`UserNamespace::Pod`]
    /// means, and namespaces of the kinds `owned` that belong to it, for the launcher to enter.
    ///
    /// # Errors
    /// [`Step::UserNamespace`]: the kernel has none, no more of them, or refuses the maps.
    pub fn make_pod_user_namespace(
        &mut self,
        ids: &IdMaps,
        owned: &[Kind],
    ) -> Result<Vec<(Kind, OwnedFd)>, LaunchError> {
        let made = make(ids, owned)?;
        self.pod_user = Some(made.user);
        Ok(made.owned)
    }

    /// Forgets the pod's user namespace.
    pub fn drop_pod_user_namespace(&mut self) {
        self.pod_user = None;
    }

    /// Writes a kernel parameter of the launcher's network, IPC and UTS namespaces, through the
    /// `/proc` it sees. Names are dotted; a `/` stands for a dot inside a component, and where the
    /// first separator is `/` the two swap roles, as `sysctl(8)` has it.
    ///
    /// # Errors
    /// [`LaunchError`] of step [`Step::Sysctl`].
    pub fn write_sysctl(&self, name: &str, value: &str) -> Result<(), LaunchError> {
        match (sysctl::write(name, value), &self.pod_user) {
            // Since 6.9 parameters of an IPC namespace belong to the root of its user namespace,
            // and a capability does not help.
            (Err(error), Some(user)) if error.errno() == Some(libc::EACCES) => {
                let as_root = as_root_of(user.as_fd(), || sysctl::write(name, value));
                as_root.at(Step::Sysctl, &format!("{name}={value}"))
            }
            (result, _) => result,
        }
    }

    /// The user namespace of a plan, unless that is the launcher's own.
    pub(crate) fn user_namespace(&self, plan: &LaunchPlan) -> Result<Option<OwnedFd>, LaunchError> {
        let ids = || {
            let ids = plan.process.user_ids.as_ref();
            let ids = ids.ok_or_else(|| LaunchError::bad_plan("a user namespace without maps"))?;
            match ids.host_uid(plan.process.uid).zip(ids.host_gid(plan.process.gid)) {
                Some(_) => Ok(ids),
                None => {
                    let (uid, gid) = (plan.process.uid, plan.process.gid);
                    let what = format!("user {uid}:{gid} outside its user namespace");
                    Err(LaunchError::bad_plan(what))
                }
            }
        };
        match &plan.namespaces.user {
            UserNamespace::Inherit => Ok(None),
            UserNamespace::New => Ok(Some(make(ids()?, &[])?.user)),
            UserNamespace::Pod => {
                ids()?;
                let none = || LaunchError::bad_plan("the pod has no user namespace");
                let pods = self.pod_user.as_ref().ok_or_else(none)?;
                pods.try_clone().map(Some).at(Step::UserNamespace, "")
            }
            UserNamespace::Join(path) => {
                ids()?;
                self.on_host(|| {
                    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                    let file = rustix::fs::open(path.as_str(), flags, Mode::empty());
                    file.map(Some).at(Step::NamespaceOpen, path)
                })
            }
        }
    }
}

/// How the user namespace that a file of the host's names maps ids, as the launcher's numbers them.
///
/// # Errors
/// [`LaunchError`]: there is none, it may not be entered, or it has no maps.
pub fn maps_of_namespace(path: &Path) -> Result<IdMaps, LaunchError> {
    let shown = path.to_string_lossy();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).at(Step::NamespaceOpen, &shown)?;
    let (here, there) = sys::fdpass::packet_pair().at(Step::Channel, "")?;
    let tell = || {
        namespace::enter(file.as_fd(), Kind::User)?;
        // Read from within, they say what the ids are in the namespace above.
        let (uids, gids) =
            (std::fs::read("/proc/self/uid_map")?, std::fs::read("/proc/self/gid_map")?);
        sys::fdpass::send(there.as_fd(), &[&uids[..], b"\0", &gids].concat(), None)
    };
    let body = || tell().map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0);
    let child = birth::spawn(NewNamespaces::default(), None, body).at(Step::Clone, "")?;
    let ended = sys::pidfd::wait(child.pidfd.as_fd()).at(Step::Clone, "")?;
    drop(there);
    if let Ended::Exited(errno @ 1..) = ended {
        let cause = io::Error::from_raw_os_error(errno);
        return Err(LaunchError::new(Step::Namespace, format!("user ({shown})"), cause));
    }
    let told = sys::fdpass::receive(&here, MOST_MAPS).at(Step::Channel, "")?;
    let text = String::from_utf8_lossy(&told.bytes);
    let (uids, gids) = text.split_once('\0').unwrap_or_default();
    let (uids, gids) = (ranges(uids), ranges(gids));
    match (uids, gids) {
        (Some(uids), Some(gids)) if !uids.is_empty() && !gids.is_empty() => {
            Ok(IdMaps { uids, gids })
        }
        (Some(_) | None, Some(_) | None) => {
            Err(LaunchError::bad_plan(format!("the user namespace {shown} has no maps")))
        }
    }
}

/// 340 lines of three numbers, twice.
const MOST_MAPS: usize = 64 << 10;

fn ranges(text: &str) -> Option<Vec<IdMapping>> {
    let range = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().map(|number| number.parse().ok());
        let (container_id, host_id) = (numbers.next()??, numbers.next()??);
        Some(IdMapping { container_id, host_id, length: numbers.next()?? })
    };
    text.lines().map(range).collect()
}

/// Runs `f` in a child that is root of a user namespace, and nobody elsewhere.
fn as_root_of(user: BorrowedFd<'_>, f: impl FnOnce() -> Result<(), LaunchError>) -> io::Result<()> {
    let number = |error: io::Error| error.raw_os_error().unwrap_or(libc::EIO);
    let body = || {
        if let Err(error) = namespace::enter(user, Kind::User) {
            return number(error);
        }
        let done = become_root().and_then(|()| f());
        done.map_or_else(|error| error.errno().unwrap_or(libc::EIO), |()| 0)
    };
    let child = birth::hidden(|| birth::spawn(NewNamespaces::default(), None, body))?;
    match sys::pidfd::wait(child.pidfd.as_fd())? {
        Ended::Exited(0) => Ok(()),
        // Error numbers fit into an exit status.
        Ended::Exited(errno) => Err(io::Error::from_raw_os_error(errno)),
        Ended::Signaled(_) => Err(io::ErrorKind::Interrupted.into()),
    }
}
