//! Other OCI runtimes for a test's daemon. With `KNARR_TEST_HANDLER=runc` in the environment every node's
//! default handler is that one: the tests of pods then are tests of it. Runtimes in the directories that
//! `KNARR_RUNTIMES` names come before the host's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};

use crate::installed::{find, says_it_is};
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
        match self {
            Self::KnarrOci => crate::node::dist().map(|dist| dist.join("knarr")),
            Self::Runc | Self::Crun | Self::Youki | Self::Runsc => {
                find(self.name(), &std::env::var_os("KNARR_RUNTIMES").unwrap_or_default())
            }
        }
    }

    /// Whether it applies seccomp profiles. youki says that it does not where it was built without
    /// libseccomp, as crates.io has it.
    pub fn has_seccomp(self) -> bool {
        static OF_YOUKI: OnceLock<bool> = OnceLock::new();
        let asked = || {
            let told =
                self.find().ok().and_then(|path| Command::new(path).arg("features").output().ok());
            told.is_none_or(|told| {
                !String::from_utf8_lossy(&told.stdout).contains("\"seccomp\": null")
            })
        };
        self != Self::Youki || *OF_YOUKI.get_or_init(asked)
    }

    /// Whether its containers can have the pod's network.
    ///
    /// # Errors
    /// It is not installed, or does not say what it is.
    pub fn has_pod_network(self) -> Result<bool> {
        Ok(self != Self::Runsc || self.date_of_gvisor()? >= DIRECTFS)
    }

    fn date_of_gvisor(self) -> Result<u32> {
        let path = self.find().map_err(|why| anyhow!("{why}"))?;
        date_of_gvisor(&says_it_is(&path)?)
    }

    /// The handler's table for a daemon's configuration.
    ///
    /// # Errors
    /// It is not installed, or the file system refuses.
    pub fn configuration(self, scratch: &Scratch) -> Result<String> {
        let path = self.find().map_err(|why| anyhow!("{why}"))?;
        let own = scratch.dir().join("runtimes");
        fs::create_dir_all(&own).with_context(|| own.display().to_string())?;
        let own = own.join(self.name());
        let mut more = String::new();
        let path = match self {
            Self::Runc | Self::Youki => path,
            // It takes every hierarchy or none, and not this mixture (1.12 and later take an empty one of version
            // 2). What it does not see does not disturb it.
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
                let date = self.date_of_gvisor()?;
                let options = if date >= DIRECTFS {
                    r#"["--platform=systrap"]"#
                } else {
                    r#"["--platform=ptrace", "--network=none"]"#
                };
                more = format!("type = \"gvisor\"\noptions = {options}\n");
                if (DIRECTFS..KNOWS_NETWORKS).contains(&date) {
                    script(&own, &without_a_sign_of_the_host(&path))?;
                    own
                } else {
                    path
                }
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

/// The date of the first gVisor that these tests run with the pod's network: those before have neither
/// the platform nor the ways to files of today's.
const DIRECTFS: u32 = 20_240_101;

/// The date of the first gVisor that knows pods' networks from the host's on Linux 6.11 and later: those before take
/// a setting for the host's that is in every network there.
const KNOWS_NETWORKS: u32 = 20_240_806;

/// Runs `runsc` with that setting hidden where it looks for it: when it starts what stands for a pod.
/// Nowhere else, for what it opens in a mount namespace of the script's own would go with that.
fn without_a_sign_of_the_host(runsc: &Path) -> String {
    format!(
        r#"root=; verb=; last=
for word in "$@"; do
    [ "$last" = --root ] && root=$word
    [ "$word" = start ] && verb=start
    last=$word
done
[ "$verb" = start ] && [ -d "${{root%/handlers/*}}/pods/$last" ] || exec {runsc} "$@"
exec unshare -m --propagation slave sh -c 'mount -t tmpfs none /proc/sys/net/core; exec {runsc} "$@"' sh "$@""#,
        runsc = runsc.display()
    )
}

/// Versions are dates: `runsc version 0.0~20240729.0`, `runsc version release-20240729.0`.
fn date_of_gvisor(said: &str) -> Result<u32> {
    let version = said.lines().next().unwrap_or_default();
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    let date = numbers.find(|number| number.len() == 8);
    date.with_context(|| format!("not a version of runsc: {version}"))?.parse().context("a date")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gvisors_versions_are_dates() {
        for said in
            ["runsc version 0.0~20240729.0\nspec: 1.2.0", "runsc version release-20240729.0"]
        {
            assert_eq!(date_of_gvisor(said).unwrap(), 20_240_729);
        }
        assert!(date_of_gvisor("runsc version next").is_err());
    }
}
