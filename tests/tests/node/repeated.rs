//! Calls that are cancelled, repeated, or fail half-way: kubelet does all of that by design.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::cri::refused;
use test_support::node::{PATIENCE, on_a_node};
use tonic::{Code, Request};

/// Too short for anything to be done in it.
const HURRY: Duration = Duration::from_millis(1);

#[test]
fn a_pod_whose_creator_gave_up_is_handed_to_whoever_asks_again() -> Result<()> {
    on_a_node(async |node| {
        let mut runtime = node.cri.runtime.clone();
        let pod = node.pod("again");
        let asked = v1::RunPodSandboxRequest {
            config: Some(pod.config.clone()),
            runtime_handler: String::new(),
        };
        loop {
            let mut hurried = Request::new(asked.clone());
            hurried.set_timeout(HURRY);
            // On a quick machine it may be done in time, once in a while.
            let Ok(done) = runtime.run_pod_sandbox(hurried).await else { break };
            node.cri.remove_pod(&done.into_inner().pod_sandbox_id).await?;
        }
        let id = node.cri.run_pod(&pod).await?;
        let pods = node.cri.pods(None).await?;
        ensure!(pods.len() == 1 && pods[0].id == id, "{pods:?}");
        refused(node.cri.run_pod(&pod).await, Code::AlreadyExists, &[&id])?;
        Ok(())
    })
}

#[test]
fn a_container_whose_creator_gave_up_is_handed_to_whoever_asks_again() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("container");
        let pod_id = node.cri.run_pod(&pod).await?;
        let container = pod.container("main", &image).sleeper();
        let mut runtime = node.cri.runtime.clone();
        let asked = v1::CreateContainerRequest {
            pod_sandbox_id: pod_id.clone(),
            config: Some(container.config.clone()),
            sandbox_config: Some(pod.config.clone()),
        };
        loop {
            let mut hurried = Request::new(asked.clone());
            hurried.set_timeout(HURRY);
            let Ok(done) = runtime.create_container(hurried).await else { break };
            node.cri.remove(&done.into_inner().container_id).await?;
        }
        let id = node.cri.create(&pod_id, &pod, &container).await?;
        let containers = node.cri.containers(None).await?;
        ensure!(containers.len() == 1 && containers[0].id == id, "{containers:?}");
        let again = node.cri.create(&pod_id, &pod, &container).await;
        refused(again, Code::AlreadyExists, &[&id])?;
        Ok(())
    })
}

#[test]
fn an_answer_lost_to_a_crash_is_handed_to_whoever_asks_again() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let (alone, pod) = (node.pod("alone"), node.pod("used"));
        let container = pod.container("main", &image).sleeper();
        let alone_id = node.cri.run_pod(&alone).await?;
        let pod_id = node.cri.run_pod(&pod).await?;
        let id = node.cri.create(&pod_id, &pod, &container).await?;

        node.crash_and_restart()?;

        ensure!(node.cri.run_pod(&alone).await? == alone_id);
        refused(node.cri.run_pod(&alone).await, Code::AlreadyExists, &[&alone_id])?;
        refused(node.cri.run_pod(&pod).await, Code::AlreadyExists, &[&pod_id])?;
        ensure!(node.cri.create(&pod_id, &pod, &container).await? == id);
        let again = node.cri.create(&pod_id, &pod, &container).await;
        refused(again, Code::AlreadyExists, &[&id])?;
        // Started it has a history, and so is somebody's.
        node.cri.start(&id).await?;
        node.crash_and_restart()?;
        let again = node.cri.create(&pod_id, &pod, &container).await;
        refused(again, Code::AlreadyExists, &[&id])?;
        Ok(())
    })
}

#[test]
fn a_pod_that_fails_to_start_is_never_listed_and_tells_nobody() -> Result<()> {
    on_a_node(async |node| {
        let conf = node.scratch.dir().join("cni.d");
        std::fs::create_dir_all(&conf)?;
        let broken = conf.join("1-broken.conflist");
        std::fs::write(
            &broken,
            r#"{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "no-such-plugin"}]}"#,
        )?;
        let mut runtime = node.cri.runtime.clone();
        let mut events = runtime.get_container_events(v1::GetEventsRequest {}).await?.into_inner();
        let over = Arc::new(AtomicBool::new(false));
        let watching = {
            let (over, cri) = (Arc::clone(&over), node.cri.clone());
            tokio::spawn(async move {
                let mut looks = 0_u32;
                while !over.load(Ordering::Relaxed) {
                    let pods = cri.pods(None).await?;
                    ensure!(pods.is_empty(), "a pod in the making is listed: {pods:?}");
                    looks += 1;
                }
                Ok(looks)
            })
        };
        for _ in 0..5 {
            refused(
                node.cri.run_pod(&node.pod("fails")).await,
                Code::Unknown,
                &["no-such-plugin"],
            )?;
        }
        over.store(true, Ordering::Relaxed);
        ensure!(watching.await?? > 0);
        // The same name again, and now it works.
        std::fs::remove_file(&broken)?;
        let id = node.cri.run_pod(&node.pod("fails")).await?;
        let first = events.message().await?.context("the stream of events ended")?;
        ensure!(first.container_id == id, "{first:?}");
        Ok(())
    })
}

#[test]
fn a_cancelled_stop_kills_nothing_and_a_later_one_does() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("cancelled");
        let deaf = "trap 'echo asked' TERM; echo deaf; while :; do sleep 0.1; done";
        let (pod_id, id) = node.run(&pod, &pod.container("one", &image).script(deaf)).await?;
        let second = pod.container("two", &image).script(deaf);
        let other = node.cri.create(&pod_id, &pod, &second).await?;
        node.cri.start(&other).await?;
        node.wait_log(&id, "deaf").await?;
        node.wait_log(&other, "deaf").await?;
        {
            let stop = node.cri.stop(&id, 1);
            let asked = node.wait_log(&id, "asked");
            tokio::pin!(stop);
            tokio::select! {
                stopped = &mut stop => stopped?,
                asked = asked => asked?,
            }
        }
        // Its grace period is over when one that began later is.
        node.cri.stop(&other, 1).await?;
        let status = node.cri.container(&id).await?;
        ensure!(status.state() == v1::ContainerState::ContainerRunning, "{status:?}");
        tokio::time::timeout(PATIENCE, node.cri.stop(&id, 1)).await??;
        ensure!(node.cri.container(&id).await?.exit_code == 137);
        Ok(())
    })
}

#[test]
fn an_ambiguous_id_is_an_error_everywhere() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("prefix");
        let pod_id = node.cri.run_pod(&pod).await?;
        let mut ids = Vec::new();
        let shared = loop {
            let name = format!("c{}", ids.len());
            let container = pod.container(&name, &image).sleeper();
            let id = node.cri.create(&pod_id, &pod, &container).await?;
            let first = id[..1].to_owned();
            if ids.iter().any(|other: &String| other.starts_with(&first)) {
                break first;
            }
            ids.push(id);
        };
        refused(node.cri.container(&shared).await, Code::InvalidArgument, &["ambiguous"])?;
        refused(node.cri.stop(&shared, 0).await, Code::InvalidArgument, &["ambiguous"])?;
        refused(node.cri.remove(&shared).await, Code::InvalidArgument, &["ambiguous"])?;
        let filter = v1::ContainerFilter { id: shared, ..Default::default() };
        refused(node.cri.containers(Some(filter)).await, Code::InvalidArgument, &["ambiguous"])?;
        Ok(())
    })
}
