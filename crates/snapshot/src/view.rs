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
    /// Before Linux 6.8 all directories have to fit into one short option.
    #[error(
        "this kernel can merge no more than {MAX_LAYERS_IN_STRING} layers into a view, the image has {layers}"
    )]
    TooManyLayers { layers: usize },
}

/// Layer paths `/proc/self/fd/<n>:` with up to three digits in the 255 bytes of an option.
const MAX_LAYERS_IN_STRING: usize = 14;

impl Layers {
    /// The merged tree of an image as a detached, read-only mount: it is in no mount table and
    /// goes away with the descriptor. With one layer, that layer's directory itself.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn open_merged(&self, diff_ids: &[Digest]) -> Result<OwnedFd, ViewError> {
        let mut lower = Vec::new();
        for dir in self.lower_dirs(diff_ids)? {
            let path = || dir.display().to_string();
            let open = open_path(&dir).map_err(|source| ViewError::Layer { path: path(), source });
            lower.push(open?);
        }
        match lower.len() {
            0 => Err(ViewError::NoLayers),
            1 => lower.pop().ok_or(ViewError::NoLayers),
            _ => match merge(&lower, by_layer) {
                // `lowerdir+` came with 6.8; what is no parameter is invalid.
                Err(ViewError::Mount { action: ADD, source: Errno::INVAL, .. }) => {
                    if lower.len() > MAX_LAYERS_IN_STRING {
                        return Err(ViewError::TooManyLayers { layers: lower.len() });
                    }
                    merge(&lower, by_string)
                }
                merged => merged,
            },
        }
    }
}

const ADD: &str = "add a layer to";

type Attempt = (&'static str, Errno);

fn merge(
    lower: &[OwnedFd],
    add: fn(&OwnedFd, &[OwnedFd]) -> Result<(), Errno>,
) -> Result<OwnedFd, ViewError> {
    let fault =
        |(action, source): Attempt| ViewError::Mount { action, layers: lower.len(), source };
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|errno| fault(("start", errno)))?;
    mount(&fs, lower, add).map_err(fault)
}

fn mount(
    fs: &OwnedFd,
    lower: &[OwnedFd],
    add: fn(&OwnedFd, &[OwnedFd]) -> Result<(), Errno>,
) -> Result<OwnedFd, Attempt> {
    use rustix::mount::{fsconfig_create, fsconfig_set_string, fsmount};
    add(fs, lower).map_err(|errno| (ADD, errno))?;
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

fn by_string(fs: &OwnedFd, lower: &[OwnedFd]) -> Result<(), Errno> {
    let all: Vec<_> = lower.iter().map(fd_path).collect();
    rustix::mount::fsconfig_set_string(fs, "lowerdir", all.join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn older_kernels_get_all_layers_in_one_string() {
        let scratch = tempfile::tempdir().unwrap();
        let lower: Vec<_> = ["top", "middle", "base"]
            .map(|name| {
                let dir = scratch.path().join(name);
                std::fs::create_dir(&dir).unwrap();
                std::fs::write(dir.join(name), name).unwrap();
                std::fs::write(dir.join("all"), name).unwrap();
                open_path(&dir).unwrap()
            })
            .into();
        let view = match merge(&lower, by_string) {
            Err(ViewError::Mount { source: Errno::PERM, .. }) => {
                eprintln!("skipped: needs the right to mount");
                return;
            }
            view => view.unwrap(),
        };
        for (path, want) in [("top", "top"), ("middle", "middle"), ("base", "base"), ("all", "top")]
        {
            let read = crate::read_file_in(view.as_fd(), path, 100).unwrap();
            assert_eq!(read.as_deref(), Some(want.as_bytes()));
        }
    }

    #[test]
    fn a_directory_that_is_listed_twice_is_refused_by_the_kernel() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = open_path(scratch.path()).unwrap();
        let twice = [dir.try_clone().unwrap(), dir];
        match merge(&twice, by_layer) {
            Err(ViewError::Mount { source: Errno::PERM, .. }) => {
                eprintln!("skipped: needs the right to mount");
            }
            // Layers::lower_dirs relies on never listing one twice.
            Err(ViewError::Mount { action: "make", source: Errno::LOOP, .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}
