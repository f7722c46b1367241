//! The directory in which pods' network namespaces are pinned, which other tools use too, and taking a
//! pin away. Blocking.
//!
//! `ip netns add` makes the directory a mount of its own unless it is one. Pins from before that are hidden
//! then: they cannot be unmounted by name, and while they are mounted their names cannot be removed. So the
//! directory is made such a mount before the first pin, and hidden ones are reached from aside.

use std::io;
use std::path::Path;

use failpoint::Point;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, UnmountFlags, mount_bind_recursive, mount_change, unmount,
};
use sys::namespace::{self, Kind};

use crate::files::{self, FileError};

/// More mounts above each other than anybody has made.
const MOST_LAYERS: usize = 16;

/// Makes the directory, and a mount of its own of it that others see, as `ip netns add` does.
pub(crate) fn prepare(dir: &Path) -> Result<(), FileError> {
    std::fs::create_dir_all(dir).map_err(FileError::at("create directory", dir))?;
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    let failed = |errno: Errno| FileError::at("make a shared mount of", dir)(errno.into());
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let lock = rustix::fs::open(dir, flags, Mode::empty()).map_err(failed)?;
    // `ip` takes the same lock. Anybody may hold it for long, and that must not keep us.
    let _locked = flock(&lock, FlockOperation::NonBlockingLockExclusive);
    match mount_change(dir, shared) {
        // Not a mount.
        Err(Errno::INVAL) => {}
        changed => return changed.map_err(failed),
    }
    mount_bind_recursive(dir, dir).map_err(failed)?;
    mount_change(dir, shared).map_err(failed)
}

/// Takes the pin of a network namespace away; one that is gone already is fine.
pub(crate) fn unpin(path: &Path) -> Result<(), FileError> {
    files::reach(Point::PodStopUnpin, "unmount", path)?;
    match unmount(path, UnmountFlags::DETACH) {
        // Absent, or never mounted.
        Ok(()) | Err(Errno::NOENT | Errno::INVAL) => {}
        Err(errno) => return Err(FileError::at("unmount", path)(errno.into())),
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            remove_hidden(path).map_err(FileError::at("remove what hides below", path))
        }
        result => result.map_err(FileError::at("remove", path)),
    }
}

/// Removes a pin on which something is mounted where its name does not lead: from a mount namespace in
/// which it is not mounted. The kernel then takes it away in all others.
fn remove_hidden(path: &Path) -> io::Result<()> {
    let remove = || {
        namespace::unshare(&[Kind::Mount])?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let dir = path.parent().unwrap_or(path);
        for _ in 0..MOST_LAYERS {
            while unmount(path, UnmountFlags::DETACH).is_ok() {}
            match std::fs::remove_file(path) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    unmount(dir, UnmountFlags::DETACH)?;
                }
                removed => return removed,
            }
        }
        Err(Errno::BUSY.into())
    };
    let removed = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("unpin".to_owned());
        thread.spawn_scoped(scope, remove).map(std::thread::ScopedJoinHandle::join)
    });
    match removed? {
        Ok(removed) => removed,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rustix::mount::{MountFlags, mount, mount_bind};

    use super::*;

    /// Runs `test` in a mount namespace of its own, with an empty directory on a private file system;
    /// nothing where that is not allowed.
    fn on_a_mount(test: impl FnOnce(&Path) + Send) {
        let dir = tempfile::tempdir().unwrap();
        let run = || {
            if namespace::unshare(&[Kind::Mount]).is_err() {
                eprintln!("skipped: not root");
                return;
            }
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            mount("knarr-test", dir.path(), "tmpfs", MountFlags::empty(), c"").unwrap();
            test(&dir.path().join("netns"));
            unmount(dir.path(), UnmountFlags::DETACH).unwrap();
        };
        std::thread::scope(|scope| scope.spawn(run).join()).unwrap();
    }

    fn pin(dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, "").unwrap();
        mount_bind("/proc/self/ns/net", &path).unwrap();
        path
    }

    fn mounts_below(dir: &Path) -> usize {
        let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let below = format!("{}/", dir.display());
        table.lines().filter(|line| line.split(' ').nth(4).unwrap().starts_with(&below)).count()
    }

    #[test]
    fn pins_can_be_taken_away_that_another_mount_has_come_to_hide() {
        on_a_mount(|dir| {
            std::fs::create_dir(dir).unwrap();
            for recursive in [false, true] {
                let paths = [pin(dir, "first"), pin(dir, "second")];
                // As versions of `ip netns add` do, one after the other, while there are pins.
                for _ in 0..2 {
                    if recursive {
                        mount_bind_recursive(dir, dir).unwrap();
                    } else {
                        mount_bind(dir, dir).unwrap();
                    }
                }
                for path in &paths {
                    unpin(path).unwrap();
                    assert!(!path.exists());
                    unpin(path).unwrap();
                }
                assert_eq!(mounts_below(dir), 0, "recursive: {recursive}");
            }
        });
    }

    #[test]
    fn a_directory_that_is_prepared_is_one_mount_and_others_leave_it_alone() {
        on_a_mount(|dir| {
            prepare(dir).unwrap();
            prepare(dir).unwrap();
            let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            let point = dir.display().to_string();
            let own = table.lines().filter(|line| line.split(' ').nth(4) == Some(&point));
            let own: Vec<_> = own.collect();
            assert_eq!(own.len(), 1, "{own:?}");
            assert!(own[0].contains(" shared:"), "{own:?}");
            // What `ip netns add` tries first.
            let path = pin(dir, "pod");
            mount_change(dir, MountPropagationFlags::SHARED | MountPropagationFlags::REC).unwrap();
            unpin(&path).unwrap();
            assert!(!path.exists());
        });
    }
}
