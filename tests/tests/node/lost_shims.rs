//! The supervisor of a pod is killed: by a person, by the OOM killer, together with the daemon. Its
//! containers end, their end is on record and told, and nothing stays behind. No other pod notices.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use rustix::process::Signal;
use test_support::node::{Node, PATIENCE, on_a_node};
use test_support::proc;

/// The supervisor's process.
pub(crate) fn shim_of(pod: &str) -> Result<i32> {
    let is_it =
        |it: &proc::Process| it.cmdline.starts_with("knarr-shim") && it.cmdline.contains(pod);
    Ok(proc::all().into_iter().find(is_it).with_context(|| format!("no supervisor of {pod}"))?.pid)
}

/// No process of the container is left.
pub(crate) fn none_lives(container: &str) -> Result<()> {
    let lives = |it: &proc::Process| !it.zombie && it.cgroups.contains(container);
    let left: Vec<_> = proc::all().into_iter().filter(lives).collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

/// What is told of the pod and its containers until the pod itself has ended.
async fn told(
    mut events: tonic::Streaming<v1::ContainerEventResponse>,
    pod: &str,
) -> Result<Vec<String>> {
    use v1::ContainerEventType::ContainerStoppedEvent;
    let mut stopped = Vec::new();
    let all = async {
        while let Some(event) = events.message().await? {
            let of_pod = event.pod_sandbox_status.as_ref().is_some_and(|it| it.id == pod);
            if event.container_event_type() != ContainerStoppedEvent || !of_pod {
                continue;
            }
            stopped.push(event.container_id);
            if stopped.last().is_some_and(|id| id == pod) {
                break;
            }
        }
        Ok(stopped)
    };
    tokio::time::timeout(PATIENCE, all).await.context("the pod's end is not told")?
}

async fn events(node: &Node) -> Result<tonic::Streaming<v1::ContainerEventResponse>> {
    let request = v1::GetEventsRequest {};
    Ok(node.cri.runtime.clone().get_container_events(request).await?.into_inner())
}

/// Ended by knarr, because nobody kept it any more.
fn was_killed(status: &v1::ContainerStatus) -> Result<()> {
    ensure!(status.state() == v1::ContainerState::ContainerExited, "{status:?}");
    ensure!((status.exit_code, status.reason.as_str()) == (137, "Error"), "{status:?}");
    ensure!(status.message.contains("knarr-shim"), "{status:?}");
    ensure!(status.finished_at >= status.started_at, "{status:?}");
    Ok(())
}

/// A pod whose supervisor is going to end.
struct Doomed {
    shim: i32,
    /// The container that runs.
    main: String,
    /// Where `go` has that one write more than a supervisor can keep.
    signals: PathBuf,
}

const FLOODS: &str = "echo ready; while [ ! -e /signals/go ]; do sleep 0.01; done; \
                      seq 1 1000000; sleep 1000";

/// Whatever ends it: that is told, on record, and nothing else comes of it.
fn its_pod_goes_along(end: impl AsyncFnOnce(&Node, &Doomed) -> Result<()>) -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let signals = node.scratch.dir().join("signals");
        std::fs::create_dir_all(&signals)?;
        let pod = node.pod("lost");
        let main = pod.container("main", &image).script(FLOODS).mount(&signals, "/signals", false);
        let (pod_id, id) = node.run(&pod, &main).await?;
        let created =
            node.cri.create(&pod_id, &pod, &pod.container("later", &image).sleeper()).await?;
        let ended = pod.container("ended", &image).script("exit 3");
        let ended = node.cri.create(&pod_id, &pod, &ended).await?;
        node.cri.start(&ended).await?;
        let before = node.wait_exited(&ended).await?;
        let (_, other) = node.sleeper("other").await?;
        let events = events(node).await?;
        let (cri, target) = (node.cri.clone(), id.clone());
        let script = ["sh", "-c", "echo within > /proc/1/fd/1; exec sleep 1000"];
        let exec = tokio::spawn(async move { cri.exec(&target, &script, 0).await });
        node.wait_log(&id, "within").await?;

        end(node, &Doomed { shim: shim_of(&pod_id)?, main: id.clone(), signals }).await?;

        let told = told(events, &pod_id).await?;
        ensure!(told == [id.clone(), pod_id.clone()], "{told:?}");
        was_killed(&node.cri.container(&id).await?)?;
        none_lives(&id)?;
        let answer = tokio::time::timeout(PATIENCE, exec).await??;
        ensure!(answer.is_err(), "{answer:?}");
        ensure!(node.cri.container(&ended).await? == before);
        let status = node.cri.pod(&pod_id).await?;
        ensure!(status.state() == v1::PodSandboxState::SandboxNotready, "{status:?}");
        ensure!(node.cri.start(&created).await.is_err());
        ensure!(node.cri.exec(&id, &["true"], 10).await.is_err());
        ensure!(node.cri.shell(&other, "echo alive").await? == "alive");
        // As kubelet does: the old one goes, its next attempt comes.
        for id in [&id, &created, &ended] {
            node.cri.stop(id, 10).await?;
            node.cri.remove(id).await?;
        }
        node.cri.stop_pod(&pod_id).await?;
        node.cri.remove_pod(&pod_id).await?;
        let (_, again) = node.sleeper("lost").await?;
        ensure!(node.cri.shell(&again, "echo alive").await? == "alive");
        Ok(())
    })
}

#[test]
fn a_supervisor_that_is_killed_takes_its_own_pod_along_and_no_other() -> Result<()> {
    its_pod_goes_along(async |_, doomed| proc::signal(doomed.shim, Signal::KILL))
}

/// A group for the kernel's OOM killer, which takes from the group that has reached its limit. It is
/// no part of what a daemon makes.
struct Scarce(PathBuf);

impl Scarce {
    /// The hierarchy with memory limits, and what its limit and its record of kills are called.
    const PLACES: [(&str, &str, &str); 2] = [
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.oom_control"),
        ("/sys/fs/cgroup", "memory.max", "memory.events"),
    ];

    /// A group in which nothing more can be had; none on hosts without limits.
    fn make(node: &Node) -> Result<Option<Self>> {
        for (root, limit, _) in Self::PLACES {
            if !PathBuf::from(root).join("cgroup.procs").exists() {
                continue;
            }
            let group = Self(PathBuf::from(root).join(format!("oom-{}", node.scratch.mark())));
            std::fs::create_dir(&group.0)?;
            if group.0.join(limit).exists() {
                std::fs::write(group.0.join(limit), "4096").context("set the limit")?;
                return Ok(Some(group));
            }
        }
        Ok(None)
    }

    /// What a process holds already is another group's; what it takes from now on is this one's.
    fn take_in(&self, pid: i32) -> Result<()> {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).context("move a process")
    }

    fn kills(&self) -> Result<u64> {
        let read =
            |(_, _, events): &(_, _, &str)| std::fs::read_to_string(self.0.join(events)).ok();
        let text = Self::PLACES.iter().find_map(read).context("no record of kills")?;
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Ok(count.context("no kills are counted")?.parse()?)
    }
}

impl Drop for Scarce {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}

/// What a supervisor does next costs memory that it does not get.
fn the_oom_killer_comes(next: impl AsyncFnOnce(&Node, &Doomed) -> Result<()>) -> Result<()> {
    its_pod_goes_along(async |node, doomed| {
        let Some(group) = Scarce::make(node)? else {
            test_support::skip("no memory controller: the supervisor is killed by hand");
            return proc::signal(doomed.shim, Signal::KILL);
        };
        group.take_in(doomed.shim)?;
        let gone = {
            let shim = doomed.shim;
            tokio::task::spawn_blocking(move || proc::wait_gone(shim, PATIENCE))
        };
        next(node, doomed).await?;
        gone.await??;
        ensure!(group.kills()? > 0, "it was not the OOM killer");
        Ok(())
    })
}

#[test]
fn a_supervisor_that_the_oom_killer_takes_while_it_writes_logs_takes_its_own_pod_along()
-> Result<()> {
    the_oom_killer_comes(async |_, doomed| Ok(std::fs::write(doomed.signals.join("go"), "")?))
}

#[test]
fn a_supervisor_that_the_oom_killer_takes_while_it_runs_a_command_takes_its_own_pod_along()
-> Result<()> {
    the_oom_killer_comes(async |node, doomed| {
        // The new process may be taken first, as it belongs to the same group for a moment.
        for _ in 0..1000 {
            if proc::ended_within(doomed.shim, Duration::ZERO)? {
                break;
            }
            node.cri.exec(&doomed.main, &["true"], 10).await.ok();
        }
        Ok(())
    })
}

#[test]
fn supervisors_of_every_kind_of_pod_may_be_killed_together_with_the_daemon() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let mut pods = Vec::new();
        for (name, pid) in [
            ("own", v1::NamespaceMode::Container),
            ("shared", v1::NamespaceMode::Pod),
            ("host", v1::NamespaceMode::Node),
        ] {
            let pod = node.pod(name).namespaces(|n| n.set_pid(pid));
            let container = pod.container("main", &image).sleeper().security(|security| {
                security.namespace_options.get_or_insert_default().set_pid(pid);
            });
            let (pod_id, id) = node.run(&pod, &container).await?;
            node.wait_log(&id, "asleep").await?;
            pods.push((pod_id, id));
        }
        let (lone_pod, lone) = node.sleeper("lone").await?;
        let shims: Vec<i32> = pods.iter().map(|(pod, _)| shim_of(pod)).collect::<Result<_>>()?;
        node.daemon.kill9()?;
        for shim in shims {
            proc::signal(shim, Signal::KILL)?;
            proc::wait_gone(shim, PATIENCE)?;
        }
        node.daemon.launch(&node.scratch)?;

        for (pod, id) in &pods {
            was_killed(&node.cri.container(id).await?)?;
            none_lives(id)?;
            let status = node.cri.pod(pod).await?;
            ensure!(status.state() == v1::PodSandboxState::SandboxNotready, "{status:?}");
        }
        ensure!(node.cri.shell(&lone, "echo alive").await? == "alive");
        ensure!(node.cri.pod(&lone_pod).await?.state() == v1::PodSandboxState::SandboxReady);
        // Whoever asks for events later is told all the same.
        let mut events = events(node).await?;
        let mut left: std::collections::BTreeSet<_> =
            pods.iter().flat_map(|(pod, id)| [pod.clone(), id.clone()]).collect();
        while !left.is_empty() {
            let event = tokio::time::timeout(PATIENCE, events.message()).await??;
            left.remove(&event.context("the stream of events ended")?.container_id);
        }
        Ok(())
    })
}
