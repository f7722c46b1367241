//! Image volumes: an image's tree, read-only, for one container.
//!
//! Containers of a pod that mount the same image share its pages whatever is mounted how often: a
//! read-only overlay has none of its own. So each gets a detached mount that vanishes with it, and
//! there is nothing to count or to remove.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use sys::mount::{ATTR_RDONLY, FsContext};

use super::{Detached, apply, overlay};
use crate::error::{At, LaunchError, Step};
use crate::ids::{self, Own, Users};
use crate::plan::MountPlan;

/// The image, or the part of it that is wanted, ready to be attached.
pub(super) fn detached(
    lower: &[String],
    sub_path: &str,
    mount: &MountPlan,
    own: Option<Own<'_>>,
) -> Result<Detached, LaunchError> {
    let failed = |error| LaunchError::new(Step::ImageVolume, &mount.target, error);
    let label = mount.label.as_deref();
    let whole = match lower {
        [] => empty().map_err(failed)?,
        [only] => {
            let part = directory(only, sub_path).map_err(failed)?;
            ids::map(&part, mount, only, own)?;
            return protected(part, mount).map(Detached::Ready);
        }
        _ => match Users::of(mount, own)? {
            None => overlay(lower, None, label),
            Some(users) => ids::overlay(lower, None, users.as_fd(), label),
        }
        .map_err(|(subject, error)| {
            LaunchError::new(Step::ImageVolume, format!("{} ({subject})", mount.target), error)
        })?,
    };
    if sub_path.is_empty() {
        protected(whole, mount).map(Detached::Ready)
    } else {
        Ok(Detached::Whole(whole))
    }
}

/// All of an image, for whoever makes it read-only and takes a part of it himself. An overlay needs two layers
/// at least where nothing is written. An error comes with what it is about.
pub(crate) fn whole(lower: &[String], label: Option<&str>) -> Result<OwnedFd, (String, io::Error)> {
    match lower {
        [] => empty().map_err(|error| ("an image without layers".to_owned(), error)),
        [only] => directory(only, "").map_err(|error| (only.clone(), error)),
        _ => overlay(lower, None, label),
    }
}

/// Attributes of the plan, and read-only in any case: layers belong to all containers of the image.
pub(crate) fn protected(tree: OwnedFd, mount: &MountPlan) -> Result<OwnedFd, LaunchError> {
    let mut mount = mount.clone();
    mount.attr_set |= ATTR_RDONLY;
    mount.attr_clear &= !ATTR_RDONLY;
    apply(&tree, &mount).at(Step::MountAttributes, &mount.target)?;
    Ok(tree)
}

fn empty() -> io::Result<OwnedFd> {
    let context = FsContext::open("tmpfs")?;
    context.set("mode", "755")?;
    context.set("source", "image")?;
    context.mount(ATTR_RDONLY)
}

/// A directory of the only layer, copied out of the host's mounts.
fn directory(layer: &str, sub_path: &str) -> io::Result<OwnedFd> {
    let layer = sys::fs::open_dir(layer)?;
    part(&layer, sub_path)
}

/// A detached copy of a directory below an attached mount.
pub(crate) fn part(tree: &OwnedFd, sub_path: &str) -> io::Result<OwnedFd> {
    if sub_path.is_empty() {
        return sys::mount::clone_tree(tree, c"", false);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let dir = sys::fs::open_beneath(tree.as_fd(), sub_path, flags)?;
    sys::mount::clone_tree(&dir, c"", false)
}
