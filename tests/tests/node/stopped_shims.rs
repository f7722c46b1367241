//! SIGTERM to a pod's supervisor, as systemd sends it to a scope that it stops: containers end by their stop
//! signals, their ends are on record, the pod is NOTREADY, and kubelet can go on from there.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use cri_api::v1;
use rustix::process::Signal;
use test_support::node::{Node, PATIENCE, on_a_node};
use test_support::proc;
use test_support::scratch::systemd_driver;

use crate::lost_shims::shim_of;

/// Says which signal it got, takes its time, and ends by a code that tells.
const POLITE: &str = "trap 'echo TERM; sleep 1; exit 21' TERM; trap 'echo USR1; exit 22' USR1; \
     echo ready; while :; do sleep 0.1; done";

/// A pod with a container for each of these stop signals.
pub(crate) async fn polite(
    node: &Node,
    name: &str,
    signals: &[v1::Signal],
) -> Result<(String, Vec<String>)> {
    let image = node.pulled("busybox").await?;
    let pod = node.pod(name);
    let pod_id = node.cri.run_pod(&pod).await?;
    let mut ids = Vec::new();
    for signal in signals {
        let container = pod.container(&format!("c{}", ids.len()), &image).script(POLITE);
        let container = container.with(|config| config.set_stop_signal(*signal));
        let id = node.cri.create(&pod_id, &pod, &container).await?;
        node.cri.start(&id).await?;
        node.wait_log(&id, "ready").await?;
        ids.push(id);
    }
    Ok((pod_id, ids))
}

/// As kubelet does: what has ended goes, and its next attempt comes.
pub(crate) async fn goes_and_comes_again(
    node: &Node,
    name: &str,
    pod: &str,
    ids: &[String],
) -> Result<()> {
    let deadline = std::time::Instant::now() + PATIENCE;
    while node.cri.pod(pod).await?.state() == v1::PodSandboxState::SandboxReady {
        ensure!(std::time::Instant::now() < deadline, "the pod stays ready");
        tokio::task::yield_now().await;
    }
    for id in ids {
        node.cri.stop(id, 10).await?;
        node.cri.remove(id).await?;
    }
    node.cri.stop_pod(pod).await?;
    node.cri.remove_pod(pod).await?;
    let (_, again) = node.sleeper(name).await?;
    ensure!(node.cri.shell(&again, "echo alive").await? == "alive");
    Ok(())
}

pub(crate) async fn ended_with(node: &Node, id: &str, code: i32) -> Result<()> {
    let status = node.wait_exited(id).await?;
    ensure!(status.exit_code == code, "{status:?}");
    Ok(())
}

#[test]
fn a_supervisor_that_gets_sigterm_stops_its_containers_by_their_signals() -> Result<()> {
    on_a_node(async |node| {
        let signals = [v1::Signal::RuntimeDefault, v1::Signal::Sigusr1];
        let (pod, ids) = polite(node, "polite", &signals).await?;
        let (_, other) = node.sleeper("other").await?;
        let shim = shim_of(&pod)?;
        proc::signal(shim, Signal::TERM)?;
        ended_with(node, &ids[0], 21).await?;
        ended_with(node, &ids[1], 22).await?;
        proc::wait_gone(shim, PATIENCE)?;
        node.wait_log(&ids[0], "TERM").await?;
        ensure!(node.cri.shell(&other, "echo alive").await? == "alive");
        goes_and_comes_again(node, "polite", &pod, &ids).await
    })
}

#[test]
fn what_ended_with_its_supervisor_while_no_daemon_ran_is_known_afterwards() -> Result<()> {
    on_a_node(async |node| {
        let (pod, ids) = polite(node, "unseen", &[v1::Signal::RuntimeDefault]).await?;
        let shim = shim_of(&pod)?;
        node.daemon.kill9()?;
        proc::signal(shim, Signal::TERM)?;
        proc::wait_gone(shim, PATIENCE)?;
        node.daemon.launch(&node.scratch)?;
        ended_with(node, &ids[0], 21).await?;
        goes_and_comes_again(node, "unseen", &pod, &ids).await
    })
}

#[test]
fn a_scope_that_systemd_stops_ends_its_pod_in_order() -> Result<()> {
    if !systemd_driver() {
        test_support::skip("systemd does not run this host");
        return Ok(());
    }
    on_a_node(async |node| {
        let signals = [v1::Signal::RuntimeDefault, v1::Signal::Sigusr1];
        let (pod, ids) = polite(node, "scoped", &signals).await?;
        let scope = format!("knarr-{pod}.scope");
        let shim = shim_of(&pod)?;
        let stopped = Command::new("systemctl").args(["stop", &scope]).output()?;
        ensure!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
        proc::wait_gone(shim, PATIENCE)?;
        // Once: the second SIGTERM would be the shim's.
        ended_with(node, &ids[0], 21).await?;
        let log = fs::read_to_string(node.log_path(&ids[0]).await?)?;
        ensure!(log.matches("TERM").count() == 1, "{log}");
        // systemd's SIGTERM goes to all; either signal may be the first it looks at.
        let code = node.wait_exited(&ids[1]).await?.exit_code;
        ensure!(code == 21 || code == 22, "{code}");
        goes_and_comes_again(node, "scoped", &pod, &ids).await
    })
}
