//! File systems as nodes have them, for what a runtime keeps: an ext4 with a journal for its root, memory
//! for its state.
//!
//! What a machine that builds and tests has there can be anything. Without a journal ext4 does not give
//! a deleted inode away again for a minute, or five while its block is dirty, and looks at each such
//! inode anew whenever it makes a file: right after a store with a hundred thousand files was deleted,
//! unpacking the next one takes several times as long, whoever unpacks. Mounted with `discard` it also
//! waits for the disk whenever it frees a block, so each directory that goes costs a tenth of a
//! millisecond. And what one run left to be written, the next one's flush would wait for.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::scratch::Scratch;
use crate::small_disk::SmallDisk;

/// Sparse: only what is written takes room.
const SIZE: u64 = 24 << 30;

/// Mounts a fresh ext4 at the place's root and a tmpfs at its state. Both go with the place.
///
/// # Errors
/// There is no `mkfs.ext4` (`e2fsprogs`), or the kernel's.
pub fn as_on_a_node(scratch: &Scratch) -> Result<()> {
    mount_root(scratch)?;
    SmallDisk::mount(scratch.state()).map(drop)
}

/// Mounts a fresh ext4 at the place's root. It goes with the place.
///
/// # Errors
/// As [`as_on_a_node`].
pub fn mount_root(scratch: &Scratch) -> Result<()> {
    let image = scratch.dir().join("disk.img");
    let file = File::create(&image).with_context(|| image.display().to_string())?;
    file.set_len(SIZE).with_context(|| image.display().to_string())?;
    // Tables written now: the kernel's thread that does it later would disturb what is measured.
    let tables = ["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
    run(Command::new("mkfs.ext4").args(tables).arg(&image))?;
    // The device goes when it is unmounted, and the file, without a name, with the device. Direct: as a
    // disk is written, not copied into the page cache a second time.
    let mut attach = Command::new("losetup");
    let device = run(attach.args(["--find", "--show", "--direct-io=on"]).arg(&image))?;
    let device = device.trim();
    let mounted = run(Command::new("mount").arg(device).arg(scratch.root()));
    let left = run(Command::new("losetup").arg("--detach").arg(device));
    std::fs::remove_file(&image).with_context(|| image.display().to_string())?;
    mounted.and(left)?;
    // Of this one alone: others of the machine may be kept from it for ever.
    run(Command::new("sync").arg("--file-system").arg(scratch.root())).map(drop)
}

/// Whether this mount, of a place's, is one of those.
pub(crate) fn is_root(scratch: &Scratch, source: &str, mounted: &Path) -> bool {
    source.starts_with("/dev/loop") && mounted == scratch.root()
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, said.trim());
    String::from_utf8(output.stdout).with_context(|| format!("output of {command:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_goes_with_its_place() {
        let Ok(scratch) = Scratch::claim() else {
            crate::skip("not root");
            return;
        };
        if let Err(why) = crate::installed::find("mkfs.ext4", "/sbin".as_ref()) {
            crate::skip(&why);
            return;
        }
        as_on_a_node(&scratch).unwrap();
        let (root, state) = (scratch.root(), scratch.state().to_owned());
        for dir in [&root, &state] {
            std::fs::write(dir.join("file"), "x").unwrap();
        }
        assert!(!scratch.dir().join("disk.img").exists());
        let table = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let there = |path: &Path| table().contains(&format!(" {} ", path.display()));
        assert!(there(&root) && there(&state));
        let leaks = crate::leaks::Leaks::of(&scratch).find();
        assert!(leaks.is_empty(), "{leaks:?}");
        drop(scratch);
        assert!(!there(&root) && !there(&state) && !root.exists() && !state.exists());
    }
}
