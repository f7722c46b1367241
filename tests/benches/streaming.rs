//! `cargo xtask bench streaming`: many exec sessions at once, idle and each moving megabytes both
//! ways, and commands by ExecSync; with knarr and with Debian's containerd through the same client,
//! by turns, in one run. Prints what it measured. A byte that is lost is counted as a failure, and
//! failures of knarr are an error.
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr, reason = "a program that reports")]
#![allow(clippy::large_futures, reason = "a program has the stack to itself")]
#![allow(clippy::cast_precision_loss, reason = "quantities are shown with two digits")]

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use streaming::Streams;
use streaming::client::{ClientProcess, Reader, Transport, Verdict, Writer};
use test_support::bench::{self, Sheet};
use test_support::containerd::{Containerd, Settings};
use test_support::cri::Cri;
use test_support::node::Node;
use test_support::pods::{ContainerBuilder, PodBuilder};
use test_support::proc;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

const PLUGINS: &str = "/usr/lib/cni";
const SECTION: &str = "streaming";
/// Sessions that are begun at a time: what is measured is holding them.
const BEGINNING: usize = 8;
/// A session that does not end by then has failed.
const PATIENCE: Duration = Duration::from_secs(600);
/// A round of containerd's is given so long: one that hangs must not hang us.
const ROUND: Duration = Duration::from_secs(900);
/// For what ends by itself after the last session.
const SETTLING: Duration = Duration::from_secs(3);
/// Commands are run one after the other, by so many callers, for so long.
const CALLERS: usize = 4;
const CALLING: Duration = Duration::from_secs(10);
const MIB: usize = 1 << 20;

/// One of those that are compared.
struct Runner {
    what: &'static str,
    cri: Cri,
    daemon: u32,
    pod: String,
    container: String,
}

impl Runner {
    async fn new(what: &'static str, cri: Cri, daemon: u32, node: &Node) -> Result<Self> {
        let image = node.image("busybox")?;
        cri.pull(&image).await.with_context(|| format!("pull with {what}"))?;
        let pod: PodBuilder = node.pod("bench");
        let container: ContainerBuilder = pod.container("main", &image).sleeper();
        let pod_id = cri.run_pod(&pod).await.with_context(|| format!("pod of {what}"))?;
        let id = cri.create(&pod_id, &pod, &container).await.context("CreateContainer")?;
        cri.start(&id).await.context("StartContainer")?;
        let runner = Self { what, cri, daemon, pod: pod_id, container: id };
        // What is made once is not a session's.
        runner.session().await?.end().await?;
        Ok(runner)
    }

    /// Proportional set sizes of the daemon and of the pod's supervisor, KiB.
    fn memory(&self) -> Result<[f64; 2]> {
        let is_shim =
            |p: &&proc::Process| p.cmdline.contains("shim") && p.cmdline.contains(&self.pod);
        let shim = proc::all().iter().find(is_shim).context("the pod has no supervisor")?.pid;
        Ok([proc::pss_kib(i32::try_from(self.daemon)?)?, proc::pss_kib(shim)?])
    }

    async fn session(&self) -> Result<Idle> {
        let request = v1::ExecRequest {
            container_id: self.container.clone(),
            cmd: vec!["cat".to_owned()],
            tty: false,
            stdin: true,
            stdout: true,
            stderr: false,
        };
        let url = self.cri.runtime.clone().exec(request).await?.into_inner().url;
        let streams = Streams::new(true, true, false, false)?;
        let mut process = ClientProcess::connect(&url, Transport::Spdy, streams).await?;
        let moving = std::mem::replace(&mut process.driver, Box::pin(std::future::ready(())));
        let mut idle = Idle {
            stdin: process.stdin.take().context("no stdin")?,
            stdout: process.stdout.take().context("no stdout")?,
            process,
            driver: tokio::spawn(moving),
        };
        idle.stdin.write_all(b"x").await?;
        ensure!(idle.stdout.next().await.as_deref() == Some(b"x"), "the session does not work");
        Ok(idle)
    }

    async fn round(&self, sheet: &mut Sheet, sessions: usize, megabytes: usize) -> Result<()> {
        let mut note = |quantity, value| sheet.note(SECTION, quantity, self.what, value);
        let before = self.memory()?;
        let begun = Instant::now();
        let all = self.begin(sessions).await?;
        let begin = begun.elapsed();
        tokio::time::sleep(SETTLING).await;
        let holding = self.memory()?;
        let (moving, failures) = soak(all, megabytes).await;
        tokio::time::sleep(SETTLING).await;
        let after = self.memory()?;
        let per = |after: f64, before: f64| (after - before) / sessions as f64;
        note("begin a session, ms", begin.as_secs_f64() * 1000.0 / sessions as f64);
        note("daemon a session, KiB", per(holding[0], before[0]));
        note("shim a session, KiB", per(holding[1], before[1]));
        let moved = (sessions * megabytes) as f64;
        note("throughput, MiB/s each way", moved / moving.as_secs_f64());
        note("sessions that failed, number", failures.len() as f64);
        note("daemon more after the last, KiB", after[0] - before[0]);
        note("shim more after the last, KiB", after[1] - before[1]);
        let rate = self.commands().await?;
        note("ExecSync, 4 callers, per second", rate);
        failures.iter().for_each(|why| sheet.failed(SECTION, self.what, why));
        Ok(())
    }

    async fn begin(&self, sessions: usize) -> Result<Vec<Idle>> {
        let places = Semaphore::new(BEGINNING);
        let one = async |_number| {
            let _place = places.acquire().await?;
            self.session().await
        };
        let all = futures_util::future::join_all((0..sessions).map(one)).await;
        all.into_iter().collect()
    }

    /// Commands per second.
    async fn commands(&self) -> Result<f64> {
        let done = AtomicUsize::new(0);
        let begun = Instant::now();
        let caller = async || {
            while begun.elapsed() < CALLING {
                let output = self.cri.exec(&self.container, &["true"], 10).await?;
                ensure!(output.code == 0, "{output:?}");
                done.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        };
        let all = futures_util::future::join_all((0..CALLERS).map(|_| caller())).await;
        all.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64())
    }
}

/// A session in which nothing moves.
struct Idle {
    process: ClientProcess,
    stdin: Writer,
    stdout: Reader,
    driver: JoinHandle<()>,
}

impl Idle {
    /// Ends the input; the command must end well.
    async fn end(mut self) -> Result<()> {
        self.stdin.finish();
        while self.stdout.next().await.is_some() {}
        let verdict = self.process.end.verdict().await?;
        self.process.end.close();
        self.driver.await?;
        ensure!(verdict == Verdict::Success, "{verdict:?}");
        Ok(())
    }

    /// Sends so many bytes and sees each of them come back.
    async fn work(mut self, bytes: usize, seed: u64) -> Result<()> {
        let up = async {
            let mut pattern = Pattern::new(seed);
            let mut left = bytes;
            while left > 0 {
                let piece = pattern.take(left.min(32 * 1024));
                left -= piece.len();
                self.stdin.write_all(&piece).await?;
            }
            anyhow::Ok(())
        };
        let down = async {
            let mut pattern = Pattern::new(seed);
            let mut left = bytes;
            while left > 0 {
                let got = self.stdout.next().await.context("the output ends too early")?;
                ensure!(got == pattern.take(got.len()), "another byte than was sent");
                left = left.checked_sub(got.len()).context("more than was sent")?;
            }
            anyhow::Ok(())
        };
        let (up, down) = tokio::join!(up, down);
        up.and(down)?;
        self.end().await
    }
}

/// Bytes in which one that is lost, doubled or moved shows.
struct Pattern(u64);

impl Pattern {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        for _ in 0..length {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.push(self.0.to_le_bytes()[0]);
        }
        bytes
    }
}

/// All sessions move their bytes at once: how long it took, and why some failed.
async fn soak(all: Vec<Idle>, megabytes: usize) -> (Duration, Vec<String>) {
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for (seed, session) in (1..).zip(all) {
        running.spawn(timeout(PATIENCE, session.work(megabytes * MIB, seed)));
    }
    let mut failed = Vec::new();
    while let Some(done) = running.join_next().await {
        let why = match done {
            Ok(Ok(Ok(()))) => continue,
            Ok(Ok(Err(error))) => format!("{error:#}"),
            Ok(Err(_elapsed)) => "it does not end".to_owned(),
            Err(panicked) => panicked.to_string(),
        };
        failed.push(why);
    }
    (begun.elapsed(), failed)
}

fn main() -> Result<()> {
    bench::main(compare)
}

async fn compare(dist: &Path) -> Result<()> {
    let sessions = bench::number("KNARR_BENCH_SESSIONS", 500);
    let megabytes = bench::number("KNARR_BENCH_MEGABYTES", 4);
    let mut sheet = Sheet::default();
    for _ in 0..bench::runs(1) {
        let (ours, theirs) = (Node::begin(dist, quiet)?, Node::begin(dist, quiet)?);
        let settings = Settings::new(Path::new(PLUGINS));
        let containerd = Containerd::start(&theirs.scratch, settings)?;
        let foreign = containerd.client().await?;
        let pid = ours.daemon.pid().context("no daemon")?;
        let knarr = Runner::new("knarr", ours.cri.clone(), pid, &ours).await?;
        let pid = containerd.pid().context("no containerd")?;
        let other = Runner::new("containerd", foreign.clone(), pid, &theirs).await;
        // It does not run containers everywhere; then knarr is measured alone.
        if let Err(error) = &other {
            eprintln!("{}", containerd.log_text());
            sheet.failed(SECTION, "containerd", &format!("left out: {error:#}"));
            foreign.remove_everything().await.ok();
        }
        knarr.round(&mut sheet, sessions, megabytes).await.context("knarr")?;
        knarr.cri.remove_everything().await?;
        if let Ok(other) = other {
            let round = timeout(ROUND, other.round(&mut sheet, sessions, megabytes)).await;
            if let Err(error) = round.context("the round did not end").flatten() {
                sheet.failed(SECTION, other.what, &format!("{error:#}"));
            }
            // Its pods go with its place if it does not remove them.
            if let Err(error) = other.cri.remove_everything().await {
                sheet.failed(SECTION, other.what, &format!("clearing away: {error:#}"));
            }
        }
        drop(containerd);
        ours.finish().await?;
        theirs.finish().await?;
    }
    sheet.print();
    let failures = sheet.failures_of("knarr");
    ensure!(failures == 0, "{failures} sessions of knarr failed");
    Ok(())
}

/// As in production: a log of everything would be measured with it.
fn quiet(settings: &mut test_support::daemon::Settings, _scratch: &test_support::scratch::Scratch) {
    settings.log_level = "info".to_owned();
}
