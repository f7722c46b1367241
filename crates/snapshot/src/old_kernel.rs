//! Merging layers where overlayfs does not take them one by one, before Linux 6.8.
//!
//! It takes all of them in one option then: of at most 255 bytes by `fsconfig`, of a page by
//! `mount(2)`. Named by the numbers of their descriptors, relative to the directory that has
//! them, a page holds more layers than overlayfs does (500). `mount(2)` needs a place and changes
//! the mount table, so it happens in a mount namespace of its own that ends with its thread; a
//! detached copy is what remains.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, OpenTreeFlags};

use crate::layers::open_path;
use crate::view::ViewError;

type Attempt = (&'static str, Errno);

/// The merged view of directories, topmost first, as a detached mount. `place` is any directory.
pub(crate) fn merge(lower: &[PathBuf], place: &Path) -> Result<OwnedFd, ViewError> {
    let fault =
        |(action, source): Attempt| ViewError::Mount { action, layers: lower.len(), source };
    let merged = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("merge-layers".to_owned())
            .spawn_scoped(scope, || in_own_namespace(lower, place))
            .map_err(|_| ("start a thread for", Errno::AGAIN))?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    merged.map_err(fault)
}

fn in_own_namespace(lower: &[PathBuf], place: &Path) -> Result<OwnedFd, Attempt> {
    // Takes the thread's working directory out of the process's, too.
    sys::namespace::unshare(&[sys::namespace::Kind::Mount])
        .map_err(|error| ("make a namespace for", errno(&error)))?;
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    rustix::mount::mount_change("/", private).map_err(|errno| ("isolate", errno))?;
    // Opened only now: overlayfs takes directories of its own namespace.
    let lower: Vec<OwnedFd> = lower
        .iter()
        .map(|dir| open_path(dir))
        .collect::<Result<_, _>>()
        .map_err(|errno| ("open a layer of", errno))?;
    rustix::process::chdir("/proc/self/fd").map_err(|errno| ("name", errno))?;
    let names: Vec<_> = lower.iter().map(|dir| dir.as_raw_fd().to_string()).collect();
    let options = format!("lowerdir={},redirect_dir=nofollow,metacopy=off", names.join(":"));
    let options = std::ffi::CString::new(options).map_err(|_| ("name", Errno::INVAL))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("knarr", place, "overlay", flags, Some(options.as_c_str()))
        .map_err(|errno| ("make", errno))?;
    let copy = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(rustix::fs::CWD, place, copy).map_err(|errno| ("detach", errno))
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_hundred_layers_are_merged() {
        let scratch = tempfile::tempdir().unwrap();
        let lower: Vec<_> = (0..100)
            .map(|number| {
                let dir = scratch.path().join(number.to_string());
                std::fs::create_dir(&dir).unwrap();
                std::fs::write(dir.join(number.to_string()), "own").unwrap();
                std::fs::write(dir.join("all"), number.to_string()).unwrap();
                dir
            })
            .collect();
        let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let view = match merge(&lower, scratch.path()) {
            Err(ViewError::Mount { source: Errno::PERM, .. }) => {
                eprintln!("skipped: needs the right to mount");
                return;
            }
            view => view.unwrap(),
        };
        for (path, want) in [("0", "own"), ("99", "own"), ("all", "0")] {
            let read = crate::read_file_in(view.as_fd(), path, 100).unwrap();
            assert_eq!(read.as_deref(), Some(want.as_bytes()));
        }
        assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    }
}
