//! The supervisor of a pod is killed: by the OOM killer, by a person, together with the daemon. Its
//! containers end, their end is on record and told, and nothing stays behind. No other pod notices.

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

#[test]
fn a_supervisor_that_is_killed_takes_its_own_pod_along_and_no_other() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("lost");
        let (pod_id, id) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
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

        proc::signal(shim_of(&pod_id)?, Signal::KILL)?;

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
