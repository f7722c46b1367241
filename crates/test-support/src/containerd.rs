//! Debian's containerd in a scratch place, with plugins of the test's choice.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cri_api::v1;
use serde_json::json;

use crate::account::born_in;
use crate::cri::Cri;
use crate::images::catalog::busybox;
use crate::node::registry;
use crate::scratch::Scratch;

/// The image of its pods' own container.
const PAUSE: &str = "test/pause:1";
const PROGRAM: &str = "/usr/bin/containerd";
const PATIENCE: Duration = Duration::from_secs(60);
/// A call that takes longer will not come back: kubelet waits as long.
const CALL: Duration = Duration::from_secs(120);

/// What a containerd is started with.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// Where CNI plugin programs lie.
    pub plugins: &'a Path,
    /// The OCI runtime; `None`: runc.
    pub runtime: Option<&'a Path>,
    /// Its snapshotter.
    pub snapshotter: &'a str,
    /// Cgroup it is born into; `None`: ours.
    pub group: Option<&'a Path>,
}

impl<'a> Settings<'a> {
    /// One that works wherever the scratch place lies, with these plugins.
    pub fn new(plugins: &'a Path) -> Self {
        Self { plugins, runtime: None, snapshotter: "native", group: None }
    }
}

/// A containerd with a root, a state and a configuration of its own; killed when dropped. Its
/// network is the scratch place's bridge and subnet.
#[derive(Debug)]
pub struct Containerd {
    child: Option<Child>,
    dir: PathBuf,
    group: Option<PathBuf>,
}

impl Containerd {
    /// Whether it is installed.
    pub fn is_installed() -> bool {
        Path::new(PROGRAM).exists()
    }

    /// Starts it.
    ///
    /// # Errors
    /// Its place cannot be made, or it cannot be started.
    pub fn start(scratch: &Scratch, settings: Settings<'_>) -> Result<Self> {
        // It wants a program that keeps the pod's namespaces.
        let pause = busybox(PAUSE)?
            .config("Entrypoint", json!(["/bin/busybox", "sleep", "1000000"]))
            // The usual one would be its arguments.
            .config("Cmd", json!([]))
            .build();
        registry()?.add(&pause)?;
        let dir = scratch.dir().join("containerd");
        fs::create_dir_all(dir.join("net.d")).context("make its place")?;
        let addresses = dir.join("addresses");
        fs::write(dir.join("net.d/10-test.conflist"), bridge_network(scratch, &addresses))?;
        fs::write(dir.join("config.toml"), configuration(&dir, settings)?)?;
        let group = settings.group.map(Path::to_owned);
        let mut containerd = Self { child: None, dir, group };
        containerd.launch()?;
        Ok(containerd)
    }

    /// Starts it again after [`Self::kill9`].
    ///
    /// # Errors
    /// It cannot be started.
    pub fn launch(&mut self) -> Result<()> {
        let log = self.dir.join("log");
        let log = fs::File::options().append(true).create(true).open(log).context("its log")?;
        let child = born_in(self.group.as_deref(), Path::new(PROGRAM))
            .arg("--config")
            .arg(self.dir.join("config.toml"))
            // Ctrl-C is for us: what we started is ended in its turn.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start containerd")?;
        self.child = Some(child);
        Ok(())
    }

    /// Ends it the hard way, as a crash would.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill9(&mut self) -> Result<()> {
        let mut child = self.child.take().context("containerd does not run")?;
        child.kill().context("kill containerd")?;
        child.wait().context("wait for containerd")?;
        Ok(())
    }

    /// Its client, once it answers.
    ///
    /// # Errors
    /// It does not: the message carries its log.
    pub async fn client(&self) -> Result<Cri> {
        let cri = Cri::connect_within(&self.socket(), CALL)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match cri.runtime.clone().version(v1::VersionRequest::default()).await {
                Ok(_) => return Ok(cri),
                Err(status) if Instant::now() > deadline => {
                    bail!("containerd does not answer: {status}\n{}", self.log_text());
                }
                // It makes its socket when it is ready, and tells nobody.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Everything it has logged so far.
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Where the runtime of its pods keeps their state, a directory for each namespace.
    pub fn runtime_root(&self) -> PathBuf {
        self.dir.join("runtime")
    }

    /// The reservation of an address of its network.
    pub fn reservation(&self, scratch: &Scratch, address: &str) -> PathBuf {
        self.dir.join("addresses").join(scratch.mark()).join(address)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// A configuration of the reference plugins for the scratch place's bridge and subnet.
pub fn bridge_network(scratch: &Scratch, addresses: &Path) -> String {
    format!(
        r#"{{"cniVersion": "1.0.0", "name": "{mark}", "plugins": [
            {{"type": "bridge", "bridge": "{mark}", "isDefaultGateway": true,
              "hairpinMode": true,
              "ipam": {{"type": "host-local", "dataDir": "{data}",
                       "ranges": [[{{"subnet": "{subnet}"}}]]}}}},
            {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}"#,
        mark = scratch.mark(),
        data = addresses.display(),
        subnet = scratch.subnet(),
    )
}

fn configuration(dir: &Path, settings: Settings<'_>) -> Result<String> {
    let runtime = settings.runtime.map_or_else(String::new, |program| {
        let table = r#"[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc"#;
        let options = format!("BinaryName = {program:?}\nRoot = {:?}", dir.join("runtime"));
        format!("{table}]\nruntime_type = \"io.containerd.runc.v2\"\n{table}.options]\n{options}\n")
    });
    Ok(format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
address = "{dir}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{registry}/{PAUSE}"
restrict_oom_score_adj = true
disable_tcp_service = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshotter}"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{dir}/net.d"
[plugins."io.containerd.internal.v1.opt"]
path = "{dir}/opt"
{runtime}"#,
        dir = dir.display(),
        plugins = settings.plugins.display(),
        snapshotter = settings.snapshotter,
        registry = registry()?.host(),
    ))
}
