//! OCI runtimes that are installed: where, and which version.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// A runtime in one of the directories that `given` has, separated by colons, or of the host.
///
/// # Errors
/// There is none, for `skipped: …`.
pub fn find(name: &str, given: &OsStr) -> Result<PathBuf, String> {
    let of_host = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];
    let mut dirs = std::env::split_paths(given).chain(of_host.map(PathBuf::from));
    let found = dirs.find_map(|dir| Some(dir.join(name)).filter(|path| path.is_file()));
    found.ok_or_else(|| format!("{name} is not installed"))
}

/// What a runtime prints of its version.
///
/// # Errors
/// It cannot be run.
pub fn says_it_is(path: &Path) -> Result<String> {
    let said = Command::new(path).arg("--version").output();
    let said = said.with_context(|| path.display().to_string())?;
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// The first version in a text such as `runc version 1.1.5+ds1`: major, minor.
pub fn version_in(text: &str) -> Option<(u32, u32)> {
    text.split_whitespace().find_map(|word| {
        let mut numbers = word.split('.');
        let digits = |part: &str| part.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
        Some((digits(numbers.next()?)?, digits(numbers.next()?)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_two_numbers_at_least() {
        assert_eq!(version_in("runc version 1.1.5+ds1"), Some((1, 1)));
        assert_eq!(version_in("youki version: 0.7.0"), Some((0, 7)));
        assert_eq!(version_in("runsc version next"), None);
    }
}
