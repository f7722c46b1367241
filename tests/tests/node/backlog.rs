//! Records that cannot be written, because there is no room: what has happened has happened, a person is
//! told which records are behind, and once there is room they are written without anybody's doing.

use std::cell::OnceCell;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::node::{Node, PATIENCE, on_a_node_with};
use test_support::pods::PodBuilder;
use test_support::small_disk::{Lack, SmallDisk};

use crate::doctor::{doctor, of};

const NO_ROOM: &str = "No space left on device";

/// Whether all records tell what is, and which do not.
async fn current(node: &Node) -> Result<(bool, String)> {
    let request = v1::StatusRequest { verbose: false };
    let status = node.cri.runtime.clone().status(request).await?.into_inner();
    let conditions = status.status.unwrap_or_default().conditions;
    let condition = conditions.into_iter().find(|it| it.r#type == "KnarrHasCurrentRecords");
    let condition = condition.context("no condition")?;
    Ok((condition.status, condition.message))
}

/// A node whose records lie on a disk that can be filled.
fn on_a_small_root(test: impl AsyncFnOnce(&mut Node, &SmallDisk) -> Result<()>) -> Result<()> {
    let disk = OnceCell::new();
    on_a_node_with(
        |_, scratch| {
            let mounted = SmallDisk::mount(&scratch.root()).expect("mount a file system");
            disk.set(mounted).expect("once");
        },
        async |node| test(node, disk.get().context("no disk")?).await,
    )
}

/// Taking an attachment away would make room.
fn without_a_network(node: &Node, name: &str) -> PodBuilder {
    let pod = node.pod(name).with(|config| config.hostname.clear());
    pod.namespaces(|namespaces| namespaces.set_network(v1::NamespaceMode::Node))
}

fn says(record: &Path, word: &str) -> Result<()> {
    let text = std::fs::read_to_string(record)?;
    ensure!(text.contains(word), "{} has no {word}: {text}", record.display());
    Ok(())
}

#[test]
fn a_record_that_found_no_room_is_told_and_written_by_itself_once_there_is_some() -> Result<()> {
    on_a_small_root(async |node, disk| {
        let image = node.pulled("busybox").await?;
        let script = "trap 'exit 7' TERM; echo asleep; while :; do sleep 0.01; done";
        for lack in [Lack::Inodes, Lack::Pages] {
            let pod = without_a_network(node, "behind");
            let container = pod.container("main", &image).script(script);
            let (pod_id, id) = node.run(&pod, &container).await?;
            node.wait_log(&id, "asleep").await?;
            ensure!(current(node).await? == (true, String::new()));
            let dir = node.scratch.root().join("pods").join(&pod_id);
            let of_pod = dir.join("pod.json");
            let of_container = dir.join("containers").join(&id).join("container.json");
            disk.leave(lack, 0)?;
            node.cri.stop(&id, 10).await?;
            node.cri.stop_pod(&pod_id).await?;

            let (all, told) = current(node).await?;
            ensure!(!all && told.contains(NO_ROOM), "{told}");
            let findings = doctor(node, false)?.0;
            let found = of(&findings, "record");
            ensure!(found.len() == 2, "{findings:#?}");
            for record in [&of_pod, &of_container] {
                let path = record.display().to_string();
                ensure!(told.contains(&path), "{told}");
                let of_it = |it: &&serde_json::Value| it.to_string().contains(&path);
                ensure!(found.iter().copied().any(|it| of_it(&it)), "{findings:#?}");
            }
            says(&of_pod, "\"Ready\"")?;
            says(&of_container, "\"Running\"")?;

            disk.widen()?;
            let written = |record: &Path, word: &str| {
                let said = |text: &str| text.contains(word).then_some(());
                test_support::files::wait_for(record, PATIENCE, said)
            };
            written(&of_pod, "\"Stopped\"")?;
            written(&of_container, "\"Exited\"")?;
            let deadline = Instant::now() + PATIENCE;
            while !current(node).await?.0 {
                ensure!(Instant::now() < deadline, "they are told to be behind still");
                tokio::task::yield_now().await;
            }
            ensure!(doctor(node, false)?.0.is_empty());
            // Nobody else knows it any more.
            node.daemon.kill9()?;
            std::fs::remove_dir_all(node.scratch.state().join("pods").join(&pod_id))?;
            node.launch()?;
            let status = node.cri.container(&id).await?;
            ensure!((status.exit_code, status.reason.as_str()) == (7, "Error"), "{status:?}");
            node.cri.remove_pod(&pod_id).await?;
        }
        Ok(())
    })
}

#[test]
fn what_goes_while_its_record_is_behind_is_not_told_any_more() -> Result<()> {
    on_a_small_root(async |node, disk| {
        let (_, steady) = node.sleeper("steady").await?;
        let pod = without_a_network(node, "goes");
        let image = node.image("busybox")?;
        let (pod_id, id) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
        node.wait_log(&id, "asleep").await?;
        disk.leave(Lack::Pages, 0)?;
        node.cri.stop(&id, 10).await?;
        ensure!(current(node).await?.1.contains(&id));
        node.cri.remove(&id).await?;
        ensure!(!current(node).await?.1.contains(&id));
        // What it had has made room.
        disk.leave(Lack::Pages, 0)?;
        node.cri.stop_pod(&pod_id).await?;
        ensure!(current(node).await?.1.contains(&pod_id));
        node.cri.remove_pod(&pod_id).await?;
        ensure!(current(node).await? == (true, String::new()));
        ensure!(node.cri.shell(&steady, "echo alive").await? == "alive");
        disk.widen()
    })
}
