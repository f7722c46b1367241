//! Id-mapped mounts: files that belong to the users of the host on disk, and in a user namespace to
//! its own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use model::IdMaps;
use rustix::fs::{AtFlags, CWD, StatxFlags};
use sys::mount::{Change, FsContext, Propagation};
use sys::namespace::{self, Kind};

use crate::error::{LaunchError, Step};
use crate::host;
use crate::launcher::return_to;
use crate::plan::MountPlan;
use crate::user;

/// The container's user namespace and what it maps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own<'a> {
    pub(crate) user: BorrowedFd<'a>,
    pub(crate) ids: &'a IdMaps,
}

/// The user namespace by which a mount's ids are mapped.
pub(crate) enum Users<'a> {
    Own(BorrowedFd<'a>),
    Made(OwnedFd),
}

impl AsFd for Users<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(user) => *user,
            Self::Made(user) => user.as_fd(),
        }
    }
}

impl<'a> Users<'a> {
    /// What the plan of a mount asks for, if it does.
    pub(crate) fn of(mount: &MountPlan, own: Option<Own<'a>>) -> Result<Option<Self>, LaunchError> {
        let Some(wanted) = &mount.ids else { return Ok(None) };
        match (&wanted.maps, own) {
            (None, Some(own)) => Ok(Some(Self::Own(own.user))),
            (Some(maps), Some(own)) if maps == own.ids => Ok(Some(Self::Own(own.user))),
            (Some(maps), _) => Ok(Some(Self::Made(user::make(maps, &[])?.user))),
            (None, None) => {
                let what = format!("mount {} maps ids without a user namespace", mount.target);
                Err(LaunchError::bad_plan(what))
            }
        }
    }
}

/// Maps the ids of a copy of `source` as its plan says.
pub(crate) fn map(
    copy: &OwnedFd,
    mount: &MountPlan,
    source: &str,
    own: Option<Own<'_>>,
) -> Result<(), LaunchError> {
    let Some(users) = Users::of(mount, own)? else { return Ok(()) };
    let recursive = mount.ids.as_ref().is_some_and(|ids| ids.recursive);
    sys::mount::map_ids(copy, recursive, users.as_fd()).map_err(|error| {
        LaunchError::new(Step::MapIds, format!("{} ({})", mount.target, on(source)), error)
    })
}

/// The answer of a file system that cannot be mapped is `EINVAL`, so it is named.
pub(crate) fn on(source: &str) -> String {
    match filesystem_of(source) {
        Some(fstype) => format!("{source}, on file system {fstype}"),
        None => source.to_owned(),
    }
}

/// The type of the file system a host path is on; call it in the host's mount namespace.
fn filesystem_of(path: &str) -> Option<String> {
    let stat = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").ok()?;
    let id = format!("{} ", stat.stx_mnt_id);
    let line = table.lines().find(|line| line.starts_with(&id))?;
    Some(line.split_once(" - ")?.1.split(' ').next()?.to_owned())
}

/// An overlay whose layers show their files as `user` maps them; without an upper directory and its
/// work directory it cannot be written. The upper directory takes ids as they are: what is in there
/// belongs to the users of the namespace on disk too. A failure comes with what it is about.
pub(crate) fn overlay(
    lower: &[String],
    writable: Option<(&String, &String)>,
    user: BorrowedFd<'_>,
    label: Option<&str>,
) -> Result<OwnedFd, (String, io::Error)> {
    let mapped = |layer: &String| {
        let copy = sys::mount::clone_path(layer.as_str(), false);
        let copy = copy.map_err(|error| (layer.clone(), error))?;
        let done = sys::mount::map_ids(&copy, false, user);
        done.map_err(|error| (format!("with the ids of {} mapped", on(layer)), error))?;
        Ok(copy)
    };
    let layers = lower.iter().map(mapped).collect::<Result<Vec<_>, (String, io::Error)>>()?;
    let first = || lower.first().cloned().unwrap_or_default();
    match overlay_of(&layers, writable, label) {
        // Kernels before 6.15 take no layer that is in no mount table, and before 6.5 no layer by
        // descriptor.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            let attached = in_scratch_namespace(|| {
                for (layer, path) in layers.iter().zip(lower) {
                    let place = sys::fs::open_dir(path.as_str());
                    place
                        .and_then(|place| sys::mount::attach(layer.as_fd(), place.as_fd()))
                        .map_err(|error| (path.clone(), error))?;
                }
                host::overlay(lower, writable, label)
            });
            attached.map_err(|error| (first(), error))?
        }
        result => result.map_err(|error| (first(), error)),
    }
}

fn overlay_of(
    layers: &[OwnedFd],
    writable: Option<(&String, &String)>,
    label: Option<&str>,
) -> io::Result<OwnedFd> {
    let context = FsContext::open("overlay")?;
    for layer in layers {
        context.set_file("lowerdir+", layer.as_fd())?;
    }
    host::finish_overlay(context, writable, label)?.1
}

/// Runs `f` in a copy of the mount namespace this thread is in, which is gone afterwards with all
/// that was mounted there.
fn in_scratch_namespace<T>(f: impl FnOnce() -> T) -> io::Result<T> {
    let before = namespace::own(Kind::Mount)?;
    let directory = sys::fs::open_dir(c".")?;
    namespace::unshare(&[Kind::Mount])?;
    let private = Change { propagation: Some(Propagation::Private), ..Change::default() };
    let result = sys::mount::change_at(c"/", true, private).map(|()| f());
    return_to(before.as_fd(), Kind::Mount);
    rustix::process::fchdir(directory)?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::IdMapping;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn both_ways_of_mapping_layers_show_the_same_owner() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: mounting needs root");
            return;
        }
        let range = IdMapping { container_id: 0, host_id: 70_000, length: 10 };
        let ids = IdMaps { uids: vec![range], gids: vec![range] };
        let user = user::make(&ids, &[]).unwrap().user;
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let [layer, upper, work] = ["layer", "upper", "work"].map(path);
        for name in [&layer, &upper, &work] {
            std::fs::create_dir(name).unwrap();
        }
        std::fs::write(format!("{layer}/f"), "text").unwrap();
        let mapped = || {
            let copy = sys::mount::clone_path(layer.as_str(), false).unwrap();
            sys::mount::map_ids(&copy, false, user.as_fd()).unwrap();
            copy
        };
        let owner =
            |root: &OwnedFd| rustix::fs::statat(root, "f", AtFlags::empty()).unwrap().st_uid;
        match overlay_of(&[mapped()], Some((&upper, &work)), None) {
            Ok(root) => assert_eq!(owner(&root), 70_000),
            Err(error) => {
                let errno = error.raw_os_error();
                let known = matches!(errno, Some(libc::EINVAL | libc::EOPNOTSUPP));
                assert!(known, "before 6.15: {error}");
            }
        }
        let (work, layer) = (path("again"), &layer);
        std::fs::create_dir(&work).unwrap();
        // On a thread that ends, as it leaves the mount namespace of the process.
        std::thread::scope(|scope| {
            let root = scope.spawn(|| {
                in_scratch_namespace(|| {
                    let place = sys::fs::open_dir(layer.as_str()).unwrap();
                    sys::mount::attach(mapped().as_fd(), place.as_fd()).unwrap();
                    host::overlay(std::slice::from_ref(layer), Some((&upper, &work)), None).unwrap()
                })
                .unwrap()
            });
            assert_eq!(owner(&root.join().unwrap()), 70_000);
        });
        assert_eq!(std::fs::metadata(format!("{layer}/f")).unwrap().uid(), 0);
    }

    #[test]
    fn the_file_system_of_a_path_is_named() {
        assert_eq!(filesystem_of("/proc/self/status").as_deref(), Some("proc"));
        assert_eq!(filesystem_of("/nowhere"), None);
    }
}
