//! Little memory for the daemon: what is huge is refused, and if the kernel ends it all the same,
//! it comes back to the pods it had.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use cri_api::v1;
use test_support::node::{Node, on_a_node, on_a_node_with};
use test_support::proc;
use test_support::scratch::Scratch;

/// What the daemon and its shims may have: several times what they need.
const ROOM: &str = "100663296";

/// A group of processes that may have only so much memory, removed when it is dropped.
struct Tight(PathBuf);

impl Tight {
    /// None where nothing limits memory.
    fn make(scratch: &Scratch) -> Option<Self> {
        let hierarchies =
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        hierarchies.into_iter().find_map(|(root, limit)| {
            let group = Self(Path::new(root).join(format!("{}.tight", scratch.mark())));
            if !Path::new(root).join("cgroup.procs").exists() {
                return None;
            }
            std::fs::create_dir(&group.0).ok()?;
            std::fs::write(group.0.join(limit), ROOM).is_ok().then_some(group)
        })
    }
}

impl Drop for Tight {
    fn drop(&mut self) {
        std::fs::remove_dir(&self.0).ok();
    }
}

async fn alive(node: &Node, id: &str) -> Result<()> {
    ensure!(node.cri.shell(id, "echo alive").await? == "alive");
    Ok(())
}

#[test]
fn requests_that_are_huge_are_refused_and_nobody_else_notices() -> Result<()> {
    on_a_node(async |node| {
        let (_, id) = node.sleeper("steady").await?;
        let daemon = node.daemon.pid();
        let huge = node.pod("huge").with(|config| {
            config.annotations.insert("blob".to_owned(), "x".repeat(32 << 20));
        });
        let error = node.cri.run_pod(&huge).await.expect_err("it is 32 MiB");
        // How far it came before it was cut off decides what the client is told.
        ensure!(error.code() != tonic::Code::Unavailable, "{error:?}");
        ensure!(node.daemon.pid() == daemon);
        alive(node, &id).await?;
        ensure!(node.cri.pods(None).await?.len() == 1);
        Ok(())
    })
}

#[test]
fn a_daemon_with_little_memory_loses_nothing_that_runs() -> Result<()> {
    let tight = std::sync::Mutex::new(None);
    on_a_node_with(
        |settings, scratch| {
            let made = Tight::make(scratch);
            settings.group = made.as_ref().map(|group| group.0.clone());
            *tight.lock().expect("nobody panics") = made;
        },
        async |node| {
            if tight.lock().expect("nobody panics").is_none() {
                test_support::skip("nothing limits memory here");
                return Ok(());
            }
            let (pod, id) = node.sleeper("steady").await?;
            let before = (node.cri.pod(&pod).await?, node.cri.container(&id).await?);
            // Each answer is as large as an answer may be.
            let mut calls = tokio::task::JoinSet::new();
            for _ in 0..12 {
                let (cri, id) = (node.cri.clone(), id.clone());
                let flood = ["dd", "if=/dev/zero", "bs=1M", "count=12"];
                calls.spawn(async move { cri.exec(&id, &flood, 60).await.map(|_| ()) });
            }
            let answers = calls.join_all().await;
            let daemon = node.daemon.pid().and_then(|pid| i32::try_from(pid).ok());
            let lives = proc::all().iter().any(|it| Some(it.pid) == daemon && !it.zombie);
            eprintln!(
                "the daemon lives: {lives}; {} calls of 12 answered",
                answers.iter().flatten().count()
            );
            if !lives {
                node.daemon.await_end()?;
                node.daemon.launch(&node.scratch)?;
            }
            ensure!((node.cri.pod(&pod).await?, node.cri.container(&id).await?) == before);
            alive(node, &id).await?;
            let request = v1::ListContainerStatsRequest::default();
            node.cri.runtime.clone().list_container_stats(request).await?;
            node.sleeper("another").await?;
            node.cri.remove_everything().await?;
            node.daemon.terminate()?;
            drop(tight.lock().expect("nobody panics").take());
            Ok(())
        },
    )
}
