//! The machine's files, gathered in a directory.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::steps::{execute, output};

/// A directory that becomes the machine's root.
#[derive(Debug)]
pub(super) struct Tree(PathBuf);

impl Tree {
    /// An empty tree at `dir`, laid out as Debian's: `/bin` and its like are links into `/usr`.
    pub(super) fn plant(dir: PathBuf) -> Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
        }
        let tree = Self(dir);
        for name in ["bin", "sbin", "lib", "lib64"] {
            tree.dir(&format!("usr/{name}"))?;
            let link = tree.at(name);
            let target = format!("usr/{name}");
            std::os::unix::fs::symlink(target, &link)
                .with_context(|| link.display().to_string())?;
        }
        for name in ["dev", "mnt", "proc", "root", "run", "sys", "tmp", "var/log", "var/tmp"] {
            tree.dir(name)?;
        }
        Ok(tree)
    }

    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    pub(super) fn dir(&self, path: &str) -> Result<PathBuf> {
        let dir = self.at(path);
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        Ok(dir)
    }

    pub(super) fn text(&self, path: &str, mode: u32, text: &str) -> Result<()> {
        let file = self.at(path);
        self.above(&file)?;
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        fs::set_permissions(&file, Permissions::from_mode(mode))
            .with_context(|| file.display().to_string())
    }

    pub(super) fn copy(&self, from: &Path, to: &str) -> Result<()> {
        let file = self.at(to);
        self.above(&file)?;
        fs::copy(from, &file).with_context(|| format!("{} to {to}", from.display()))?;
        Ok(())
    }

    /// A program of this machine and the libraries it loads.
    pub(super) fn program(&self, from: &Path, to: &str) -> Result<()> {
        self.copy(from, to)?;
        // A static program has no libraries, which `ldd` calls a failure.
        let Ok(text) = output(Command::new("ldd").arg(from)) else { return Ok(()) };
        for library in text.lines().filter_map(library) {
            if !self.at(library).exists() {
                self.copy(Path::new(library), library)?;
            }
        }
        Ok(())
    }

    /// As [`Self::program`], without what debuggers want.
    pub(super) fn stripped(&self, from: &Path, to: &str) -> Result<()> {
        self.program(from, to)?;
        execute(Command::new("strip").arg("--strip-debug").arg(self.at(to)))
    }

    fn above(&self, file: &Path) -> Result<()> {
        let dir = file.parent().unwrap_or(&self.0);
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())
    }
}

/// The path in a line of `ldd`, if it names a file.
fn library(line: &str) -> Option<&str> {
    let target = line.split_once("=>").map_or(line, |(_, path)| path);
    target.split_whitespace().next().filter(|path| path.starts_with('/'))
}
