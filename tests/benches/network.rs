//! `cargo xtask bench network`: how long a pod's start and stop take with the network that is
//! built in, with the reference plugins run by knarr, and with the same plugins run by Debian's
//! containerd; by turns, in one run. Prints what it measured and judges nothing.
#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a program has the stack to itself")]

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use test_support::bench::{self, Sheet, Standing, millis};
use test_support::containerd::{Containerd, Settings, bridge_network};
use test_support::cri::Cri;
use test_support::node::Node;
use test_support::pods::PodBuilder;

const PLUGINS: &str = "/usr/lib/cni";

/// One of those that are compared.
struct Runner {
    what: &'static str,
    cri: Cri,
    pods: Vec<PodBuilder>,
    /// Whether it is not knarr: then a round that fails is told and left out, not the end.
    foreign: bool,
}

impl Runner {
    fn new(what: &'static str, cri: Cri, node: &Node, rounds: usize, foreign: bool) -> Self {
        // One more: the first pod makes the bridge and fetches the pause image.
        let pods = (0..=rounds).map(|number| node.pod(&format!("bench{number}"))).collect();
        Self { what, cri, pods, foreign }
    }

    async fn round(&self, sheet: &mut Sheet, number: usize) -> Result<()> {
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
            sheet.note("network", "RunPodSandbox, ms", self.what, millis(started));
            sheet.note("network", "StopPodSandbox, ms", self.what, millis(stopped));
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    bench::main(compare)
}

async fn compare(dist: &Path) -> Result<()> {
    let built_in = Node::begin(dist, |_, _| {})?;
    let execd = Node::begin(dist, |settings, scratch| {
        settings.cni_bin_dir = Some(PLUGINS.into());
        let conf = bridge_network(scratch, &scratch.root().join("addresses"));
        std::fs::write(scratch.dir().join("cni.d/10-test.conflist"), conf).ok();
    })?;
    let third = Node::begin(dist, |_, _| {})?;
    let containerd = Containerd::start(&third.scratch, Settings::new(Path::new(PLUGINS)))?;
    let foreign = containerd.client().await?;
    let rounds = bench::runs(30);
    let runners = [
        Runner::new("knarr, built in", built_in.cri.clone(), &built_in, rounds, false),
        Runner::new("knarr, reference plugins", execd.cri.clone(), &execd, rounds, false),
        Runner::new("containerd, reference plugins", foreign, &third, rounds, true),
    ];
    let (mut sheet, mut standing) = (Sheet::default(), Standing::default());
    for number in 0..=rounds {
        for runner in &runners {
            if !standing.is_in(runner.what) {
                continue;
            }
            sheet.tries("network", runner.what);
            let measured = runner.round(&mut sheet, number).await;
            let done = measured.is_ok();
            match measured {
                // Debian's containerd now and then loses its shim while it stops a pod.
                Err(error) if runner.foreign => {
                    sheet.failed("network", runner.what, &format!("{error:#}"));
                }
                measured => measured?,
            }
            standing.note(&mut sheet, "network", runner.what, done);
        }
    }
    sheet.print();
    drop(containerd);
    for node in [built_in, execd, third] {
        node.finish().await?;
    }
    Ok(())
}
