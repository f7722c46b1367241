//! A log directory whose file system stops answering, as a dead network mount does. The supervisor that
//! writes there waits with it, and so do questions to it, in time; no other pod does, nor does knarr, be it
//! started anew. What is to be begun there fails with a clear error, and costs no thread each time.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::fuse::Fuse;
use test_support::node::{Node, PATIENCE, on_a_node};
use test_support::pods::PodBuilder;
use test_support::proc;
use tokio::task::JoinHandle;
use tonic::Code;

use crate::doctor::doctor;
use crate::hanging::{LONG, others_live};

/// A pod that logs to a file system of its own, and has written there.
struct Stuck {
    fuse: Fuse,
    pod_id: String,
    main: String,
    /// Has been created and not started.
    later: String,
}

/// Says one more word for each file that it is given.
const SPEAKS: &str = "echo works; n=1; while :; do \
                      while [ ! -e /signals/$n ]; do sleep 0.01; done; echo word $n; n=$((n+1)); done";

impl Stuck {
    async fn make(node: &Node) -> Result<Self> {
        let fuse = Fuse::mount(&node.scratch.dir().join("mounted"))?;
        let image = node.pulled("busybox").await?;
        let signals = signals(node);
        fs::create_dir_all(&signals)?;
        let mut pod = node.pod("stuck");
        pod.config.log_directory = fuse.dir().join("stuck").display().to_string();
        let main = pod.container("main", &image).script(SPEAKS).mount(&signals, "/signals", false);
        let (pod_id, main) = node.run(&pod, &main).await?;
        let later = pod.container("later", &image).sleeper();
        let later = node.cri.create(&pod_id, &pod, &later).await?;
        node.wait_log(&main, "works").await?;
        Ok(Self { fuse, pod_id, main, later })
    }

    /// Returns once the supervisor waits in the kernel.
    async fn hang(&self, node: &Node) -> Result<()> {
        self.fuse.hang();
        speak(node, 1)?;
        tokio::task::block_in_place(|| self.fuse.await_victim(true, PATIENCE))
    }

    /// Another pod, and where its logs would be.
    fn another(&self, node: &Node) -> (PodBuilder, String) {
        let mut pod = node.pod("another");
        pod.config.log_directory = self.fuse.dir().join("another").display().to_string();
        (pod.clone(), pod.config.log_directory)
    }
}

fn signals(node: &Node) -> std::path::PathBuf {
    node.scratch.dir().join("signals")
}

fn speak(node: &Node, number: u32) -> Result<()> {
    Ok(fs::write(signals(node).join(number.to_string()), "")?)
}

/// What was asked of a dead file system: an error that says so, and where.
async fn told<T: std::fmt::Debug>(
    asked: JoinHandle<Result<T, tonic::Status>>,
    place: &Path,
) -> Result<()> {
    let error = answer(asked).await?;
    ensure!(error.message().contains("does not answer"), "{error:?}");
    ensure!(error.message().contains(&place.display().to_string()), "{error:?}");
    Ok(())
}

async fn answer<T: std::fmt::Debug>(
    asked: JoinHandle<Result<T, tonic::Status>>,
) -> Result<tonic::Status> {
    let answer = tokio::time::timeout(LONG, asked).await.context("no answer")??;
    Ok(answer.expect_err("nobody answers"))
}

/// Begins a pod as soon as the daemon has heard that its place answers again: the thread that waited there
/// has to tell it.
async fn begun_again(node: &Node, pod: &PodBuilder) -> Result<String> {
    let begun = async {
        loop {
            match node.cri.run_pod(pod).await {
                Err(error) if error.message().contains("does not answer") => {}
                result => return result,
            }
        }
    };
    Ok(tokio::time::timeout(PATIENCE, begun).await.context("it is refused still")??)
}

/// Threads of the daemon that wait for this file system, and for no disk.
fn blocked(node: &Node, fuse: &Fuse) -> Result<usize> {
    let daemon = node.daemon.pid().context("no daemon")?;
    let is_the_daemons =
        |thread: &u32| Path::new(&format!("/proc/{daemon}/task/{thread}")).exists();
    Ok(fuse.victims().iter().filter(|thread| is_the_daemons(thread)).count())
}

#[test]
fn a_log_directory_that_stops_answering_holds_up_its_own_pod_and_nothing_else() -> Result<()> {
    on_a_node(async |node| {
        let stuck = Stuck::make(node).await?;
        stuck.hang(node).await?;

        let reopen = tokio::spawn({
            let (mut runtime, container_id) = (node.cri.runtime.clone(), stuck.main.clone());
            async move {
                let request = v1::ReopenContainerLogRequest { container_id };
                runtime.reopen_container_log(request).await
            }
        });
        let exec = tokio::spawn({
            let (cri, id) = (node.cri.clone(), stuck.main.clone());
            async move { cri.exec(&id, &["true"], 1).await }
        });
        let (another, place) = stuck.another(node);
        let begin = || {
            let (cri, another) = (node.cri.clone(), another.clone());
            tokio::spawn(async move { cri.run_pod(&another).await })
        };
        let begun = begin();
        others_live(node, "other").await?;
        // Reads wait for nobody.
        let status = node.cri.pod(&stuck.pod_id).await?;
        ensure!(status.state() == v1::PodSandboxState::SandboxReady, "{status:?}");
        let status = node.cri.container(&stuck.main).await?;
        ensure!(status.state() == v1::ContainerState::ContainerRunning, "{status:?}");
        let (findings, code) = tokio::task::block_in_place(|| doctor(node, false))?;
        ensure!(code == 0, "{findings:#?}");

        told(begun, Path::new(&place)).await?;
        told(reopen, &stuck.fuse.dir().join("stuck/main")).await?;
        let threads = blocked(node, &stuck.fuse)?;
        ensure!(threads > 0, "nobody waits");
        for _ in 0..10 {
            told(begin(), Path::new(&place)).await?;
        }
        ensure!(blocked(node, &stuck.fuse)? == threads, "each attempt costs a thread");
        let start = tokio::spawn({
            let (cri, id) = (node.cri.clone(), stuck.later.clone());
            async move { cri.start(&id).await }
        });
        told(start, &stuck.fuse.dir().join("stuck/later")).await?;
        let error = answer(exec).await?;
        ensure!(error.code() == Code::DeadlineExceeded || error.message().contains("no answer"));
        let stop = tokio::spawn({
            let (cri, id) = (node.cri.clone(), stuck.pod_id.clone());
            async move { cri.stop_pod(&id).await }
        });
        others_live(node, "yet-another").await?;
        let error = answer(stop).await?;
        ensure!(error.message().contains("gave no answer"), "{error:?}");

        // It comes back: nothing is lost, and what was asked meanwhile is done.
        stuck.fuse.resume()?;
        node.wait_log(&stuck.main, "word 1").await?;
        let ended = node.wait_exited(&stuck.main).await?;
        ensure!(ended.exit_code == 137, "{ended:?}");
        let another = begun_again(node, &another).await?;
        for pod in [&another, &stuck.pod_id] {
            node.cri.stop_pod(pod).await?;
            node.cri.remove_pod(pod).await?;
        }
        Ok(())
    })
}

/// It waits where no signal reaches: what is left of the process is up to the kernel. All else of it has ended.
#[test]
fn a_daemon_ends_in_time_while_a_thread_of_it_waits_for_a_log_directory() -> Result<()> {
    on_a_node(async |node| {
        let stuck = Stuck::make(node).await?;
        stuck.hang(node).await?;
        let (another, place) = stuck.another(node);
        let cri = node.cri.clone();
        told(tokio::spawn(async move { cri.run_pod(&another).await }), Path::new(&place)).await?;
        ensure!(blocked(node, &stuck.fuse)? > 0, "nobody waits");
        let daemon = node.daemon.pid().context("no daemon")?;
        proc::signal(i32::try_from(daemon)?, rustix::process::Signal::TERM)?;
        let until = Instant::now() + PATIENCE;
        // Its first thread is a zombie while another cannot end, and tells nobody.
        while !fs::read_to_string(format!("/proc/{daemon}/stat"))?.contains(") Z ") {
            ensure!(Instant::now() < until, "it waits for its thread");
            tokio::task::yield_now().await;
        }
        stuck.fuse.resume()?;
        node.daemon.await_end()?;
        node.launch()?;
        node.wait_log(&stuck.main, "word 1").await
    })
}

#[test]
fn a_log_directory_that_is_cut_off_costs_what_was_not_written_and_nothing_else() -> Result<()> {
    on_a_node(async |node| {
        let stuck = Stuck::make(node).await?;
        stuck.hang(node).await?;
        others_live(node, "other").await?;
        let Stuck { fuse, main, later, .. } = stuck;
        let dir = fuse.dir().to_owned();
        drop(fuse);
        // Kubelet sees that there is no log, and asks for one.
        fs::create_dir_all(dir.join("stuck/main"))?;
        let request = v1::ReopenContainerLogRequest { container_id: main.clone() };
        node.cri.runtime.clone().reopen_container_log(request).await?;
        speak(node, 2)?;
        node.wait_log(&main, "word 2").await?;
        fs::create_dir_all(dir.join("stuck/later"))?;
        node.cri.start(&later).await?;
        node.wait_log(&later, "asleep").await?;
        ensure!(node.cri.shell(&main, "echo alive").await? == "alive");
        Ok(())
    })
}

#[test]
fn a_daemon_that_starts_while_a_log_directory_does_not_answer_serves_all_other_pods() -> Result<()>
{
    on_a_node(async |node| {
        let stuck = Stuck::make(node).await?;
        let (_, before) = node.sleeper("before").await?;
        stuck.hang(node).await?;
        node.crash_and_restart()?;
        ensure!(node.cri.shell(&before, "echo alive").await? == "alive");
        others_live(node, "other").await?;
        // It is as it was, as far as anybody knows; its own requests wait with it for its supervisor.
        let status = node.cri.pod(&stuck.pod_id).await?;
        ensure!(status.state() == v1::PodSandboxState::SandboxReady, "{status:?}");
        let asked = tokio::spawn({
            let (cri, id) = (node.cri.clone(), stuck.main.clone());
            async move { cri.exec(&id, &["true"], 1).await }
        });
        let error = answer(asked).await?;
        ensure!(error.message().contains("it has exited"), "{error:?}");
        // Nobody can ask its supervisor: kubelet is told to make another.
        let status = node.cri.pod(&stuck.pod_id).await?;
        ensure!(status.state() == v1::PodSandboxState::SandboxNotready, "{status:?}");
        let status = node.cri.container(&stuck.main).await?;
        ensure!(status.state() == v1::ContainerState::ContainerExited, "{status:?}");
        let (another, place) = stuck.another(node);
        let (cri, again) = (node.cri.clone(), another.clone());
        told(tokio::spawn(async move { cri.run_pod(&again).await }), Path::new(&place)).await?;
        stuck.fuse.resume()?;
        for id in [&stuck.main, &stuck.later] {
            node.cri.remove(id).await?;
        }
        node.cri.stop_pod(&stuck.pod_id).await?;
        node.cri.remove_pod(&stuck.pod_id).await?;
        let another = begun_again(node, &another).await?;
        node.cri.stop_pod(&another).await?;
        node.cri.remove_pod(&another).await?;
        Ok(())
    })
}
