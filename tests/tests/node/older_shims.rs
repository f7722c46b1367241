//! Pods whose shim was started by another version of knarr are taken over like any other.
//!
//! The shim is a real one. In front of its socket stands somebody who lets it speak exactly what
//! version 1 of the protocol had, which `crates/shim-protocol/tests/recorded` has byte for byte: it
//! says version 1, and ends the connection on a request that version 1 did not know.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown,
};
use test_support::node::{Node, on_a_node};

/// The first request that version 1 did not have, `Attach`.
const NOT_IN_VERSION_1: u8 = 10;

/// Stands in front of a shim until it is dropped; then the shim's own socket is back.
struct Between {
    dir: std::path::PathBuf,
    refused: Arc<AtomicU32>,
}

impl Between {
    /// In front of the shim of this pod, which says that it speaks `version`.
    fn stand(node: &Node, pod: &str, version: u8) -> Result<Self> {
        let dir = node.scratch.state().join("pods").join(pod);
        std::fs::rename(dir.join("shim.sock"), dir.join("shim.real")).context("move the socket")?;
        let refused = Arc::new(AtomicU32::new(0));
        let between = Self { dir: dir.clone(), refused: Arc::clone(&refused) };
        let listener = UnixListener::bind(dir.join("shim.sock")).context("bind")?;
        std::thread::spawn(move || {
            for daemon in listener.incoming().flatten() {
                let Ok(shim) = UnixStream::connect(dir.join("shim.real")) else { return };
                let (Ok(daemons), Ok(shims)) = (daemon.try_clone(), shim.try_clone()) else {
                    return;
                };
                let refused = Arc::clone(&refused);
                std::thread::spawn(move || {
                    let mut requests = Requests::default();
                    carry(&daemons, &shims, |bytes| {
                        let known = requests.are_of_version_1(bytes);
                        refused.fetch_add(u32::from(!known), Ordering::SeqCst);
                        known
                    });
                });
                std::thread::spawn(move || {
                    let mut hello = true;
                    carry(&shim, &daemon, |bytes| {
                        // Reply, id, hello, its three fields: the first is the version.
                        let first = std::mem::take(&mut hello);
                        if first && bytes.get(11) == Some(&0x83) {
                            bytes[12] = version;
                        }
                        true
                    });
                });
            }
        });
        Ok(between)
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        let real = self.dir.join("shim.real");
        if real.exists() && std::fs::rename(real, self.dir.join("shim.sock")).is_err() {
            eprintln!("{}: the shim's socket is not put back", self.dir.display());
        }
    }
}

/// Carries what comes, with its files, until one side is gone or `look` says that it is enough.
fn carry(from: &UnixStream, to: &UnixStream, mut look: impl FnMut(&mut [u8]) -> bool) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let got = rustix::net::recvmsg(from, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC);
        let mut files: Vec<OwnedFd> = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                files.extend(received);
            }
        }
        let count = got.map_or(0, |got| got.bytes);
        if count == 0 || !look(&mut buffer[..count]) || !send(to, &buffer[..count], &files) {
            break;
        }
    }
    rustix::net::shutdown(from, Shutdown::Both).ok();
    rustix::net::shutdown(to, Shutdown::Both).ok();
}

fn send(to: &UnixStream, mut bytes: &[u8], files: &[OwnedFd]) -> bool {
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let mut rest: &[_] = &files;
    while !bytes.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !rest.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(rest)) {
            return false;
        }
        let sent =
            rustix::net::sendmsg(to, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL);
        let Ok(sent) = sent else { return false };
        bytes = &bytes[sent..];
        rest = &[];
    }
    true
}

/// The daemon's frames: length, `[id, [variant, fields]]`.
#[derive(Default)]
struct Requests(Vec<u8>);

impl Requests {
    fn are_of_version_1(&mut self, bytes: &[u8]) -> bool {
        self.0.extend(bytes);
        while let Some(length) = self.0.first_chunk() {
            let end = 4 + usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX - 4);
            let Some(frame) = self.0.get(4..end) else { break };
            // CBOR: an unsigned number up to 23 is its own first byte; 24 to 27 name its length.
            let id = match frame.get(1) {
                Some(0..=23) => 1,
                Some(24) => 2,
                Some(25) => 3,
                Some(26) => 5,
                _ => 9,
            };
            if frame.get(1 + id + 1).is_none_or(|variant| *variant >= NOT_IN_VERSION_1) {
                return false;
            }
            self.0.drain(..end);
        }
        true
    }
}

#[test]
fn a_pod_whose_shim_speaks_version_1_is_taken_over_and_lives_to_its_end() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("older");
        let (pod_id, id) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
        node.wait_log(&id, "asleep").await?;
        let ended = pod.container("ended", &image).script("exit 3");
        let ended = node.cri.create(&pod_id, &pod, &ended).await?;
        node.cri.start(&ended).await?;
        let exited = node.wait_exited(&ended).await?;
        let before = (node.cri.pod(&pod_id).await?, node.cri.container(&id).await?);
        node.daemon.kill9()?;
        let between = Between::stand(node, &pod_id, 1)?;
        node.daemon.launch(&node.scratch)?;

        ensure!((node.cri.pod(&pod_id).await?, node.cri.container(&id).await?) == before);
        ensure!(node.cri.container(&ended).await? == exited);
        ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
        let timed = node.cri.exec(&id, &["sleep", "1000"], 1).await.expect_err("too long");
        ensure!(timed.code() == tonic::Code::DeadlineExceeded, "{timed:?}");
        let request = v1::ReopenContainerLogRequest { container_id: id.clone() };
        node.cri.runtime.clone().reopen_container_log(request).await?;
        let again = node.cri.create(&pod_id, &pod, &pod.container("new", &image).sleeper()).await?;
        node.cri.start(&again).await?;
        // What version 1 cannot is refused before the shim hears of it.
        let program = node.daemon.program();
        let attached = std::process::Command::new(program)
            .arg("--address")
            .arg(node.scratch.socket())
            .args(["attach", &id])
            .stdin(std::process::Stdio::null())
            .output()?;
        let said = String::from_utf8_lossy(&attached.stderr);
        ensure!(!attached.status.success() && said.contains("a new pod's can"), "{said}");
        ensure!(node.cri.shell(&id, "echo alive").await? == "alive");

        node.cri.stop(&id, 10).await?;
        ensure!(node.cri.container(&id).await?.exit_code == 0);
        node.cri.remove(&id).await?;
        node.cri.stop_pod(&pod_id).await?;
        node.cri.remove_pod(&pod_id).await?;
        ensure!(between.refused.load(Ordering::SeqCst) == 0, "it was asked for what it lacks");
        Ok(())
    })
}

#[test]
fn a_pod_whose_shim_is_of_a_later_version_is_served_as_far_as_is_known() -> Result<()> {
    on_a_node(async |node| {
        let (pod_id, id) = node.sleeper("later").await?;
        node.daemon.kill9()?;
        let _between = Between::stand(node, &pod_id, 23)?;
        node.daemon.launch(&node.scratch)?;
        ensure!(node.cri.pod(&pod_id).await?.state() == v1::PodSandboxState::SandboxReady);
        ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
        node.cri.stop(&id, 10).await?;
        ensure!(node.cri.container(&id).await?.exit_code == 0);
        ensure!(Path::new("/run/netns").join(format!("knarr-{pod_id}")).exists());
        Ok(())
    })
}
