//! `cargo xtask bench scale`: a full node. How long lists, statistics and a restart after `kill -9`
//! take with 100 pods and 500 containers, and what the daemon uses while nobody asks anything of
//! it. Prints what it measured and judges nothing.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::large_futures, reason = "a program that reports")]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::cri::Cri;
use test_support::node::{Node, dist};
use test_support::pods::PodBuilder;

const PODS: usize = 100;
/// In each pod; the first one runs, the others are only created.
const CONTAINERS: usize = 5;
/// Until what is new has been measured, and long enough for the background's work to come often.
const SETTLES: Duration = Duration::from_secs(30);
const IDLE: Duration = Duration::from_secs(120);
/// `USER_HZ`, which is part of the kernel's interface.
const TICKS_PER_SECOND: f64 = 100.0;

/// How often each is measured.
fn rounds() -> usize {
    std::env::var("KNARR_BENCH_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(30)
}

fn main() -> Result<()> {
    // `cargo test --benches` and the like run it without meaning to measure.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let dist = dist().map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("start the async runtime")?;
    runtime.block_on(measure(&dist))
}

fn report(quantity: &str, values: &[f64]) {
    let values: Vec<String> = values.iter().map(|value| format!("{value:.3}")).collect();
    println!("{quantity}\tknarr\t{}", values.join(" "));
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

async fn measure(dist: &Path) -> Result<()> {
    let mut node = Node::begin(dist, |_, _| {})?;
    let image = node.pulled("busybox").await?;
    for number in 0..PODS {
        fill(&node.cri, &as_kubelet(node.pod(&format!("p{number}"))), &image).await?;
    }
    let first = node.cri.containers(None).await?.into_iter().next().context("no containers")?.id;
    reads(&node.cri, &first).await?;
    idle(node.daemon.pid().context("no daemon")?).await?;
    restarts(&mut node).await?;
    node.finish().await
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

async fn repeat(quantity: &str, mut call: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    call().await?;
    let mut times = Vec::new();
    for _ in 0..rounds() {
        let begun = Instant::now();
        call().await?;
        times.push(millis(begun.elapsed()));
    }
    report(quantity, &times);
    Ok(())
}

async fn reads(cri: &Cri, container: &str) -> Result<()> {
    let runtime = || cri.runtime.clone();
    repeat("ListPodSandbox, ms", async || {
        ensure!(cri.pods(None).await?.len() == PODS);
        Ok(())
    })
    .await?;
    repeat("ListContainers, ms", async || {
        ensure!(cri.containers(None).await?.len() == PODS * CONTAINERS);
        Ok(())
    })
    .await?;
    repeat("ContainerStatus, ms", async || {
        cri.container(container).await?;
        Ok(())
    })
    .await?;
    repeat("ListContainerStats, ms", async || {
        runtime().list_container_stats(v1::ListContainerStatsRequest::default()).await?;
        Ok(())
    })
    .await?;
    repeat("ListPodSandboxStats, ms", async || {
        runtime().list_pod_sandbox_stats(v1::ListPodSandboxStatsRequest::default()).await?;
        Ok(())
    })
    .await?;
    repeat("ListPodSandboxMetrics, ms", async || {
        runtime().list_pod_sandbox_metrics(v1::ListPodSandboxMetricsRequest {}).await?;
        Ok(())
    })
    .await
}

/// Processor time in per cent of one core, and memory that is nobody else's share.
async fn idle(pid: u32) -> Result<()> {
    tokio::time::sleep(SETTLES).await;
    let before = processor_seconds(pid)?;
    tokio::time::sleep(IDLE).await;
    let used = processor_seconds(pid)? - before;
    report("idle, % of a core", &[used * 100.0 / IDLE.as_secs_f64()]);
    let kib = test_support::proc::pss_kib(i32::try_from(pid)?)?;
    report("memory, MiB", &[kib / 1024.0]);
    Ok(())
}

/// Of every thread there ever was: those that wait for nothing end by themselves.
fn processor_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything.
    let fields = stat.rsplit_once(')').context("stat")?.1;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    let ticks: f64 = ticks.collect::<Result<Vec<_>, _>>()?.iter().sum();
    Ok(ticks / TICKS_PER_SECOND)
}

async fn restarts(node: &mut Node) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..rounds() {
        node.daemon.kill9()?;
        let begun = Instant::now();
        node.daemon.launch(&node.scratch)?;
        let cri = Cri::connect(&node.scratch.socket())?;
        let containers = cri.containers(None).await?;
        times.push(millis(begun.elapsed()));
        let of =
            |state: v1::ContainerState| containers.iter().filter(|c| c.state() == state).count();
        ensure!(of(v1::ContainerState::ContainerRunning) == PODS, "{containers:?}");
        ensure!(of(v1::ContainerState::ContainerCreated) == PODS * (CONTAINERS - 1));
    }
    report("restart to first list, ms", &times);
    Ok(())
}
