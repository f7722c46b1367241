//! One operation's places, one after the other, on one node.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use test_support::agreement::agrees;
use test_support::leaks::Leaks;
use test_support::matrix::{Act, Table};
use test_support::node::{Node, PATIENCE, block_on};
use test_support::{files, matrix};

use crate::operation::{Before, Operation};

const SHIM: &str = env!("CARGO_BIN_EXE_knarr-shim");

/// Walks all places of an operation: dying at each, and failing at each where that can be.
pub(crate) fn walk(operation: Operation) -> Result<()> {
    let dist = match test_support::node::dist() {
        Ok(dist) => furnish(&dist, operation)?,
        Err(why) => {
            test_support::skip(&why);
            return Ok(());
        }
    };
    block_on(async {
        let node = Node::begin(&dist, |settings, _| "info".clone_into(&mut settings.log_level))?;
        node.pulled("busybox").await?;
        let mut table = Table::default();
        let places = matrix::places(&failpoint::list_shim());
        for place in places.into_iter().filter(|place| operation.comes_by(&place.name)) {
            for act in place.acts {
                let case = Case { operation, place: &place.name, act };
                let took = case.run(&node).await.with_context(|| format!("{case:?}"))?;
                table.enter(&place.name, act, took);
            }
        }
        let tables = Path::new(env!("CARGO_TARGET_TMPDIR")).join("matrix");
        table.publish(&tables, &format!("shim-{operation:?}"))?;
        node.finish().await
    })
}

/// A directory with the daemon that `dist` has, and the shim with failpoints.
fn furnish(dist: &Path, operation: Operation) -> Result<PathBuf> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("failpoints-{operation:?}"));
    fs::create_dir_all(&dir)?;
    for (name, from) in [("knarr", dist.join("knarr")), ("knarr-shim", PathBuf::from(SHIM))] {
        let to = dir.join(name);
        drop(fs::remove_file(&to));
        if fs::hard_link(&from, &to).is_err() {
            fs::copy(&from, &to).with_context(|| from.display().to_string())?;
        }
    }
    Ok(dir)
}

#[derive(Debug)]
struct Case<'a> {
    operation: Operation,
    place: &'a str,
    act: Act,
}

impl Case<'_> {
    /// How long it took until the call, or the pod's next attempt, had succeeded.
    async fn run(&self, node: &Node) -> Result<Duration> {
        let plan = node.scratch.state().join("failpoints");
        fs::write(&plan, self.act.spec(self.place))?;
        let from = node.daemon.log_text().len();
        let before = self.operation.prepare(node, "walk").await?;
        let answer = self.operation.call(node, &before).await.map_err(|it| it.message().to_owned());
        // Shims that are started from now on do well.
        fs::remove_file(&plan)?;
        self.is_reached(node, from).await?;
        let begun = Instant::now();
        if self.ends_the_shim() {
            let next = self.operation.next_attempt(node, &before, self.place);
            next.await.with_context(|| format!("after {answer:?}"))?;
        } else {
            self.goes_on(node, &before, from, answer).await?;
        }
        let took = begun.elapsed();
        agrees(node).await?;
        node.cri.remove_everything().await.context("remove everything")?;
        Leaks::of(&node.scratch).assert_none()?;
        Ok(took)
    }

    /// One that does not get so far that it can be asked has ended as well.
    fn ends_the_shim(&self) -> bool {
        let leaves = self.operation == Operation::Leave;
        leaves || self.act == Act::Kill || self.place.starts_with("shim.begin.")
    }

    async fn goes_on(
        &self,
        node: &Node,
        before: &Before,
        from: usize,
        answer: Result<(), String>,
    ) -> Result<()> {
        agrees(node).await.context("after the failure")?;
        if self.act == Act::Full {
            let log = node.daemon.log_text();
            let told = answer.err().unwrap_or_else(|| log.get(from..).unwrap_or_default().into());
            ensure!(told.contains("No space left on device"), "{told}");
        }
        self.operation.again(node, before).await
    }

    async fn is_reached(&self, node: &Node, from: usize) -> Result<()> {
        let (log, said) = (node.scratch.dir().join("daemon.log"), self.act.said(self.place));
        let reached = move |text: &str| text.get(from..)?.contains(&said).then_some(());
        let wait = move || files::wait_for(&log, PATIENCE, reached);
        tokio::task::spawn_blocking(wait).await?.context("it was not reached")
    }
}
