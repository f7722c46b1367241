//! An image as one read-only tree, without a mount point.

use std::os::fd::{AsRawFd, OwnedFd};

use model::Digest;
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::layers::{Layers, MissingLayer, open_path};

/// Why an image could not be looked into.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    #[error(transparent)]
    Missing(#[from] MissingLayer),
    /// Overlayfs needs something to show.
    #[error("the image has no layers")]
    NoLayers,
    #[error("cannot open layer directory {path}")]
    Layer { path: String, source: Errno },
    /// Overlayfs gives its reasons in the kernel log.
    #[error("cannot {action} the merged view of {layers} layers")]
    Mount { action: &'static str, layers: usize, source: Errno },
}

impl Layers {
    /// The merged tree of an image as a detached, read-only mount: it is in no mount table and
    /// goes away with the descriptor. With one layer, that layer's directory itself.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn open_merged(&self, diff_ids: &[Digest]) -> Result<OwnedFd, ViewError> {
        let mut lower = Vec::new();
        let dirs = self.lower_dirs(diff_ids)?;
        for dir in &dirs {
            let path = || dir.display().to_string();
            let open = open_path(dir).map_err(|source| ViewError::Layer { path: path(), source });
            lower.push(open?);
        }
        match lower.len() {
            0 => Err(ViewError::NoLayers),
            1 => lower.pop().ok_or(ViewError::NoLayers),
            _ => match merge(&lower) {
                // `lowerdir+` came with 6.8; what is no parameter is invalid.
                Err(ViewError::Mount { action: ADD, source: Errno::INVAL, .. }) => {
                    crate::old_kernel::merge(&dirs, &self.layers.path)
                }
                merged => merged,
            },
        }
    }
}

const ADD: &str = "add a layer to";

type Attempt = (&'static str, Errno);

fn merge(lower: &[OwnedFd]) -> Result<OwnedFd, ViewError> {
    let fault =
        |(action, source): Attempt| ViewError::Mount { action, layers: lower.len(), source };
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|errno| fault(("start", errno)))?;
    mount(&fs, lower).map_err(fault)
}

fn mount(fs: &OwnedFd, lower: &[OwnedFd]) -> Result<OwnedFd, Attempt> {
    use rustix::mount::{fsconfig_create, fsconfig_set_string, fsmount};
    by_layer(fs, lower).map_err(|errno| (ADD, errno))?;
    // Images have no say in these: the tar's overlay xattrs are dropped on the way in.
    for (key, value) in [("source", "knarr"), ("redirect_dir", "nofollow"), ("metacopy", "off")] {
        fsconfig_set_string(fs, key, value).map_err(|errno| ("configure", errno))?;
    }
    fsconfig_create(fs).map_err(|errno| ("make", errno))?;
    let attrs = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, attrs).map_err(|errno| ("mount", errno))
}

/// A descriptor's path: short, whatever the root's is.
fn fd_path(dir: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", dir.as_raw_fd())
}

fn by_layer(fs: &OwnedFd, lower: &[OwnedFd]) -> Result<(), Errno> {
    // Before 6.5 overlayfs takes any option and fails when it is made.
    if rustix::mount::fsconfig_set_flag(fs, "no-such-option").is_ok() {
        return Err(Errno::INVAL);
    }
    let add = |dir| rustix::mount::fsconfig_set_string(fs, "lowerdir+", fd_path(dir));
    lower.iter().try_for_each(add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_listed_twice_is_refused_by_the_kernel() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = open_path(scratch.path()).unwrap();
        let twice = [dir.try_clone().unwrap(), dir];
        match merge(&twice) {
            Err(ViewError::Mount { source: Errno::PERM, .. }) => {
                eprintln!("skipped: needs the right to mount");
            }
            // Layers::lower_dirs relies on never listing one twice.
            Err(ViewError::Mount { action: "make", source: Errno::LOOP, .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}
