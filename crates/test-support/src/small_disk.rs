//! A file system whose room a test takes away and gives back while a daemon works on it.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, mount, mount_remount};

/// By this a search for leaks knows what tests have mounted.
pub(crate) const SOURCE: &str = "knarr-test-disk";

/// More than any test needs.
const AMPLE_INODES: u64 = 100_000;
const AMPLE_PAGES: u64 = 64 << 8;

/// In bytes. A file system in memory counts in pages.
const PAGE: u64 = 4096;

/// What there is none of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// Nothing new can have a name.
    Inodes,
    /// Nothing can be written.
    Pages,
}

/// How much of it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Files, directories, sockets, and names beyond a file's first.
    pub inodes: u64,
    /// Of 4096 bytes.
    pub pages: u64,
}

/// The file system, in memory. It goes with the [`crate::scratch::Scratch`] whose directory it is in.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one, with ample room, over a directory of a scratch place.
    ///
    /// # Errors
    /// The kernel's.
    pub fn mount(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        mount(SOURCE, dir, "tmpfs", MountFlags::empty(), c"mode=755")
            .with_context(|| format!("mount a file system at {}", dir.display()))?;
        let disk = Self(dir.to_owned());
        disk.widen()?;
        Ok(disk)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What is taken now.
    ///
    /// # Errors
    /// The kernel's.
    pub fn taken(&self) -> Result<Taken> {
        let stat = rustix::fs::statvfs(&self.0).context("statvfs")?;
        Ok(Taken { inodes: stat.f_files - stat.f_ffree, pages: stat.f_blocks - stat.f_bfree })
    }

    /// Leaves room for `count` more of what is to lack.
    ///
    /// # Errors
    /// The kernel's.
    pub fn leave(&self, lack: Lack, count: u64) -> Result<()> {
        let taken = self.taken()?;
        match lack {
            Lack::Inodes => self.resize(taken.inodes + count, AMPLE_PAGES),
            Lack::Pages => self.resize(AMPLE_INODES, taken.pages + count),
        }
    }

    /// Ample room again.
    ///
    /// # Errors
    /// The kernel's.
    pub fn widen(&self) -> Result<()> {
        self.resize(AMPLE_INODES, AMPLE_PAGES)
    }

    fn resize(&self, inodes: u64, pages: u64) -> Result<()> {
        let options = format!("nr_inodes={inodes},size={}", pages * PAGE);
        let options = CString::new(options).context("options of a mount")?;
        mount_remount(&self.0, MountFlags::empty(), options.as_c_str())
            .with_context(|| format!("resize the file system at {}", self.0.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn what_lacks_lacks_until_it_is_given_back() {
        let Ok(scratch) = Scratch::claim() else {
            crate::skip("not root");
            return;
        };
        let disk = SmallDisk::mount(&scratch.root()).unwrap();
        let (empty, file) = (disk.taken().unwrap(), disk.path().join("file"));
        disk.leave(Lack::Inodes, 0).unwrap();
        assert_eq!(std::fs::write(&file, "x").unwrap_err().raw_os_error(), Some(28));
        disk.leave(Lack::Inodes, 1).unwrap();
        std::fs::write(&file, "x").unwrap();
        disk.leave(Lack::Pages, 0).unwrap();
        let more = disk.path().join("more");
        assert_eq!(std::fs::write(&more, "x").unwrap_err().raw_os_error(), Some(28));
        disk.widen().unwrap();
        std::fs::write(&more, "x").unwrap();
        let taken = Taken { inodes: empty.inodes + 2, pages: empty.pages + 2 };
        assert_eq!(disk.taken().unwrap(), taken);
        drop(scratch);
        assert!(!disk.path().exists());
    }
}
