//! `cargo xtask bench --trace`: where the time of one pod's start goes. Daemon, shim, the child that
//! becomes the container and this client write their spans to one file; the run whose time is the
//! middle one of all is printed, a line `span`, BEGIN, END (nanoseconds), NAME for each.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "its output is the interface")]
#![allow(clippy::large_futures, reason = "a program has the stack to itself")]

use std::path::Path;

use anyhow::{Context, Result};
use sys::trace;
use test_support::bench;
use test_support::node::Node;
use test_support::pods::PodBuilder;

/// The whole of a start, as this client sees it.
const WHOLE: &str = "client: start of a pod";
const WARM_UP: usize = 5;

fn main() -> Result<()> {
    bench::main(run)
}

async fn run(dist: &Path) -> Result<()> {
    let mut file = None;
    let node = bench::node(dist, |settings, scratch| {
        let path = scratch.dir().join("trace");
        let value = path.display().to_string();
        settings.log_level = "info".to_owned();
        settings.environment.insert(trace::VARIABLE.to_owned(), value);
        file = Some(path);
    })?;
    let file = file.context("no file for the trace")?;
    trace::start(&file).context("open the trace")?;
    let image = node.pulled("busybox").await?;
    let rounds = bench::runs(21);
    for number in 0..WARM_UP + rounds {
        let pod = node.pod(&format!("traced-{number}"));
        let id = start(&node, &pod, &image).await?;
        node.cri.stop_pod(&id).await?;
        node.cri.remove_pod(&id).await?;
    }
    let text = std::fs::read_to_string(&file).context("read the trace")?;
    for line in middle(&text)? {
        println!("span\t{line}");
    }
    node.finish().await
}

async fn start(node: &Node, pod: &PodBuilder, image: &str) -> Result<String> {
    let container = pod.container("main", image).command(&["/bin/sleep", "1000000"]);
    let _whole = trace::span(WHOLE);
    let pod_id = {
        let _span = trace::span("client: RunPodSandbox");
        node.cri.run_pod(pod).await.context("RunPodSandbox")?
    };
    let id = {
        let _span = trace::span("client: CreateContainer");
        node.cri.create(&pod_id, pod, &container).await.context("CreateContainer")?
    };
    let _span = trace::span("client: StartContainer");
    node.cri.start(&id).await.context("StartContainer")?;
    Ok(pod_id)
}

/// The lines that belong to the start whose time is the middle one.
fn middle(text: &str) -> Result<Vec<&str>> {
    let times = |line: &str| -> Option<(u64, u64)> {
        let mut fields = line.split('\t');
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    let whole = text.lines().filter(|line| line.ends_with(WHOLE)).filter_map(times);
    let mut whole: Vec<(u64, u64)> = whole.skip(WARM_UP).collect();
    whole.sort_by_key(|(begin, end)| end - begin);
    let (begin, end) = whole.get(whole.len() / 2).context("nothing was traced")?;
    let within = |line: &&str| times(line).is_some_and(|(from, _)| (*begin..*end).contains(&from));
    Ok(text.lines().filter(within).collect())
}
