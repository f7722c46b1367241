//! The wall clock jumps, as it does when a node finds out what time it is: nothing expires, nothing
//! waits longer than it was told to, and what is on record stays what it was.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use streaming::client::{Transport, Verdict};
use test_support::daemon::Settings;
use test_support::images::{Compression, ImageBuilder, LayerBuilder};
use test_support::node::{Node, PATIENCE, on_a_node_with};
use test_support::registry::{Fault, LocalRegistry};
use test_support::scratch::Scratch;

use crate::live::{Live, exec_url};

/// Debian's `libfaketime`: answers for the wall clock, for programs that are not linked statically.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// What a call may take here that has a deadline of seconds.
const LONG: Duration = Duration::from_secs(60);

/// A daemon whose wall clock is that of a file.
fn faked(settings: &mut Settings, scratch: &Scratch) {
    let clock = scratch.dir().join("clock");
    std::fs::write(&clock, "+0\n").expect("the clock's file");
    let clock = clock.display().to_string();
    for (name, value) in [
        ("LD_PRELOAD", LIBRARY),
        ("FAKETIME_TIMESTAMP_FILE", &clock),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ] {
        settings.environment.insert(name.to_owned(), value.to_owned());
    }
}

/// The daemon's wall clock is `by` ahead from now on.
fn jump(node: &Node, by: &str) -> Result<()> {
    Ok(std::fs::write(node.scratch.dir().join("clock"), format!("{by}\n"))?)
}

/// What kubelet does in the course of a pod, with everything that has a deadline.
async fn live(node: &Node, name: &str) -> Result<v1::ContainerStatus> {
    let image = node.pulled("busybox").await?;
    let pod = node.pod(name);
    let deaf = "trap '' TERM; echo asleep; while :; do sleep 1000; done";
    let (pod_id, id) = node.run(&pod, &pod.container("main", &image).script(deaf)).await?;
    node.wait_log(&id, "asleep").await?;
    ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
    let timed = node.cri.exec(&id, &["sleep", "1000"], 1);
    let error = tokio::time::timeout(LONG, timed).await.context("no end")?.expect_err("too long");
    ensure!(error.code() == tonic::Code::DeadlineExceeded, "{error:?}");
    tokio::time::timeout(LONG, node.cri.stop(&id, 1)).await.context("no end")??;
    let status = node.cri.container(&id).await?;
    ensure!(status.exit_code == 137 && status.finished_at >= status.started_at, "{status:?}");
    node.cri.stop_pod(&pod_id).await?;
    Ok(status)
}

#[test]
fn a_clock_that_jumps_expires_nothing_and_lengthens_no_deadline() -> Result<()> {
    if !Path::new(LIBRARY).exists() {
        test_support::skip("libfaketime is not installed");
        return Ok(());
    }
    on_a_node_with(faked, async |node| {
        let (pod, steady) = node.sleeper("steady").await?;
        let before = (node.cri.pod(&pod).await?, node.cri.container(&steady).await?);
        let images = node.cri.image_list().await?;
        let mut earlier = 0;
        for (number, by) in ["-400d", "+400d", "+0"].into_iter().enumerate() {
            // While something waits: a grace period that ends by a clock that does not jump.
            let image = node.pulled("busybox").await?;
            let deaf = node.pod(&format!("deaf{number}"));
            let script = "trap '' TERM; echo asleep; while :; do sleep 1000; done";
            let (_, id) = node.run(&deaf, &deaf.container("main", &image).script(script)).await?;
            node.wait_log(&id, "asleep").await?;
            let (cri, target) = (node.cri.clone(), id.clone());
            let stopping = tokio::spawn(async move { cri.stop(&target, 2).await });
            // Asked for now, and used under the other clock.
            let url = exec_url(node, &steady, "echo alive", false).await?;
            jump(node, by)?;
            let session = Live::connect(&url, Transport::WebSocket, false).await?;
            let (said, _, verdict) = session.rest().await?;
            ensure!(said == b"alive\n" && verdict == Verdict::Success, "{said:?} {verdict:?}");
            ensure!(Live::connect(&url, Transport::WebSocket, false).await.is_err(), "used twice");
            tokio::time::timeout(LONG, stopping).await.context("no end")???;
            let status = node.cri.container(&id).await?;
            ensure!(status.exit_code == 137 && status.finished_at >= status.started_at);
            let status = live(node, &format!("jumped{number}")).await?;
            ensure!(status.created_at != earlier, "the clock did not jump");
            earlier = status.created_at;
            node.crash_and_restart()?;
            let now = (node.cri.pod(&pod).await?, node.cri.container(&steady).await?);
            ensure!(now == before, "{now:?}");
            ensure!(node.cri.image_list().await? == images);
            ensure!(node.cri.shell(&steady, "echo alive").await? == "alive");
        }
        // The daemon's clock did jump: what was made under it says so.
        let made: Vec<i64> =
            node.cri.containers(None).await?.into_iter().map(|it| it.created_at).collect();
        let (first, last) = (made.iter().min().copied(), made.iter().max().copied());
        let days = (last.unwrap_or_default() - first.unwrap_or_default()) / 86_400_000_000_000;
        ensure!(days >= 799, "the clock moved by {days} days only");
        Ok(())
    })
}

#[test]
fn a_token_outlives_a_clock_that_jumps_in_the_middle_of_a_pull_and_is_renewed_when_refused()
-> Result<()> {
    if !Path::new(LIBRARY).exists() {
        test_support::skip("libfaketime is not installed");
        return Ok(());
    }
    let registry = LocalRegistry::start()?;
    let with_registry = |settings: &mut Settings, scratch: &Scratch| {
        faked(settings, scratch);
        settings.plain_registries.push(registry.host());
    };
    on_a_node_with(with_registry, async |node| {
        registry.guard();
        let mut issued = 0;
        for (number, (by, is_revoked)) in
            [("+400d", false), ("-400d", false), ("+0", true), ("-1d", true)]
                .into_iter()
                .enumerate()
        {
            let text = format!("{number} ").repeat(5_000);
            let layer = LayerBuilder::new().file("data", 0o600, text).finish(Compression::None)?;
            let name = format!("own/jumped{number}");
            let image = ImageBuilder::new(&format!("{name}:1"))?.layer(layer).build();
            registry.add(&image)?;
            // Its configuration: the layer is asked for when that has come.
            registry.break_blob(&name, &image.id, Fault::HoldOnce(20));
            let (cri, reference) = (node.cri.clone(), format!("{}/{name}:1", registry.host()));
            let pulling = tokio::spawn(async move { cri.pull(&reference).await });
            registry.await_held(PATIENCE)?;
            ensure!(registry.issued() == issued + 1, "each pull has a token of its own");
            jump(node, by)?;
            if is_revoked {
                registry.revoke();
            }
            registry.let_go();
            let id = tokio::time::timeout(LONG, pulling).await.context("no end")???;
            ensure!(id == image.id, "{id}");
            // By its own time it has lived for a moment: only who refuses it gets another.
            issued += 1 + u32::from(is_revoked);
            let asked = registry.requests(&name);
            ensure!(registry.issued() == issued, "{by}: {} tokens, {asked:#?}", registry.issued());
        }
        Ok(())
    })
}
