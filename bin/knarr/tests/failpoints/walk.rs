//! One operation's places, one after the other, on one node.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::leaks::Leaks;
use test_support::node::Node;
use test_support::proc;

use crate::operation::{Before, Operation};
use crate::program::{self, Place};

/// What happens at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Kill,
    Fail,
}

impl Act {
    fn spec(self, place: &str) -> String {
        match self {
            Self::Kill => format!("{place}=kill"),
            Self::Fail => format!("{place}=error*1"),
        }
    }

    fn said(self, place: &str) -> String {
        match self {
            Self::Kill => format!("failpoint {place}: dying"),
            Self::Fail => format!("failpoint {place}: failing"),
        }
    }
}

/// Walks all places of an operation: dying at each, and failing at each where that can be.
pub(crate) fn walk(operation: Operation) -> Result<()> {
    let dist = match test_support::node::dist() {
        Ok(dist) => program::dist(&dist)?,
        Err(why) => {
            test_support::skip(&why);
            return Ok(());
        }
    };
    let places: Vec<Place> =
        program::places()?.into_iter().filter(|place| operation.comes_by(&place.name)).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("start the async runtime")?;
    runtime.block_on(async {
        let mut node =
            Node::begin(&dist, |settings, _| "info".clone_into(&mut settings.log_level))?;
        node.pulled("busybox").await?;
        let layers = layers(&node)?;
        let mut number = 0;
        for place in places {
            for act in [Act::Kill, Act::Fail] {
                if act == Act::Fail && !place.can_fail {
                    continue;
                }
                number += 1;
                let case = Case { operation, place: &place.name, act, number, layers };
                let recovered = case.run(&mut node).await.with_context(|| format!("{case:?}"))?;
                let milliseconds = recovered.as_millis();
                println!("{:28} {:4} back in {milliseconds} ms", place.name, format!("{act:?}"));
            }
        }
        node.finish().await
    })
}

#[derive(Debug)]
struct Case<'a> {
    operation: Operation,
    place: &'a str,
    act: Act,
    number: usize,
    /// That there were to begin with.
    layers: usize,
}

impl Case<'_> {
    /// How long the daemon took to come back.
    async fn run(&self, node: &mut Node) -> Result<Duration> {
        let name = format!("walk{}", self.number);
        let before = if self.operation == Operation::Recover {
            self.start_badly(node, &name).await?
        } else {
            self.call_badly(node, &name).await?
        };
        let begun = Instant::now();
        node.daemon.launch(&node.scratch).context("come back")?;
        let took = begun.elapsed();
        agrees(node).await.context("after it came back")?;
        self.operation.again(node, &before).await.context("asked again")?;
        agrees(node).await.context("after it was asked again")?;
        node.cri.remove_everything().await.context("remove everything")?;
        Leaks::of(&node.scratch).assert_none()?;
        let left = layers(node)?;
        ensure!(left == self.layers, "{left} layers are left of {}", self.layers);
        Ok(took)
    }

    /// The call on a daemon that does badly; afterwards no daemon runs.
    async fn call_badly(&self, node: &mut Node, name: &str) -> Result<Before> {
        let from = node.daemon.log_text().len();
        node.daemon.kill9()?;
        self.arm(node, Some(self.place));
        node.daemon.launch(&node.scratch)?;
        let before = self.operation.prepare(node, name).await?;
        let answer = self.operation.call(&node.cri, &before).await;
        match self.act {
            Act::Kill => {
                ensure!(answer.is_err(), "it was answered: {answer:?}");
                let status = node.daemon.await_end()?;
                ensure!(status.signal() == Some(9), "{status}");
            }
            Act::Fail => {
                agrees(node).await.context("after the failure")?;
                node.daemon.kill9()?;
            }
        }
        self.was_reached(node, from)?;
        self.arm(node, None);
        Ok(before)
    }

    /// The daemon's start goes badly; afterwards no daemon runs.
    async fn start_badly(&self, node: &mut Node, name: &str) -> Result<Before> {
        let before = self.operation.prepare(node, name).await?;
        let from = node.daemon.log_text().len();
        node.daemon.kill9()?;
        if self.place == "recover.undo" {
            self.leave_half_a_pod(node, name).await?;
        }
        self.arm(node, Some(self.place));
        let stays_down = self.act == Act::Kill || self.place == "recover.stores";
        if stays_down {
            let status = node.daemon.launch_to_its_end(&node.scratch)?;
            ensure!((status.signal() == Some(9)) == (self.act == Act::Kill), "{status}");
        } else {
            node.daemon.launch(&node.scratch)?;
            agrees(node).await.context("after the failure")?;
            node.daemon.kill9()?;
        }
        self.was_reached(node, from)?;
        self.arm(node, None);
        Ok(before)
    }

    async fn leave_half_a_pod(&self, node: &mut Node, name: &str) -> Result<()> {
        let variable = failpoint::VARIABLE.to_owned();
        node.daemon.settings().environment.insert(variable, "pod.run.ready=kill".to_owned());
        node.daemon.launch(&node.scratch)?;
        let half = node.cri.run_pod(&node.pod(&format!("{name}half"))).await;
        ensure!(half.is_err(), "{half:?}");
        node.daemon.await_end().map(drop)
    }

    fn arm(&self, node: &mut Node, place: Option<&str>) {
        let environment = &mut node.daemon.settings().environment;
        let variable = failpoint::VARIABLE.to_owned();
        match place {
            Some(place) => environment.insert(variable, self.act.spec(place)),
            None => environment.remove(&variable),
        };
    }

    fn was_reached(&self, node: &Node, from: usize) -> Result<()> {
        let log = node.daemon.log_text();
        let said = self.act.said(self.place);
        ensure!(log.get(from..).is_some_and(|log| log.contains(&said)), "it was not reached");
        Ok(())
    }
}

/// What the CRI says is what the kernel has.
async fn agrees(node: &Node) -> Result<()> {
    let processes = proc::all();
    for container in node.cri.containers(None).await? {
        let lives = processes.iter().any(|it| !it.zombie && it.cgroups.contains(&container.id));
        let runs = container.state() == v1::ContainerState::ContainerRunning;
        ensure!(lives == runs, "{container:?} has processes: {lives}");
        if runs {
            ensure!(node.cri.shell(&container.id, "echo alive").await? == "alive");
        }
    }
    for pod in node.cri.pods(None).await? {
        if pod.state() == v1::PodSandboxState::SandboxReady {
            let pin = Path::new("/run/netns").join(format!("knarr-{}", pod.id));
            ensure!(pin.exists(), "{pod:?} has no network namespace");
            let address = node.cri.pod_ip(&pod.id).await?;
            ensure!(address.starts_with(&node.scratch.subnet_prefix()), "{pod:?}: {address}");
            let state = node.scratch.state().join("pods").join(&pod.id).display().to_string();
            let shim = processes.iter().any(|it| it.cmdline.contains(&state));
            ensure!(shim, "{pod:?} has no shim");
        }
    }
    Ok(())
}

/// How many the store has.
fn layers(node: &Node) -> Result<usize> {
    Ok(std::fs::read_dir(node.scratch.root().join("layers"))?.count())
}
