//! Power cuts: a disk that loses what was not flushed, something to write to it, and what should be
//! there afterwards.

mod disk;
mod fates;
mod mounted;
mod random;
mod storm;

pub use disk::{BLOCK, Ended, Loss, VolatileDisk};
pub use fates::{Change, Fates};
pub use mounted::{Mounted, Namespace};
pub use random::Random;
pub use storm::{NAMES, storm};

/// File systems nodes have.
pub const FILE_SYSTEMS: &[&str] = &["ext4", "xfs"];

/// Makes a file with an empty file system in it.
///
/// # Errors
/// `mkfs` is not there or fails.
pub fn make_disk(path: &std::path::Path, bytes: u64, fs: &str) -> anyhow::Result<VolatileDisk> {
    use anyhow::{Context, ensure};
    let file = std::fs::File::create(path).with_context(|| path.display().to_string())?;
    file.set_len(bytes).with_context(|| path.display().to_string())?;
    let mut mkfs = std::process::Command::new(format!("mkfs.{fs}"));
    let made = mkfs.arg("-q").arg(path).output().with_context(|| format!("start mkfs.{fs}"))?;
    let said = String::from_utf8_lossy(&made.stderr);
    ensure!(made.status.success(), "mkfs.{fs}: {}: {said}", made.status);
    VolatileDisk::open(path).with_context(|| path.display().to_string())
}
