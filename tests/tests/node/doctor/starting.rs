//! A container that does not run has no processes, unless it is just being started, and one that runs
//! has some, unless it is just ending.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use rustix::fs::{CWD, FileType, Mode};
use test_support::files::wait_for;
use test_support::node::{Node, PATIENCE, on_a_node, on_a_node_with};
use test_support::proc;
use test_support::scratch::Scratch;

use super::{doctor, of};

/// Where a hook of the handler `slow` writes that it has begun, and by which it is told to end.
fn places(scratch: &Scratch) -> [PathBuf; 2] {
    ["begun", "go"].map(|name| scratch.dir().join(name))
}

#[test]
fn a_container_that_is_just_being_started_is_left_alone() -> Result<()> {
    let configure = |settings: &mut test_support::daemon::Settings, scratch: &Scratch| {
        let [begun, go] = places(scratch);
        let script = format!("echo it has begun > {}; cat {}", begun.display(), go.display());
        let hook = serde_json::json!({"path": "/bin/sh", "args": ["sh", "-c", script]});
        let process = serde_json::json!({"cwd": "/", "user": {"uid": 0, "gid": 0}});
        let base = serde_json::json!({
            "ociVersion": "1.0.2", "process": process, "hooks": {"createRuntime": [hook]},
        });
        let path = scratch.dir().join("base.json");
        fs::write(&path, base.to_string()).ok();
        let table = format!("\n[handlers.slow]\nbase_spec = \"{}\"\n", path.display());
        settings.extra_config += &table;
    };
    on_a_node_with(configure, async |node| {
        let [begun, go] = places(&node.scratch);
        rustix::fs::mknodat(CWD, &go, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        let image = node.pulled("busybox").await?;
        let mut pod = node.pod("slow");
        pod.handler = "slow".into();
        let pod_id = node.cri.run_pod(&pod).await?;
        let id = node.cri.create(&pod_id, &pod, &pod.container("main", &image).sleeper()).await?;
        let (cri, starts) = (node.cri.clone(), id.clone());
        let start = tokio::spawn(async move { cri.start(&starts).await });
        let wait = move || wait_for(&begun, PATIENCE, |text| text.contains("begun").then_some(()));
        tokio::task::spawn_blocking(wait).await??;
        // Its first process is there, and its record does not say so yet.
        for fix in [false, true] {
            let (findings, _) = doctor(node, fix)?;
            ensure!(of(&findings, "process").is_empty(), "{findings:#?}");
        }
        tokio::task::spawn_blocking(move || OpenOptions::new().write(true).open(go)).await??;
        start.await??;
        node.wait_log(&id, "asleep").await?;
        ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
        Ok(())
    })
}

/// The group of a container in one of the hierarchies.
fn group_of(node: &Node, container: &str) -> Result<PathBuf> {
    let group = node.scratch.container_cgroup(container);
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified"];
    let mut groups = roots.iter().map(|root| Path::new(root).join(group.trim_start_matches('/')));
    groups.find(|group| group.join("cgroup.procs").exists()).context("no group")
}

#[test]
fn processes_of_a_container_that_has_ended_are_found_and_ended() -> Result<()> {
    on_a_node(async |node| {
        let (_, id) = node.sleeper("ended").await?;
        node.cri.stop(&id, 5).await?;
        let ended = node.cri.container(&id).await?;
        ensure!(ended.state() == v1::ContainerState::ContainerExited, "{ended:?}");
        let mut stray = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn()?;
        let moved = group_of(node, &id)
            .and_then(|group| Ok(fs::write(group.join("cgroup.procs"), stray.id().to_string())?));
        let found = moved.and_then(|()| {
            let (before, _) = doctor(node, false)?;
            let (mended, _) = doctor(node, true)?;
            Ok((before, mended))
        });
        // Whatever was found, it is not left.
        let killed = stray.try_wait()?.is_some();
        stray.kill().ok();
        stray.wait()?;
        let (before, mended) = found?;
        let [finding] = of(&before, "process")[..] else {
            anyhow::bail!("not one process of {before:#?}")
        };
        ensure!(finding["mendable"] == true && finding["object"] == id.as_str(), "{finding:#?}");
        ensure!(of(&mended, "process").iter().any(|it| it["mended"] == true), "{mended:#?}");
        ensure!(killed, "it runs on");
        let (after, code) = doctor(node, false)?;
        ensure!(after.is_empty() && code == 0, "exit code {code}: {after:#?}");
        Ok(())
    })
}

/// Its end is told with the last of its output, which somebody else may hold for a while.
#[test]
fn a_container_whose_output_is_still_waited_for_has_ended() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let signals = node.scratch.dir().join("signals");
        fs::create_dir_all(&signals)?;
        let pod = node.pod("drains");
        let script = "echo ready; while [ ! -e /signals/go ]; do sleep 0.01; done; exit 7";
        let container = pod.container("main", &image).script(script);
        let container = container.mount(&signals, "/signals", false);
        let (_, id) = node.run(&pod, &container).await?;
        node.wait_log(&id, "ready").await?;
        let pid = node.pid_of(&id).await?;
        let held = OpenOptions::new().write(true).open(format!("/proc/{pid}/fd/1"))?;
        fs::write(signals.join("go"), "")?;
        proc::wait_gone(pid, PATIENCE)?;
        // A supervisor that waits for the output says so only when it is held no more.
        let (findings, code) = doctor(node, false)?;
        drop(held);
        ensure!(findings.is_empty() && code == 0, "exit code {code}: {findings:#?}");
        let ended = node.wait_exited(&id).await?;
        ensure!(ended.exit_code == 7, "{ended:?}");
        Ok(())
    })
}
