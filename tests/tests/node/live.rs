//! Clients of the streaming server that move their bytes by themselves, and what is held for them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use streaming::Streams;
use streaming::client::{ClientProcess, Forwarder, Reader, Transport, Verdict};
use test_support::node::{Node, PATIENCE};
use test_support::proc::{self, Process};
use tokio::net::{TcpListener, TcpStream};

/// Each way to speak.
pub(crate) const TRANSPORTS: [Transport; 2] = [Transport::Spdy, Transport::WebSocket];

pub(crate) fn streams(tty: bool) -> Result<Streams> {
    Ok(Streams::new(true, true, !tty, tty)?)
}

/// Where a shell's script runs, with all its streams.
pub(crate) async fn exec_url(node: &Node, id: &str, script: &str, tty: bool) -> Result<String> {
    let request = v1::ExecRequest {
        container_id: id.to_owned(),
        cmd: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        tty,
        stdin: true,
        stdout: true,
        stderr: !tty,
    };
    Ok(node.cri.runtime.clone().exec(request).await?.into_inner().url)
}

/// A client of a container without a terminal.
pub(crate) async fn attach(node: &Node, id: &str, transport: Transport) -> Result<Live> {
    let request = v1::AttachRequest {
        container_id: id.to_owned(),
        stdin: true,
        tty: false,
        stdout: true,
        stderr: true,
    };
    let url = node.cri.runtime.clone().attach(request).await?.into_inner().url;
    Live::connect(&url, transport, false).await
}

/// A session whose bytes move by themselves; dropping it is a client that disappears.
pub(crate) struct Live {
    pub(crate) process: ClientProcess,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Live {
    pub(crate) async fn connect(url: &str, transport: Transport, tty: bool) -> Result<Self> {
        Ok(Self::of(ClientProcess::connect(url, transport, streams(tty)?).await?))
    }

    /// Moves a session's bytes from now on.
    pub(crate) fn of(mut process: ClientProcess) -> Self {
        let moving = std::mem::replace(&mut process.driver, Box::pin(std::future::ready(())));
        Self { process, driver: tokio::spawn(moving) }
    }

    pub(crate) async fn exec(
        node: &Node,
        id: &str,
        script: &str,
        transport: Transport,
    ) -> Result<Self> {
        Self::connect(&exec_url(node, id, script, false).await?, transport, false).await
    }

    pub(crate) async fn send(&mut self, text: &str) -> Result<()> {
        let stdin = self.process.stdin.as_mut().context("no stdin")?;
        Ok(stdin.write_all(text.as_bytes()).await?)
    }

    pub(crate) fn finish(&mut self) {
        if let Some(stdin) = &mut self.process.stdin {
            stdin.finish();
        }
    }

    /// Reads stdout until it has brought `text`.
    pub(crate) async fn expect(&mut self, text: &str) -> Result<()> {
        let stdout = self.process.stdout.as_mut().context("no stdout")?;
        let mut got = Vec::new();
        let wait = async {
            while !String::from_utf8_lossy(&got).contains(text) {
                let Some(more) = stdout.next().await else { return };
                got.extend_from_slice(&more);
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        let got = String::from_utf8_lossy(&got).into_owned();
        waited.with_context(|| format!("{got:?} and not {text:?}"))?;
        ensure!(got.contains(text), "{got:?} ended without {text:?}");
        Ok(())
    }

    /// Everything that is still to come, and the verdict.
    pub(crate) async fn rest(mut self) -> Result<(Vec<u8>, Vec<u8>, Verdict)> {
        let (mut stdout, mut stderr) = (self.process.stdout.take(), self.process.stderr.take());
        let all = async {
            tokio::join!(to_end(&mut stdout), to_end(&mut stderr), self.process.end.verdict())
        };
        let (out, err, verdict) = tokio::time::timeout(PATIENCE, all).await?;
        Ok((out, err, verdict?))
    }
}

async fn to_end(reader: &mut Option<Reader>) -> Vec<u8> {
    let mut all = Vec::new();
    if let Some(reader) = reader {
        while let Some(bytes) = reader.next().await {
            all.extend_from_slice(&bytes);
        }
    }
    all
}

/// A port-forward whose bytes move by themselves.
pub(crate) async fn forwarder(node: &Node, pod: &str, transport: Transport) -> Result<Forwarder> {
    let url = forward_url(node, pod).await?;
    let (forwarder, driver) = Forwarder::connect(&url, transport).await?;
    tokio::spawn(driver);
    Ok(forwarder)
}

/// Two ends of a connection on this machine.
pub(crate) async fn pair() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr()?), listener.accept());
    Ok((near?, far?.0))
}

/// Where ports of a pod are forwarded.
pub(crate) async fn forward_url(node: &Node, pod: &str) -> Result<String> {
    let request = v1::PortForwardRequest { pod_sandbox_id: pod.to_owned(), port: Vec::new() };
    Ok(node.cri.runtime.clone().port_forward(request).await?.into_inner().url)
}

/// What a daemon, a pod's shim and a container hold: descriptors by kind, and processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    daemon: BTreeMap<String, usize>,
    shim: BTreeMap<String, usize>,
    processes: Vec<String>,
}

impl Held {
    /// Once everything that is made only once is there: a command has run, a client was attached.
    pub(crate) async fn when_idle(node: &Node, pod: &str, container: &str) -> Result<Self> {
        node.cri.shell(container, "true").await?;
        Self::now(node, pod, container)
    }

    fn now(node: &Node, pod: &str, container: &str) -> Result<Self> {
        let all = proc::all();
        let is_shim = |p: &&Process| p.cmdline.contains("knarr-shim") && p.cmdline.contains(pod);
        let shim = all.iter().find(is_shim).context("the pod has no shim")?.pid;
        let daemon = i32::try_from(node.daemon.pid().context("no daemon")?)?;
        let inside = all.iter().filter(|p| !p.zombie && p.cgroups.contains(container));
        let mut processes: Vec<_> = inside.map(|p| p.cmdline.clone()).collect();
        processes.sort();
        Ok(Self { daemon: descriptors(daemon)?, shim: descriptors(shim)?, processes })
    }

    /// Waits until no more is held than this.
    pub(crate) async fn is_all(&self, node: &Node, pod: &str, container: &str) -> Result<()> {
        let limit = tokio::time::Instant::now() + PATIENCE;
        loop {
            let now = Self::now(node, pod, container)?;
            if now == *self {
                return Ok(());
            }
            ensure!(tokio::time::Instant::now() < limit, "before {self:#?}\nand now {now:#?}");
            // Nothing tells when another process closes a file.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A process's open files by what they are, without the numbers that tell them apart.
fn descriptors(pid: i32) -> Result<BTreeMap<String, usize>> {
    let dir = format!("/proc/{pid}/fd");
    let mut kinds = BTreeMap::new();
    for entry in std::fs::read_dir(&dir).with_context(|| dir.clone())? {
        // One that is closed while it is looked at is not held.
        let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
        let text = target.to_string_lossy().into_owned();
        let kind = match text.split_once(":[") {
            Some((kind, _)) => kind.to_owned(),
            None => text,
        };
        *kinds.entry(kind).or_default() += 1;
    }
    Ok(kinds)
}
