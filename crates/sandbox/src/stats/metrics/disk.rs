//! Names of block devices, and the file system layers are on. Looked up once per answer.

use std::collections::HashMap;
use std::path::Path;

use rustix::fs::{major, minor, stat, statvfs};

use crate::stats::files::text;

/// A file system.
#[derive(Debug, Clone)]
pub(super) struct Filesystem {
    pub(super) device: String,
    pub(super) bytes: u64,
    pub(super) inodes: u64,
    pub(super) inodes_free: u64,
}

/// What has been looked up.
#[derive(Debug, Default)]
pub(super) struct Devices {
    names: HashMap<(u32, u32), String>,
    filesystem: Option<Option<Filesystem>>,
}

impl Devices {
    /// `/dev/sda` for 8:0; a device the kernel has no name for is `major:minor`.
    pub(super) fn name(&mut self, device: (u32, u32)) -> String {
        self.names.entry(device).or_insert_with(|| name(device)).clone()
    }

    /// The file system `root` is on; the same for every container.
    pub(super) fn filesystem(&mut self, root: &Path) -> Option<Filesystem> {
        if let Some(known) = &self.filesystem {
            return known.clone();
        }
        let found = self.look_up(root);
        self.filesystem = Some(found.clone());
        found
    }

    fn look_up(&mut self, root: &Path) -> Option<Filesystem> {
        let device = stat(root).ok()?.st_dev;
        let space = statvfs(root).ok()?;
        Some(Filesystem {
            device: self.name((major(device), minor(device))),
            bytes: space.f_blocks.saturating_mul(space.f_frsize),
            inodes: space.f_files,
            inodes_free: space.f_ffree,
        })
    }
}

fn name((major, minor): (u32, u32)) -> String {
    let uevent = text(Path::new(&format!("/sys/dev/block/{major}:{minor}/uevent")));
    match uevent.lines().find_map(|line| line.strip_prefix("DEVNAME=")) {
        Some(name) => format!("/dev/{name}"),
        None => format!("{major}:{minor}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_without_a_name_is_its_numbers() {
        assert_eq!(Devices::default().name((0, 4_000_000)), "0:4000000");
    }

    #[test]
    fn the_file_system_of_a_directory_has_a_size() {
        let root = tempfile::tempdir().unwrap();
        let mut devices = Devices::default();
        let found = devices.filesystem(root.path()).unwrap();
        assert!(found.bytes > 0 && !found.device.is_empty(), "{found:?}");
    }
}
