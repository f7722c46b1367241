//! A fresh ext4 for each run that fills a store.
//!
//! Without a journal, as on many a build machine, ext4 does not give a deleted inode away again for a
//! minute, or five while its block is dirty, and looks at each such inode anew whenever it makes a
//! file: right after a store with a hundred thousand files was deleted, unpacking the next one takes
//! several times as long, whoever unpacks. And what one run left to be written, the next one's flush
//! would wait for.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::steps::{execute, output};

/// Sparse: only what is written takes room.
const SIZE: u64 = 24 << 30;

/// A mounted file system in a file; both are gone when it is dropped.
pub(super) struct Disk {
    image: PathBuf,
    device: String,
    mounted: PathBuf,
}

impl Disk {
    /// Makes the file system in the file `image` and mounts it on the directory `place`.
    pub(super) fn fresh(image: PathBuf, place: &Path) -> Result<Self> {
        let file = File::create(&image).with_context(|| image.display().to_string())?;
        file.set_len(SIZE).with_context(|| image.display().to_string())?;
        // Tables written now: the kernel's thread that does it later would disturb the run.
        execute(
            Command::new("mkfs.ext4")
                .args(["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
                .arg(&image),
        )?;
        // As a disk is written: not copied into the page cache a second time.
        let device = output(
            Command::new("losetup").args(["--find", "--show", "--direct-io=on"]).arg(&image),
        )?;
        let this = Self { image, device: device.trim().to_owned(), mounted: place.to_owned() };
        execute(Command::new("mount").arg(&this.device).arg(place))?;
        execute(&mut Command::new("sync"))?;
        Ok(this)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = execute(Command::new("umount").arg(&self.mounted));
        let detached = execute(Command::new("losetup").arg("--detach").arg(&self.device));
        for error in [unmounted, detached].into_iter().filter_map(Result::err) {
            eprintln!("{error:#}");
        }
        if let Err(e) = std::fs::remove_file(&self.image) {
            eprintln!("{}: {e}", self.image.display());
        }
    }
}
