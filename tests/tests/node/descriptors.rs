//! Daemons and supervisors that may open no more files: what is new is refused in words that say why, the
//! last descriptors are for ending what there is, and everything goes on when there are some again.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use cri_api::v1;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use test_support::cri::Cri;
use test_support::node::{Node, PATIENCE, on_a_node};
use test_support::pods::{ContainerBuilder, PodBuilder};
use tonic::Status;

use crate::lost_shims::shim_of;

/// How Linux calls it.
const TOO_MANY: &str = "Too many open files";

/// A process that may open only so many files more; dropping this gives it the others back.
struct Tight {
    process: Pid,
    before: Rlimit,
}

impl Tight {
    fn leave(pid: i32, count: usize) -> Result<Self> {
        let process = Pid::from_raw(pid).context("pid 0")?;
        let taken = taken(pid)?;
        // The kernel gives out the lowest number that is free.
        let free = (0..).filter(|number| !taken.contains(number));
        let limit = free.take(count + 1).last().context("no number is free")?;
        let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
        // The soft limit alone: not everybody may raise the hard one again.
        let low = Rlimit { current: Some(limit), maximum };
        Ok(Self { process, before: prlimit(Some(process), Resource::Nofile, low)? })
    }
}

impl Drop for Tight {
    fn drop(&mut self) {
        if let Err(error) = prlimit(Some(self.process), Resource::Nofile, self.before) {
            eprintln!("the limit stays: {error}");
        }
    }
}

fn taken(pid: i32) -> Result<BTreeSet<u64>> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd"))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().parse()?)).collect()
}

fn daemon(node: &Node) -> Result<i32> {
    Ok(i32::try_from(node.daemon.pid().context("no daemon")?)?)
}

/// Clients that say nothing: so many descriptors the daemon has in use.
fn idle_clients(node: &Node, count: usize) -> Result<Vec<UnixStream>> {
    let wanted = taken(daemon(node)?)?.len() + count;
    let connect = |_| Ok(UnixStream::connect(node.scratch.socket())?);
    let clients = (0..count).map(connect).collect::<Result<Vec<_>>>()?;
    let deadline = Instant::now() + PATIENCE;
    while taken(daemon(node)?)?.len() < wanted {
        ensure!(Instant::now() < deadline, "they are not accepted");
        std::thread::yield_now();
    }
    Ok(clients)
}

fn for_want_of_files<T: std::fmt::Debug>(what: &str, answer: Result<T, Status>) -> Result<()> {
    let Err(status) = answer else { bail!("{what}: {answer:?}") };
    ensure!(status.message().contains(TOO_MANY), "{what}: {status:?}");
    Ok(())
}

/// A pod with a container that runs and one that does not yet.
struct Steady {
    pod: PodBuilder,
    pod_id: String,
    id: String,
    created: String,
    another: ContainerBuilder,
}

impl Steady {
    async fn make(node: &Node) -> Result<Self> {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("steady");
        let script = "trap 'exit 7' TERM; echo asleep; while :; do sleep 0.01; done";
        let container = pod.container("main", &image).script(script);
        let (pod_id, id) = node.run(&pod, &container).await?;
        node.wait_log(&id, "asleep").await?;
        let later = pod.container("later", &image).sleeper();
        let created = node.cri.create(&pod_id, &pod, &later).await?;
        let another = pod.container("another", &image).sleeper();
        Ok(Self { pod, pod_id, id, created, another })
    }

    /// Everything that would make something new is refused, and changes nothing.
    async fn nothing_new(&self, node: &Node) -> Result<()> {
        let cri = &node.cri;
        let mut runtime = cri.runtime.clone();
        for_want_of_files("RunPodSandbox", cri.run_pod(&node.pod("refused")).await)?;
        let created = cri.create(&self.pod_id, &self.pod, &self.another).await;
        for_want_of_files("CreateContainer", created)?;
        for_want_of_files("StartContainer", cri.start(&self.created).await)?;
        let status = cri.container(&self.created).await?;
        ensure!(status.state() == v1::ContainerState::ContainerCreated, "{status:?}");
        for_want_of_files("ExecSync", cri.exec(&self.id, &["true"], 10).await)?;
        let exec = v1::ExecRequest {
            container_id: self.id.clone(),
            cmd: vec!["true".to_owned()],
            stdout: true,
            ..Default::default()
        };
        for_want_of_files("Exec", runtime.exec(exec).await)?;
        let attach =
            v1::AttachRequest { container_id: self.id.clone(), stdout: true, ..Default::default() };
        for_want_of_files("Attach", runtime.attach(attach).await)?;
        let forward =
            v1::PortForwardRequest { pod_sandbox_id: self.pod_id.clone(), port: vec![80] };
        for_want_of_files("PortForward", runtime.port_forward(forward).await)?;
        for_want_of_files("PullImage", cri.pull(&node.image("volumes")?).await)?;
        ensure!(cri.image(&node.image("volumes")?).await?.is_none(), "the image is there");
        Ok(())
    }

    /// What answers from memory.
    async fn is_told(&self, node: &Node) -> Result<()> {
        ensure!(node.cri.pods(None).await?.iter().any(|pod| pod.id == self.pod_id));
        let listed = node.cri.containers(None).await?;
        ensure!(listed.len() >= 2, "{listed:?}");
        ensure!(node.cri.pod(&self.pod_id).await?.state() == v1::PodSandboxState::SandboxReady);
        let request = v1::StatusRequest { verbose: false };
        node.cri.runtime.clone().status(request).await?;
        node.cri.image_list().await?;
        Ok(())
    }

    async fn is_as_ever(&self, node: &Node) -> Result<()> {
        ensure!(node.cri.shell(&self.id, "echo alive").await? == "alive");
        node.cri.start(&self.created).await?;
        let id = node.cri.create(&self.pod_id, &self.pod, &self.another).await?;
        node.cri.start(&id).await?;
        ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
        node.sleeper("refused").await?;
        node.pulled("volumes").await.map(drop)
    }
}

#[test]
fn the_daemons_last_descriptors_are_for_ending_what_there_is() -> Result<()> {
    on_a_node(async |node| {
        let steady = Steady::make(node).await?;
        let (pod_id, id) = node.sleeper("goes").await?;
        let clients = idle_clients(node, 500)?;
        let tight = Tight::leave(daemon(node)?, 40)?;
        steady.nothing_new(node).await?;
        steady.is_told(node).await?;
        let request = v1::ListContainerStatsRequest::default();
        let stats = node.cri.runtime.clone().list_container_stats(request).await?.into_inner();
        ensure!(stats.stats.len() == 3, "{stats:?}");
        let request = v1::ReopenContainerLogRequest { container_id: id.clone() };
        node.cri.runtime.clone().reopen_container_log(request).await?;
        node.cri.stop(&id, 10).await?;
        ensure!(node.cri.container(&id).await?.exit_code == 0);
        node.cri.remove(&id).await?;
        node.cri.stop_pod(&pod_id).await?;
        node.cri.remove_pod(&pod_id).await?;
        // Who asks for all that may be new.
        let cri = Cri::connect(&node.scratch.socket())?;
        ensure!(cri.pods(None).await?.len() == 1);
        drop(tight);
        drop(clients);
        steady.is_as_ever(node).await
    })
}

#[test]
fn a_daemon_that_may_open_no_more_files_says_so_and_goes_on_when_it_may() -> Result<()> {
    on_a_node(async |node| {
        let steady = Steady::make(node).await?;
        let (pod_id, id) = node.sleeper("goes").await?;
        let tight = Tight::leave(daemon(node)?, 0)?;
        steady.nothing_new(node).await?;
        steady.is_told(node).await?;
        // Who comes waits, and the daemon does not ask for him all the time.
        let cri = Cri::connect(&node.scratch.socket())?;
        let waiting = tokio::spawn(async move { cri.pods(None).await });
        let log = node.scratch.dir().join("daemon.log");
        let told = "cannot accept a connection to the CRI's socket";
        let said = |text: &str| text.contains(told).then_some(());
        test_support::files::wait_for(&log, PATIENCE, said)?;
        // The end of a container needs none.
        node.cri.stop(&id, 10).await?;
        ensure!(node.cri.container(&id).await?.exit_code == 0);
        if let Err(status) = node.cri.stop_pod(&pod_id).await {
            ensure!(status.message().contains(TOO_MANY), "{status:?}");
        }
        let removed = node.cri.remove_pod(&pod_id).await;
        for_want_of_files("RemovePodSandbox", removed)?;
        // What has ended meanwhile may have left one.
        let log = node.daemon.log_text();
        let accepted = log.matches("connections to the CRI's socket are accepted again").count();
        ensure!(accepted > 0 || !waiting.is_finished(), "it was accepted");
        ensure!(log.matches(told).count() <= 1 + accepted, "it is told again and again: {log}");
        drop(tight);
        ensure!(tokio::time::timeout(PATIENCE, waiting).await???.len() == 2);
        node.cri.remove_pod(&pod_id).await?;
        steady.is_as_ever(node).await
    })
}

#[test]
fn a_supervisor_that_may_open_no_more_files_keeps_its_containers_and_goes_on_when_it_may()
-> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("full");
        let script = "trap 'exit 7' TERM; echo asleep; i=0; \
                      while :; do sleep 0.01; i=$((i+1)); echo line $i; done";
        let (pod_id, id) = node.run(&pod, &pod.container("main", &image).script(script)).await?;
        node.wait_log(&id, "asleep").await?;
        let container = pod.container("beside", &image).sleeper();
        let beside = node.cri.create(&pod_id, &pod, &container).await?;
        node.cri.start(&beside).await?;
        node.wait_log(&beside, "asleep").await?;
        let container = pod.container("refused", &image).sleeper();
        let refused = node.cri.create(&pod_id, &pod, &container).await?;
        let (_, other) = node.sleeper("other").await?;

        let shim = shim_of(&pod_id)?;
        let tight = Tight::leave(shim, 0)?;
        for_want_of_files("ExecSync", node.cri.exec(&id, &["true"], 10).await)?;
        let started = node.cri.start(&refused).await;
        ensure!(started.as_ref().is_err_and(|it| it.message().contains("shim")), "{started:?}");
        for_want_of_files("StartContainer", started)?;
        ensure!(node.cri.container(&refused).await?.reason == "StartError");
        ensure!(node.cri.shell(&other, "echo alive").await? == "alive");
        ensure!(node.cri.pod(&pod_id).await?.state() == v1::PodSandboxState::SandboxReady);
        // What is written by then is in the log still, and the end is known.
        let so_far = std::fs::read_to_string(node.log_path(&id).await?)?.lines().count();
        node.wait_log(&id, &format!("line {}\n", so_far + 20)).await?;
        node.cri.stop(&id, 10).await?;
        ensure!(node.cri.container(&id).await?.exit_code == 7);
        drop(tight);

        node.cri.remove(&id).await?;
        node.cri.remove(&refused).await?;
        ensure!(node.cri.shell(&beside, "echo alive").await? == "alive");
        let next = node.cri.create(&pod_id, &pod, &pod.container("next", &image).sleeper()).await?;
        node.cri.start(&next).await?;
        ensure!(node.cri.shell(&next, "echo alive").await? == "alive");
        ensure!(node.cri.pod(&pod_id).await?.state() == v1::PodSandboxState::SandboxReady);
        Ok(())
    })
}
