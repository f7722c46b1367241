//! Power cuts while images are pulled and removed, on this machine's kernel: ext4 and xfs on a loop
//! device whose disk loses what was not flushed. `cargo xtask vm powercut` does the same with the
//! whole daemon and Debian's kernel, slower by far.
//!
//! `KNARR_CUTS` says how often, `KNARR_SEED` repeats a run that failed.
#![forbid(unsafe_code)]

#[cfg(test)]
mod node;
#[cfg(test)]
mod trial;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::{node, trial};

    fn cut_on(fs: &str) {
        let missing = ["/dev/fuse", "/dev/loop-control", &format!("/usr/sbin/mkfs.{fs}")]
            .into_iter()
            .find(|path| !Path::new(path).exists())
            .map(str::to_owned);
        if let Some(missing) = missing {
            test_support::skip(&format!("there is no {missing}"));
            return;
        }
        if !rustix::process::geteuid().is_root() {
            test_support::skip("needs root");
            return;
        }
        trial::run(fs);
    }

    #[test]
    fn after_power_cuts_on_ext4_images_are_whole_or_gone() {
        cut_on("ext4");
    }

    #[test]
    fn after_power_cuts_on_xfs_images_are_whole_or_gone() {
        cut_on("xfs");
    }

    /// Nothing unless a trial starts it.
    #[test]
    fn a_node() {
        if let Some(root) = std::env::var_os(node::ROOT) {
            node::run(Path::new(&root));
        }
    }
}
