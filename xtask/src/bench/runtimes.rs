//! The runtimes that are measured, each on directories of its own.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use test_support::daemon::{Daemon, Settings};
use test_support::own_disk;
use test_support::scratch::Scratch;

/// Long enough for any daemon to open its socket.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running runtime; ends and forgets everything when dropped, in the order of the fields.
pub(super) enum Runtime {
    Knarr { daemon: Box<Daemon>, scratch: Scratch },
    Containerd { child: Child, scratch: Scratch },
}

impl Runtime {
    /// Its store is a file system of its own.
    pub(super) fn knarr(dist: &Path, registry: &str) -> Result<Self> {
        let scratch = Scratch::claim()?;
        own_disk::mount_root(&scratch)?;
        let mut settings = Settings::new(dist.to_owned());
        settings.plain_registries.push(registry.to_owned());
        let daemon = Box::new(Daemon::start(&scratch, settings)?);
        Ok(Self::Knarr { daemon, scratch })
    }

    /// Debian's containerd with its usual settings, but for the places and the registry.
    pub(super) fn containerd(registry: &str) -> Result<Self> {
        let scratch = Scratch::claim()?;
        own_disk::mount_root(&scratch)?;
        let config = scratch.dir().join("containerd.toml");
        let (root, state) = (scratch.root(), scratch.state().join("containerd"));
        let socket = scratch.socket();
        let text = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\n\
             disabled_plugins = [\"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = {socket:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.{registry:?}]\n\
             endpoint = [\"http://{registry}\"]\n",
        );
        fs::write(&config, text).with_context(|| config.display().to_string())?;
        let log = fs::File::create(scratch.dir().join("containerd.log"))?;
        let child = Command::new("containerd")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start containerd")?;
        let runtime = Self::Containerd { child, scratch };
        wait_for(&runtime.socket())?;
        Ok(runtime)
    }

    pub(super) fn pid(&self) -> Result<u32> {
        match self {
            Self::Knarr { daemon, .. } => daemon.pid().context("knarr has ended"),
            Self::Containerd { child, .. } => Ok(child.id()),
        }
    }

    pub(super) fn socket(&self) -> PathBuf {
        match self {
            Self::Knarr { scratch, .. } | Self::Containerd { scratch, .. } => scratch.socket(),
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        match self {
            Self::Knarr { .. } => {}
            Self::Containerd { child, .. } => {
                child.kill().ok();
                child.wait().ok();
            }
        }
    }
}

fn wait_for(socket: &Path) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if UnixStream::connect(socket).is_ok() {
            return Ok(());
        }
        // Nothing tells when a socket of somebody else appears.
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("containerd does not listen at {}", socket.display())
}
