//! `cargo xtask bench scale`: a full node. How long lists, statistics and a restart after `kill -9`
//! take with 100 pods and 500 containers, and what the daemon uses while nobody asks anything of
//! it. Prints what it measured and judges nothing.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "its output is the interface")]
#![allow(clippy::large_futures, reason = "a program has the stack to itself")]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::bench::{self, Sheet, millis};
use test_support::cri::Cri;
use test_support::node::Node;
use test_support::pods::PodBuilder;
use test_support::usage::Used;
use tokio::time::timeout;

const SECTION: &str = "scale";
const KNARR: &str = "knarr";
const PODS: usize = 100;
/// In each pod; the first one runs, the others are only created.
const CONTAINERS: usize = 5;
/// Until what is new has been measured, and long enough for the background's work to come often.
const SETTLES: Duration = Duration::from_secs(15);
const IDLE: Duration = Duration::from_secs(45);
/// However slow the machine and whatever hangs.
const WITHIN: Duration = Duration::from_secs(1200);
const FINISHES_WITHIN: Duration = Duration::from_secs(300);

fn main() -> Result<()> {
    bench::main(measure)
}

fn note(sheet: &mut Sheet, quantity: &'static str, value: f64) {
    sheet.note(SECTION, quantity, KNARR, value);
}

async fn measure(dist: &Path) -> Result<()> {
    let mut sheet = Sheet::default();
    let mut node = bench::node(dist, |settings, _| settings.log_level = "info".to_owned())?;
    let measured = timeout(WITHIN, Box::pin(of_full_node(&mut sheet, &mut node))).await;
    // What was measured before it broke off is said as well.
    if let Err(error) = measured.context("not within twenty minutes").flatten() {
        sheet.failed(SECTION, KNARR, &format!("{error:#}"));
    }
    let finished = timeout(FINISHES_WITHIN, Box::pin(node.finish())).await;
    if let Err(error) = finished.context("not within five minutes").flatten() {
        sheet.failed(SECTION, KNARR, &format!("clearing away: {error:#}"));
    }
    sheet.print();
    ensure!(sheet.failures_of(KNARR) == 0, "knarr failed");
    Ok(())
}

async fn of_full_node(sheet: &mut Sheet, node: &mut Node) -> Result<()> {
    let version = node.cri.runtime.clone().version(v1::VersionRequest::default()).await?;
    let version = version.into_inner();
    println!("version\t{KNARR}\t{} {}", version.runtime_name, version.runtime_version);
    let image = node.pulled("busybox").await?;
    let begun = Instant::now();
    for number in 0..PODS {
        let pod = as_kubelet(node.pod(&format!("p{number}")));
        fill(&node.cri, &pod, &image).await.with_context(|| format!("pod {number}"))?;
    }
    note(sheet, "until all are there, one after the other, s", begun.elapsed().as_secs_f64());
    let first = node.cri.containers(None).await?.into_iter().next().context("no containers")?.id;
    reads(sheet, &node.cri, &first).await?;
    idle(sheet, node.daemon.pid().context("no daemon")?).await?;
    restarts(sheet, node).await
}

/// As many labels and annotations as kubelet gives.
fn as_kubelet(pod: PodBuilder) -> PodBuilder {
    pod.with(|config| {
        for number in 0..6 {
            let value = format!("a value of ordinary length, number {number}");
            config.labels.insert(format!("app.kubernetes.io/label-{number}"), value.clone());
            config.annotations.insert(format!("kubernetes.io/annotation-{number}"), value);
        }
    })
}

async fn fill(cri: &Cri, pod: &PodBuilder, image: &str) -> Result<()> {
    let pod_id = cri.run_pod(pod).await?;
    for number in 0..CONTAINERS {
        let container = pod.container(&format!("c{number}"), image).sleeper();
        let container = container.with(|config| {
            config.labels.extend(pod.config.labels.clone());
            config.annotations.extend(pod.config.annotations.clone());
        });
        let id = cri.create(&pod_id, pod, &container).await?;
        if number == 0 {
            cri.start(&id).await?;
        }
    }
    Ok(())
}

async fn repeat(
    sheet: &mut Sheet,
    quantity: &'static str,
    mut call: impl AsyncFnMut() -> Result<()>,
) -> Result<()> {
    call().await?;
    for _ in 0..bench::runs(30) {
        let begun = Instant::now();
        call().await?;
        note(sheet, quantity, millis(begun.elapsed()));
    }
    Ok(())
}

async fn reads(sheet: &mut Sheet, cri: &Cri, container: &str) -> Result<()> {
    let runtime = || cri.runtime.clone();
    repeat(sheet, "ListPodSandbox, ms", async || {
        ensure!(cri.pods(None).await?.len() == PODS);
        Ok(())
    })
    .await?;
    repeat(sheet, "ListContainers, ms", async || {
        ensure!(cri.containers(None).await?.len() == PODS * CONTAINERS);
        Ok(())
    })
    .await?;
    repeat(sheet, "ContainerStatus, ms", async || {
        cri.container(container).await?;
        Ok(())
    })
    .await?;
    repeat(sheet, "ListContainerStats, ms", async || {
        runtime().list_container_stats(v1::ListContainerStatsRequest::default()).await?;
        Ok(())
    })
    .await?;
    repeat(sheet, "ListPodSandboxStats, ms", async || {
        runtime().list_pod_sandbox_stats(v1::ListPodSandboxStatsRequest::default()).await?;
        Ok(())
    })
    .await?;
    repeat(sheet, "ListPodSandboxMetrics, ms", async || {
        runtime().list_pod_sandbox_metrics(v1::ListPodSandboxMetricsRequest {}).await?;
        Ok(())
    })
    .await
}

/// Processor time in per cent of one core, and memory that is nobody else's share.
async fn idle(sheet: &mut Sheet, pid: u32) -> Result<()> {
    tokio::time::sleep(SETTLES).await;
    let before = Used::of(pid)?.cpu_seconds;
    tokio::time::sleep(IDLE).await;
    let used = Used::of(pid)?.cpu_seconds - before;
    note(sheet, "idle, % of a core", used * 100.0 / IDLE.as_secs_f64());
    let kib = test_support::proc::pss_kib(i32::try_from(pid)?)?;
    note(sheet, "memory, MiB", kib / 1024.0);
    Ok(())
}

async fn restarts(sheet: &mut Sheet, node: &mut Node) -> Result<()> {
    for _ in 0..bench::runs(30) {
        node.daemon.kill9()?;
        let begun = Instant::now();
        node.daemon.launch(&node.scratch)?;
        let cri = Cri::connect(&node.scratch.socket())?;
        let containers = cri.containers(None).await?;
        note(sheet, "restart to first list, ms", millis(begun.elapsed()));
        let of =
            |state: v1::ContainerState| containers.iter().filter(|c| c.state() == state).count();
        ensure!(of(v1::ContainerState::ContainerRunning) == PODS, "{containers:?}");
        ensure!(of(v1::ContainerState::ContainerCreated) == PODS * (CONTAINERS - 1));
    }
    Ok(())
}
