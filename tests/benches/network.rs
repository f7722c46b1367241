//! `cargo xtask bench network`: how long a pod's start and stop take with the network that is
//! built in, with the reference plugins run by knarr, and with the same plugins run by Debian's
//! containerd; by turns, in one run. Prints what it measured and judges nothing.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::large_futures, reason = "a program that reports")]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use test_support::containerd::{Containerd, bridge_network};
use test_support::cri::Cri;
use test_support::node::{Node, dist};
use test_support::pods::PodBuilder;

const PLUGINS: &str = "/usr/lib/cni";

/// How often each is measured.
fn rounds() -> usize {
    std::env::var("KNARR_BENCH_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(30)
}

/// One of those that are compared.
struct Runner {
    what: &'static str,
    cri: Cri,
    pods: Vec<PodBuilder>,
    starts: Vec<Duration>,
    stops: Vec<Duration>,
}

impl Runner {
    fn new(what: &'static str, cri: Cri, node: &Node, foreign: bool) -> Self {
        let pod = |number| {
            let pod = node.pod(&format!("bench{number}"));
            // Cgroups of the test place are not the other's business.
            if foreign { pod.with(|config| config.linux = None) } else { pod }
        };
        // One more: the first pod makes the bridge and fetches the pause image.
        let pods = (0..=rounds()).map(pod).collect();
        Self { what, cri, pods, starts: Vec::new(), stops: Vec::new() }
    }

    async fn round(&mut self, number: usize) -> Result<()> {
        let pod = self.pods.get(number).context("no such round")?;
        let begun = Instant::now();
        let id =
            self.cri.run_pod(pod).await.with_context(|| format!("start with {}", self.what))?;
        let started = begun.elapsed();
        let begun = Instant::now();
        self.cri.stop_pod(&id).await.with_context(|| format!("stop with {}", self.what))?;
        let stopped = begun.elapsed();
        self.cri.remove_pod(&id).await.with_context(|| format!("remove with {}", self.what))?;
        if number > 0 {
            self.starts.push(started);
            self.stops.push(stopped);
        }
        Ok(())
    }

    fn report(&self) {
        for (quantity, times) in
            [("RunPodSandbox, ms", &self.starts), ("StopPodSandbox, ms", &self.stops)]
        {
            let text = |time: &Duration| format!("{:.3}", time.as_secs_f64() * 1000.0);
            let times: Vec<String> = times.iter().map(text).collect();
            println!("{quantity}\t{}\t{}", self.what, times.join(" "));
        }
    }
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
    runtime.block_on(compare(&dist))
}

async fn compare(dist: &Path) -> Result<()> {
    let built_in = Node::begin(dist, |_, _| {})?;
    let execd = Node::begin(dist, |settings, scratch| {
        settings.cni_bin_dir = Some(PLUGINS.into());
        let conf = bridge_network(scratch, &scratch.root().join("addresses"));
        std::fs::write(scratch.dir().join("cni.d/10-test.conflist"), conf).ok();
    })?;
    let third = Node::begin(dist, |_, _| {})?;
    let containerd = Containerd::start(&third.scratch, Path::new(PLUGINS))?;
    let foreign = containerd.client().await?;
    let mut runners = [
        Runner::new("knarr, built in", built_in.cri.clone(), &built_in, false),
        Runner::new("knarr, reference plugins", execd.cri.clone(), &execd, false),
        Runner::new("containerd, reference plugins", foreign, &third, true),
    ];
    for number in 0..=rounds() {
        for runner in &mut runners {
            runner.round(number).await?;
        }
    }
    for runner in &runners {
        runner.report();
    }
    drop(containerd);
    for node in [built_in, execd, third] {
        node.finish().await?;
    }
    Ok(())
}
