//! The program with failpoints, beside a shim, and the places it has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, ensure};
use test_support::matrix::Place;

const PROGRAM: &str = env!("CARGO_BIN_EXE_knarr");

/// Every place that the program knows.
pub(crate) fn places() -> Result<Vec<Place>> {
    let output = Command::new(PROGRAM).arg("serve").env(failpoint::VARIABLE, "list").output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(test_support::matrix::places(&String::from_utf8(output.stdout)?))
}

/// Where the tables of all walks are left.
pub(crate) fn tables() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("matrix")
}

/// A directory with the program under test and the shim; none, and a word why, where there is no shim.
pub(crate) fn dist() -> Result<Option<PathBuf>> {
    let dist = match test_support::node::dist() {
        Ok(dist) => dist,
        Err(why) => {
            test_support::skip(&why);
            return Ok(None);
        }
    };
    static DIR: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let made = DIR.get_or_init(|| furnish(&dist).map_err(|error| format!("{error:#}")));
    made.clone().map(Some).map_err(|error| anyhow!("the program's directory: {error}"))
}

fn furnish(dist: &Path) -> Result<PathBuf> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("failpoints");
    fs::create_dir_all(&dir)?;
    for (name, from) in [("knarr", PathBuf::from(PROGRAM)), ("knarr-shim", dist.join("knarr-shim"))]
    {
        // By rename: another run may have it open.
        let fresh = dir.join(format!(".{name}.{}", std::process::id()));
        if fs::hard_link(&from, &fresh).is_err() {
            fs::copy(&from, &fresh).with_context(|| from.display().to_string())?;
        }
        fs::rename(&fresh, dir.join(name))?;
        // Renaming a link onto another of the same file does nothing.
        drop(fs::remove_file(&fresh));
    }
    Ok(dir)
}
