//! File systems without room, for real: for everything that kubelet asks, one of the daemon's
//! directories lies on a disk that has no inode or no page left for the first thing made there, then
//! for the second, and so on until there is enough. What fails says where; what runs is served on;
//! with room again the same call succeeds; everything goes while there is none; and then the disk
//! holds as much as before.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use test_support::agreement::agrees;
use test_support::matrix::{Act, Table};
use test_support::node::{Node, PATIENCE, block_on};
use test_support::scratch::Scratch;
use test_support::small_disk::{Lack, SmallDisk, Taken};
use tonic::Status;

use crate::operation::{Before, Operation};
use crate::program;

/// How Linux calls it.
const NO_ROOM: &str = "No space left on device";

/// The daemon's directories, each on a disk of its own.
struct Disks {
    root: SmallDisk,
    state: SmallDisk,
    logs: SmallDisk,
}

impl Disks {
    fn mount(scratch: &Scratch) -> Result<Self> {
        Ok(Self {
            root: SmallDisk::mount(&scratch.root())?,
            state: SmallDisk::mount(scratch.state())?,
            logs: SmallDisk::mount(&scratch.logs())?,
        })
    }

    fn all(&self) -> [&SmallDisk; 3] {
        [&self.root, &self.state, &self.logs]
    }

    fn taken(&self) -> Result<[Taken; 3]> {
        let [root, state, logs] = self.all();
        Ok([root.taken()?, state.taken()?, logs.taken()?])
    }
}

/// Walks every step of an operation that makes or writes something; there are at least so many.
pub(crate) fn walk(operation: Operation, least: usize) -> Result<()> {
    let Some(dist) = program::dist()? else { return Ok(()) };
    block_on(async {
        let mut disks = None;
        let mut node = Node::begin(&dist, |settings, scratch| {
            "info".clone_into(&mut settings.log_level);
            disks = Some(Disks::mount(scratch));
        })?;
        let disks = disks.context("no disks")??;
        let mut walk = Walk { operation, disks, number: 0, bystander: String::new() };
        (walk.bystander, _) = node.sleeper("bystander").await?;
        // What is made once and stays.
        walk.enough(&mut node).await.context("with room")?;
        let (mut table, mut steps) = (Table::default(), 0);
        for index in 0..walk.disks.all().len() {
            for lack in [Lack::Inodes, Lack::Pages] {
                steps += walk.up_to_enough(&mut node, index, lack, &mut table).await?;
            }
        }
        ensure!(steps >= least, "it found no room {steps} times");
        if steps > 0 {
            table.publish(&program::tables(), &format!("no-room-{operation:?}"))?;
        }
        node.finish().await
    })
}

struct Walk {
    operation: Operation,
    disks: Disks,
    number: u32,
    /// A pod that has nothing to do with it.
    bystander: String,
}

impl Walk {
    /// Leaves room for nothing, then for ever more things, until nothing lacks: how often it did.
    async fn up_to_enough(
        &mut self,
        node: &mut Node,
        index: usize,
        lack: Lack,
        table: &mut Table,
    ) -> Result<usize> {
        let mut count = 0;
        for steps in 0.. {
            let what = format!("{} and {count} {lack:?}", self.disks.all()[index].path().display());
            let took = self.with(node, index, lack, count).await.with_context(|| what)?;
            let name = ["root", "state", "logs"][index];
            let Some(took) = took else { return Ok(steps) };
            table.enter(&format!("{name}: {count} {lack:?}"), Act::Full, took);
            // A pull fills thousands of pages.
            count += if self.operation == Operation::Pull { 1 + count / 4 } else { 1 };
        }
        bail!("there is never enough")
    }

    /// With so much room. How long it took to go on once there was enough; `None`: it was enough.
    async fn with(
        &mut self,
        node: &mut Node,
        index: usize,
        lack: Lack,
        count: u64,
    ) -> Result<Option<Duration>> {
        let taken = self.disks.taken()?;
        let before = self.prepare(node).await?;
        let from = node.daemon.log_text().len();
        let disk = self.disks.all()[index];
        disk.leave(lack, count)?;
        let answer = self.call(node, &before).await;
        if node.daemon.pid().is_some() {
            agrees(node).await.context("while there is no room")?;
        }
        let lacked = lacked(node, from, &answer, disk.path())?;
        disk.widen()?;
        let begun = Instant::now();
        if node.daemon.pid().is_none() {
            node.launch().context("start with room again")?;
        }
        self.go_on(node, &before, answer.is_ok()).await?;
        let took = begun.elapsed();
        agrees(node).await.context("after it was asked again")?;
        disk.leave(lack, 0)?;
        self.clear(node).await.context("removed without room")?;
        disk.widen()?;
        self.is_as_before(taken)?;
        Ok(lacked.then_some(took))
    }

    async fn enough(&mut self, node: &mut Node) -> Result<()> {
        let before = self.prepare(node).await?;
        self.call(node, &before).await.map_err(|status| anyhow!("{status:?}"))?;
        self.go_on(node, &before, true).await?;
        self.clear(node).await
    }

    /// As kubelet, who does not ask again for what it has been given.
    async fn go_on(&self, node: &Node, before: &Before, done: bool) -> Result<()> {
        if done && matches!(self.operation, Operation::RunPod | Operation::Create) {
            return Ok(());
        }
        self.operation.again(node, before).await.context("asked again")
    }

    async fn prepare(&mut self, node: &Node) -> Result<Before> {
        self.number += 1;
        self.operation.prepare(node, &format!("walk{}", self.number)).await
    }

    /// The daemon's start has no answer but whether it comes.
    async fn call(&self, node: &mut Node, before: &Before) -> Result<(), Status> {
        if self.operation != Operation::Recover {
            return self.operation.call(&node.cri, before).await;
        }
        let failed = |error: anyhow::Error| Status::unavailable(format!("{error:#}"));
        node.daemon.kill9().map_err(failed)?;
        node.launch().map_err(failed)
    }

    /// All pods but the bystander, and as kubelet their logs.
    async fn clear(&self, node: &Node) -> Result<()> {
        for pod in node.cri.pods(None).await? {
            if pod.id != self.bystander {
                node.cri.stop_pod(&pod.id).await.context("StopPodSandbox")?;
                node.cri.remove_pod(&pod.id).await.context("RemovePodSandbox")?;
            }
        }
        for entry in std::fs::read_dir(self.disks.logs.path())? {
            let path = entry?.path();
            if !path.to_string_lossy().contains("bystander") {
                std::fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }

    /// In inodes: a layer's directory may take another page than it did. The kernel lets go of a directory
    /// that somebody has watched some time after he has ended that, and tells nobody.
    fn is_as_before(&self, before: [Taken; 3]) -> Result<()> {
        let names = self.disks.all().map(|disk| disk.path().display().to_string());
        let inodes = |taken: [Taken; 3]| taken.map(|it| it.inodes);
        let deadline = Instant::now() + PATIENCE;
        let mut now = self.disks.taken()?;
        while inodes(now) != inodes(before) && Instant::now() < deadline {
            std::thread::yield_now();
            now = self.disks.taken()?;
        }
        ensure!(
            inodes(now) == inodes(before),
            "{names:?}: {before:?} became {now:?}: {:#?}",
            self.disks.all().map(|disk| test_support::leaks::tree(disk.path()))
        );
        Ok(())
    }
}

/// Whether something found no room. An error is for that reason alone, and says where.
fn lacked(node: &Node, from: usize, answer: &Result<(), Status>, disk: &Path) -> Result<bool> {
    let log = node.daemon.log_text();
    let log = log.get(from..).unwrap_or_default();
    match answer {
        Ok(()) => Ok(log.contains(NO_ROOM)),
        Err(status) => {
            let told = status.message();
            ensure!(told.contains(NO_ROOM), "{told}");
            let place = disk.display().to_string();
            // A layer's, or the path in the container's own root.
            let elsewhere = told.contains("sha256:") || told.contains(": mount at /");
            ensure!(told.contains(&place) || elsewhere, "{told} does not say where");
            Ok(true)
        }
    }
}
