//! OCI runtimes that Debian's stable release has too old for this kernel, from a newer one, unpacked and
//! not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::steps::{execute, step};

/// The release whose packages are taken.
const SUITE: &str = "trixie";

/// gVisor: the program is static, so that it runs beside any release's libraries. Before 2024 it takes
/// the pod networks of newer kernels for the host's.
const PACKAGE: &str = "runsc";

/// Directories that have runtimes, separated by colons: those given, then our own. What is in none of
/// them is the host's.
pub(crate) fn dirs(root: &Path, given: &[PathBuf]) -> Result<String> {
    let fetched = step("newer runtimes", || fetch(root))?;
    let all: Vec<String> = given
        .iter()
        .chain(std::iter::once(&fetched))
        .map(|dir| fs::canonicalize(dir).with_context(|| dir.display().to_string()))
        .map(|dir| dir.map(|dir| dir.display().to_string()))
        .collect::<Result<_>>()?;
    Ok(all.join(":"))
}

/// Fetches what is missing, once; the directory of its programs.
fn fetch(root: &Path) -> Result<PathBuf> {
    let own = root.join("target/tools/runtimes");
    let dir = own.join("bin");
    if dir.join(PACKAGE).exists() {
        return Ok(dir);
    }
    let (apt, debs) = (own.join("apt"), own.join("debs"));
    for below in ["state/lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(apt.join(below)).context("make apt's directories")?;
    }
    for dir in [&debs, &dir] {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    let config = configure(&apt)?;
    let client = |words: &[&str]| {
        execute(
            Command::new("apt-get")
                .args(["--quiet", "--quiet"])
                .args(words)
                .env("APT_CONFIG", &config)
                .current_dir(&debs),
        )
    };
    client(&["update"]).context("read the newer release's list (is the network there?)")?;
    client(&["download", PACKAGE])?;
    unpack(&debs, &own)?;
    fs::remove_dir_all(&apt).context("remove apt's directories")?;
    // By rename: whoever finds it finds it whole.
    fs::rename(own.join("unpacked/usr/bin").join(PACKAGE), dir.join(PACKAGE)).context(PACKAGE)?;
    fs::remove_dir_all(own.join("unpacked")).context("remove the rest of the package")?;
    Ok(dir)
}

/// A client of its own: nothing that the host has installed or lists is touched.
fn configure(apt: &Path) -> Result<PathBuf> {
    let place = apt.display();
    let sources = apt.join("sources.list");
    let text = format!(
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
         http://deb.debian.org/debian {SUITE} main\n"
    );
    fs::write(&sources, text).context("write apt's sources")?;
    let config = apt.join("apt.conf");
    let text = format!(
        "Dir::State \"{place}/state\";\nDir::State::status \"/dev/null\";\nDir::Cache \"{place}/cache\";\n\
         Dir::Etc::SourceList \"{}\";\nDir::Etc::SourceParts \"/dev/null\";\nAPT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\n",
        sources.display()
    );
    fs::write(&config, text).context("write apt's configuration")?;
    Ok(config)
}

fn unpack(debs: &Path, own: &Path) -> Result<()> {
    let name = format!("{PACKAGE}_");
    let is_it = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(&name);
    let mut found = fs::read_dir(debs).context("read the fetched packages")?.flatten();
    let deb = found.find(is_it).context("apt has fetched no package")?.path();
    execute(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(own.join("unpacked")))?;
    fs::remove_dir_all(debs).context("remove the fetched packages")
}
