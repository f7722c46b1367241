//! The program as the CNI plugin of another runtime: Debian's containerd.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cri_api::v1;
use test_support::cri::Cri;
use test_support::node::{Node, on_a_node, registry};

/// A containerd with a root, a state and a configuration of its own.
struct Containerd {
    child: Child,
    dir: PathBuf,
}

const PATIENCE: Duration = Duration::from_secs(60);

impl Containerd {
    fn start(node: &Node) -> Result<Self> {
        let dir = node.scratch.dir().join("containerd");
        fs::create_dir_all(dir.join("net.d")).context("make its place")?;
        fs::create_dir_all(dir.join("bin")).context("make its place")?;
        for name in ["bridge", "host-local", "loopback", "portmap"] {
            let program = std::env::var_os("KNARR_DIST").map(PathBuf::from).unwrap_or_default();
            symlink(program.join("knarr"), dir.join("bin").join(name)).context("link a plugin")?;
        }
        fs::write(dir.join("net.d/10-test.conflist"), network(node, &dir))?;
        fs::write(dir.join("config.toml"), configuration(&dir)?)?;
        let log = fs::File::create(dir.join("log"))?;
        let child = Command::new("/usr/bin/containerd")
            .arg("--config")
            .arg(dir.join("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start containerd")?;
        Ok(Self { child, dir })
    }

    async fn client(&self) -> Result<Cri> {
        let cri = Cri::connect(&self.dir.join("containerd.sock"))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let version = cri.runtime.clone().version(v1::VersionRequest::default()).await;
            match version {
                Ok(_) => return Ok(cri),
                Err(status) if Instant::now() > deadline => {
                    let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                    bail!("containerd does not answer: {status}\n{log}");
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn network(node: &Node, dir: &Path) -> String {
    format!(
        r#"{{"cniVersion": "1.0.0", "name": "{mark}", "plugins": [
            {{"type": "bridge", "bridge": "{mark}", "isDefaultGateway": true,
              "hairpinMode": true,
              "ipam": {{"type": "host-local", "dataDir": "{data}",
                       "ranges": [[{{"subnet": "{subnet}"}}]]}}}},
            {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}"#,
        mark = node.scratch.mark(),
        data = dir.join("addresses").display(),
        subnet = node.scratch.subnet(),
    )
}

fn configuration(dir: &Path) -> Result<String> {
    let dir = dir.display();
    Ok(format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
address = "{dir}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{registry}/test/busybox:1"
restrict_oom_score_adj = true
disable_tcp_service = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{dir}/bin"
conf_dir = "{dir}/net.d"
[plugins."io.containerd.internal.v1.opt"]
path = "{dir}/opt"
"#,
        registry = registry()?.host(),
    ))
}

#[test]
fn debians_containerd_uses_the_program_as_its_plugins() -> Result<()> {
    if !Path::new("/usr/bin/containerd").exists() {
        test_support::skip("containerd is not installed");
        return Ok(());
    }
    on_a_node(async |node| {
        let containerd = Containerd::start(node)?;
        let cri = containerd.client().await?;
        let request = v1::StatusRequest { verbose: false };
        let status = cri.runtime.clone().status(request).await?.into_inner().status;
        let conditions = status.unwrap_or_default().conditions;
        ensure!(conditions.iter().all(|condition| condition.status), "{conditions:?}");
        let pod = node.pod("foreign").with(|config| config.linux = None);
        let id = cri.run_pod(&pod).await.context("RunPodSandbox of containerd")?;
        let ip = cri.pod_ip(&id).await?;
        ensure!(ip == format!("{}2", node.scratch.subnet_prefix()), "{ip}");
        let reserved = containerd.dir.join("addresses").join(node.scratch.mark()).join(&ip);
        let holder = fs::read_to_string(&reserved).context("the reservation")?;
        ensure!(holder == format!("{id}\r\neth0"), "{holder}");
        cri.stop_pod(&id).await?;
        ensure!(!reserved.exists(), "the address is still reserved");
        cri.remove_pod(&id).await?;
        Ok(())
    })
}
