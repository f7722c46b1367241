//! youki is not in Debian: it comes from crates.io, as its users get it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use test_support::packages;

use crate::steps::{execute, step};

/// What `--against` calls it.
pub(super) const NAME: &str = "youki";
const VERSION: &str = "=0.7.0";
const PACKAGES: &[&str] = &["build-essential", "libseccomp-dev", "pkg-config"];

/// A search path on which youki comes first. Builds it the first time, which takes some minutes.
pub(super) fn path(root: &Path) -> Result<OsString> {
    let place = root.join("target/tools/youki");
    if !place.join("bin").join(NAME).exists() {
        step("packages", || packages::ensure(PACKAGES))?;
        // By default it has cgroups of version 2 only.
        let install = [
            "install",
            "--quiet",
            "--locked",
            NAME,
            "--version",
            VERSION,
            "--features",
            "v1",
            "--root",
        ];
        step("build youki", || execute(Command::new("cargo").args(install).arg(&place)))?;
    }
    let before = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> =
        std::iter::once(place.join("bin")).chain(std::env::split_paths(&before)).collect();
    std::env::join_paths(dirs).context("PATH")
}
