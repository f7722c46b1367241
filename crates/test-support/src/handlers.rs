//! Other OCI runtimes for a test's daemon. With `KNARR_TEST_HANDLER=runc` in the environment every node's
//! default handler is that one: the tests of pods then are tests of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::scratch::Scratch;

/// A runtime that handlers can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// Debian's runc.
    Runc,
    /// Debian's crun.
    Crun,
    /// `youki`, where somebody has installed it.
    Youki,
    /// gVisor's, as Debian has it.
    Runsc,
    /// Our own, called by its command line.
    KnarrOci,
}

impl Runtime {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Runc, Self::Crun, Self::Youki, Self::Runsc, Self::KnarrOci];

    /// Its name as a handler.
    pub fn name(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Youki => "youki",
            Self::Runsc => "runsc",
            Self::KnarrOci => "knarr-oci",
        }
    }

    /// The one `KNARR_TEST_HANDLER` names.
    ///
    /// # Errors
    /// It names none.
    pub fn from_environment() -> Result<Option<Self>> {
        let Some(name) = std::env::var_os("KNARR_TEST_HANDLER").filter(|name| !name.is_empty())
        else {
            return Ok(None);
        };
        let found = Self::ALL.into_iter().find(|runtime| name == runtime.name());
        found.map(Some).with_context(|| format!("KNARR_TEST_HANDLER: no {name:?}"))
    }

    /// Where it is, or why it is not.
    ///
    /// # Errors
    /// The reason, for `skipped: …`.
    pub fn find(self) -> Result<PathBuf, String> {
        let name = match self {
            Self::KnarrOci => return crate::node::dist().map(|dist| dist.join("knarr")),
            Self::Runc | Self::Crun | Self::Youki | Self::Runsc => self.name(),
        };
        let dirs = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];
        let found = dirs.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists());
        found.ok_or_else(|| format!("{name} is not installed"))
    }

    /// The handler's table for a daemon's configuration.
    ///
    /// # Errors
    /// It is not installed, or the file system refuses.
    pub fn configuration(self, scratch: &Scratch) -> Result<String> {
        let path = match self.find() {
            Ok(path) => path,
            Err(why) => bail!("{why}"),
        };
        let own = scratch.dir().join("runtimes");
        fs::create_dir_all(&own).with_context(|| own.display().to_string())?;
        let own = own.join(self.name());
        let mut more = String::new();
        let path = match self {
            Self::Runc | Self::Youki => path,
            // It takes every hierarchy or none, and not this mixture. What it does not see does not
            // disturb it.
            Self::Crun if Path::new("/sys/fs/cgroup/unified").exists() => {
                script(
                    &own,
                    &format!(
                        "exec unshare -m sh -c 'umount -l /sys/fs/cgroup/unified; exec {} \"$@\"' sh \"$@\"",
                        path.display()
                    ),
                )?;
                own
            }
            Self::Crun => path,
            Self::Runsc => {
                // Debian's takes newer kernels' pod networks for the host's, and refuses them.
                more = "type = \"gvisor\"\noptions = [\"--platform=ptrace\", \"--network=none\"]\n"
                    .to_owned();
                path
            }
            Self::KnarrOci => {
                script(&own, &format!("exec {} oci \"$@\"", path.display()))?;
                own
            }
        };
        let name = self.name();
        Ok(format!("[handlers.{name}]\npath = \"{}\"\n{more}", path.display()))
    }

    /// Makes it the handler of all pods of a daemon that is configured by `scratch`.
    ///
    /// # Errors
    /// As for [`Self::configuration`].
    pub fn make_default(self, scratch: &Scratch) -> Result<()> {
        let dir = scratch.dir().join("conf.d");
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let table = self.configuration(scratch)?;
        let text = format!("default_handler = \"{}\"\n{table}", self.name());
        fs::write(dir.join("handler.toml"), text).context("write the handler's configuration")
    }
}

fn script(path: &Path, body: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\n{body}\n")).with_context(|| path.display().to_string())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| path.display().to_string())
}
