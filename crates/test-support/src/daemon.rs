//! A real `knarr serve` in a scratch place.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::account::born_in;
use crate::scratch::{Scratch, systemd_driver};

/// How long a daemon may take to say that it is ready, or to end when told to.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a daemon is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Directory of `knarr` and `knarr-shim`.
    pub dist: PathBuf,
    /// Registries (`host:port`) to be spoken to without TLS.
    pub plain_registries: Vec<String>,
    /// Subnet of the built-in bridge; `None`: the scratch place's.
    pub subnet: Option<String>,
    /// Directory of CNI plugin programs; `None`: one that is empty.
    pub cni_bin_dir: Option<PathBuf>,
    /// What it logs, as `log.level`.
    pub log_level: String,
    /// Lines added to its table `cni`.
    pub cni: String,
    /// Lines added to its table `registry`.
    pub registry: String,
    /// Lines added to the configuration file.
    pub extra_config: String,
    /// Variables of its environment besides ours; may be changed between two starts.
    pub environment: BTreeMap<String, String>,
    /// Cgroup it is born into; `None`: ours.
    pub group: Option<PathBuf>,
    /// Network namespace it lives in, with a loopback link of its own; `None`: ours.
    pub netns: Option<PathBuf>,
}

impl Settings {
    /// The usual, with the programs in `dist`.
    pub fn new(dist: PathBuf) -> Self {
        Self {
            dist,
            plain_registries: Vec::new(),
            subnet: None,
            cni_bin_dir: None,
            log_level: "debug,h2=info,hyper_util=info,reqwest=info,tonic=info".to_owned(),
            cni: String::new(),
            registry: String::new(),
            extra_config: String::new(),
            environment: BTreeMap::new(),
            group: None,
            netns: None,
        }
    }
}

/// A running (or killed) daemon. Killed by its pid when dropped; what it made is swept away when
/// the [`Scratch`] goes.
#[derive(Debug)]
pub struct Daemon {
    child: Option<Child>,
    notices: Option<UnixDatagram>,
    settings: Settings,
    config: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Writes the configuration and starts the daemon; returns once it has said `READY=1`.
    ///
    /// # Errors
    /// It ends instead, or stays silent: the message carries its log.
    pub fn start(scratch: &Scratch, settings: Settings) -> Result<Self> {
        write_registries(scratch, &settings)?;
        let config = scratch.dir().join("config.toml");
        fs::write(&config, configuration(scratch, &settings)).context("write the configuration")?;
        let log = scratch.dir().join("daemon.log");
        let mut daemon = Self { child: None, notices: None, settings, config, log };
        daemon.launch(scratch)?;
        Ok(daemon)
    }

    /// Starts it again after [`Daemon::kill9`] or [`Daemon::terminate`].
    ///
    /// # Errors
    /// As for [`Daemon::start`].
    pub fn launch(&mut self, scratch: &Scratch) -> Result<()> {
        let (ready, child) = self.spawn(scratch)?;
        match await_ready(&ready, self.child.insert(child))? {
            None => {
                self.notices = Some(ready);
                Ok(())
            }
            Some(status) => {
                self.child = None;
                bail!("the daemon ended: {status}\n--- log of the daemon ---\n{}", self.log_text())
            }
        }
    }

    /// Starts it to see it end before it is ready.
    ///
    /// # Errors
    /// It becomes ready instead, or stays silent.
    pub fn launch_to_its_end(&mut self, scratch: &Scratch) -> Result<ExitStatus> {
        let (ready, child) = self.spawn(scratch)?;
        let ended = await_ready(&ready, self.child.insert(child))?;
        let status = ended.context("the daemon became ready")?;
        self.child = None;
        Ok(status)
    }

    fn spawn(&self, scratch: &Scratch) -> Result<(UnixDatagram, Child)> {
        let address = scratch.dir().join("notify");
        fs::remove_file(&address).ok();
        let ready = UnixDatagram::bind(&address).context("bind the notify socket")?;
        let log =
            File::options().append(true).create(true).open(&self.log).context("open the log")?;
        let program = self.settings.dist.join("knarr");
        let mut command = match &self.settings.netns {
            None => born_in(self.settings.group.as_deref(), &program),
            // It becomes the program.
            Some(netns) => {
                let mut command =
                    born_in(self.settings.group.as_deref(), Path::new("/usr/bin/nsenter"));
                command.arg(format!("--net={}", netns.display())).arg(&program);
                command
            }
        };
        let child = command
            .arg("serve")
            .arg("--config")
            .arg(&self.config)
            .arg("--root")
            .arg(scratch.root())
            .arg("--state")
            .arg(scratch.state())
            .arg("--listen")
            .arg(scratch.socket())
            .env("NOTIFY_SOCKET", &address)
            .env("RUST_BACKTRACE", "1")
            .envs(&self.settings.environment)
            // Ctrl-C is for us: what we started is ended in its turn.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("clone the log")?)
            .stderr(log)
            .spawn()
            .context("start knarr serve")?;
        Ok((ready, child))
    }

    /// Waits until it tells the service manager this.
    ///
    /// # Errors
    /// It does not.
    pub fn await_notice(&self, wanted: &str) -> Result<()> {
        let socket = self.notices.as_ref().context("the daemon does not run")?;
        socket.set_read_timeout(Some(PATIENCE)).context("set the notify socket's limit")?;
        let mut buffer = [0; 512];
        loop {
            let length = socket.recv(&mut buffer).with_context(|| format!("no {wanted}"))?;
            if buffer[..length].split(|b| *b == b'\n').any(|line| line == wanted.as_bytes()) {
                return Ok(());
            }
        }
    }

    /// What it is started with the next time.
    pub fn settings(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// Waits until it has died by itself.
    ///
    /// # Errors
    /// It does not run, or lives on.
    pub fn await_end(&mut self) -> Result<ExitStatus> {
        let mut child = self.child.take().context("the daemon does not run")?;
        let pidfd = pidfd(&child)?;
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        let count = rustix::event::poll(&mut fds, Some(&patience()?)).context("poll")?;
        if count == 0 {
            self.child = Some(child);
            bail!("the daemon lives on after {PATIENCE:?}");
        }
        child.wait().context("wait for the daemon")
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Ends it the hard way, as a crash would.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill9(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the daemon does not run")?;
        child.kill().context("kill the daemon")?;
        child.wait().context("wait for the daemon")?;
        Ok(())
    }

    /// Asks it to end and waits.
    ///
    /// # Errors
    /// It does not run, or does not end.
    pub fn terminate(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the daemon does not run")?;
        let pid = i32::try_from(child.id())?;
        crate::proc::signal(pid, Signal::TERM)?;
        let ended = crate::proc::wait_gone(pid, PATIENCE);
        if ended.is_err() {
            child.kill().ok();
        }
        child.wait().context("wait for the daemon")?;
        ended
    }

    /// Everything it has logged so far.
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The `knarr` program.
    pub fn program(&self) -> PathBuf {
        self.settings.dist.join("knarr")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// The daemon's configuration: all its paths and names within the scratch place.
fn configuration(scratch: &Scratch, settings: &Settings) -> String {
    let own = scratch.subnet();
    let subnet = settings.subnet.as_deref().unwrap_or(&own);
    let own_bin = scratch.dir().join("cni.bin");
    let bin = settings.cni_bin_dir.as_deref().unwrap_or(&own_bin);
    format!(
        "[log]\nlevel = \"{level}\"\n\n[cgroup]\ndriver = \"{driver}\"\n\n\
         [cni]\nconf_dir = \"{cni}\"\nbin_dirs = [\"{bin}\"]\nbridge_name = \"{bridge}\"\ncache_dir = \"{cache}\"\nsubnets = [\"{subnet}\"]\n{more}\n\
         [registry]\nconfig_path = \"{certs}\"\n{registry}\n{extra}",
        level = settings.log_level,
        driver = if systemd_driver() { "systemd" } else { "cgroupfs" },
        bin = bin.display(),
        cni = scratch.dir().join("cni.d").display(),
        bridge = scratch.mark(),
        more = settings.cni,
        cache = scratch.root().join("cni").display(),
        certs = scratch.dir().join("certs.d").display(),
        registry = settings.registry,
        extra = settings.extra_config,
    )
}

/// One `hosts.toml` per registry, in the layout of containerd's `certs.d`.
fn write_registries(scratch: &Scratch, settings: &Settings) -> Result<()> {
    for host in &settings.plain_registries {
        let dir = scratch.dir().join("certs.d").join(host);
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let text = format!(
            "server = \"http://{host}\"\n\n\
             [host.\"http://{host}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
        );
        fs::write(dir.join("hosts.toml"), text).with_context(|| dir.display().to_string())?;
    }
    Ok(())
}

fn pidfd(child: &Child) -> Result<OwnedFd> {
    let pid = Pid::from_child(child);
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).context("pidfd")
}

fn patience() -> Result<Timespec> {
    Ok(Timespec { tv_sec: i64::try_from(PATIENCE.as_secs())?, tv_nsec: 0 })
}

/// How it ended, if it did instead.
fn await_ready(socket: &UnixDatagram, child: &mut Child) -> Result<Option<ExitStatus>> {
    let (pidfd, limit) = (pidfd(child)?, patience()?);
    loop {
        let mut fds = [PollFd::new(socket, PollFlags::IN), PollFd::new(&pidfd, PollFlags::IN)];
        let count = rustix::event::poll(&mut fds, Some(&limit)).context("poll")?;
        if fds[0].revents().contains(PollFlags::IN) {
            let mut buffer = [0; 512];
            let length = socket.recv(&mut buffer).context("read the notify socket")?;
            if buffer[..length].split(|b| *b == b'\n').any(|line| line == b"READY=1") {
                return Ok(None);
            }
        } else if count == 0 {
            bail!("the daemon did not say that it is ready within {PATIENCE:?}");
        } else {
            return child.wait().map(Some).context("wait for the daemon");
        }
    }
}
