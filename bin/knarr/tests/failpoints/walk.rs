//! One operation's places, one after the other, on one node.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use test_support::agreement::agrees;
use test_support::leaks::Leaks;
use test_support::matrix::{Act, Place, Table};
use test_support::node::{Node, block_on};

use crate::operation::{Before, Operation};
use crate::program;

/// Walks all places of an operation: dying at each, and failing at each where that can be.
pub(crate) fn walk(operation: Operation) -> Result<()> {
    let Some(dist) = program::dist()? else { return Ok(()) };
    let places: Vec<Place> =
        program::places()?.into_iter().filter(|place| operation.comes_by(&place.name)).collect();
    block_on(async {
        let mut node =
            Node::begin(&dist, |settings, _| "info".clone_into(&mut settings.log_level))?;
        node.pulled("busybox").await?;
        let layers = layers(&node)?;
        let mut number = 0;
        let mut table = Table::default();
        for place in places {
            for act in place.acts {
                number += 1;
                let case = Case { operation, place: &place.name, act, number, layers };
                let recovered = case.run(&mut node).await.with_context(|| format!("{case:?}"))?;
                table.enter(&place.name, act, recovered);
            }
        }
        table.publish(&program::tables(), &format!("daemon-{operation:?}"))?;
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
    /// How long the daemon took to come back, or with room again to do what it was asked.
    async fn run(&self, node: &mut Node) -> Result<Duration> {
        let name = format!("walk{}", self.number);
        let before = if self.operation == Operation::Recover {
            self.start_badly(node, &name).await?
        } else {
            self.call_badly(node, &name).await?
        };
        let begun = Instant::now();
        if node.daemon.pid().is_none() {
            node.launch().context("come back")?;
        }
        let back = begun.elapsed();
        agrees(node).await.context("after it came back")?;
        let begun = Instant::now();
        self.operation.again(node, &before).await.context("asked again")?;
        let took = if self.act == Act::Full { begun.elapsed() } else { back };
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
        node.launch()?;
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
            // It goes on by itself, and says what there was no room for and where.
            Act::Full => {
                agrees(node).await.context("after the failure")?;
                let told = answer.err().map(|status| status.message().to_owned());
                let told = told.unwrap_or_else(|| {
                    node.daemon.log_text().get(from..).unwrap_or_default().to_owned()
                });
                ensure!(told.contains("No space left on device"), "{told}");
                ensure!(told.contains('/') || told.contains("sha256:"), "no path in {told}");
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
            node.launch()?;
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
        node.launch()?;
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

/// How many the store has.
fn layers(node: &Node) -> Result<usize> {
    Ok(std::fs::read_dir(node.scratch.root().join("layers"))?.count())
}
