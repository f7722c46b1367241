//! `cargo xtask bench pods|exec|list|memory|restart|logs`: knarr and others side by side. All run
//! on scratch roots with the same images, registry, network and seccomp default, and are driven by
//! the same client by turns, in one run. Prints what it measured; failures are shown and counted,
//! and those of knarr are an error.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports")]
#![allow(clippy::large_futures, reason = "a program has the stack to itself")]

mod calls;
mod exec;
mod full;
mod logs;
mod pods;
mod rounds;
mod subject;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use test_support::bench::{self, Sheet};
use test_support::noise::Noise;
use tokio::time::timeout;

use rounds::{alternate, clear};
use subject::Subject;

/// For removing what pods are left, one after the other.
const FINISHING: Duration = Duration::from_secs(300);

/// What there is to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Pods,
    Exec,
    Memory,
    List,
    Restart,
    Logs,
}

impl Section {
    const ALL: [Self; 6] =
        [Self::Pods, Self::Exec, Self::Memory, Self::List, Self::Restart, Self::Logs];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Exec => "exec",
            Self::Memory => "memory",
            Self::List => "list",
            Self::Restart => "restart",
            Self::Logs => "logs",
        }
    }
}

/// What was asked for.
pub(crate) struct Plan {
    sections: Vec<Section>,
    against: Vec<String>,
    runs: usize,
    /// Numbers of pods to measure a full node at, rising.
    pub(crate) pods: Vec<usize>,
    /// The most that others are filled with.
    pub(crate) peer_pods: usize,
    /// What one container writes to its log; fifty write a quarter of it together.
    megabytes: u64,
}

impl Plan {
    fn from_environment() -> Result<Self> {
        let section = |name: String| {
            let known = Section::ALL.into_iter().find(|section| section.name() == name);
            known.with_context(|| format!("nothing is called `{name}`"))
        };
        let sections = bench::words("KNARR_BENCH_SECTIONS").into_iter().map(section);
        let pods = bench::words("KNARR_BENCH_PODS").into_iter().map(|word| word.parse());
        let mut pods: Vec<usize> = pods.collect::<Result<_, _>>().context("KNARR_BENCH_PODS")?;
        pods.sort_unstable();
        if pods.is_empty() {
            pods = vec![10, 100];
        }
        let peer_pods = bench::number("KNARR_BENCH_PEER_PODS", 100);
        Ok(Self {
            sections: sections.collect::<Result<_>>()?,
            against: bench::words("KNARR_BENCH_AGAINST"),
            runs: bench::runs(20),
            pods,
            peer_pods,
            megabytes: u64::try_from(bench::number("KNARR_BENCH_MEGABYTES", 1024))?,
        })
    }

    pub(crate) fn wants(&self, section: Section) -> bool {
        self.sections.contains(&section)
    }

    /// Those asked for that want a full node.
    pub(crate) fn full(&self) -> impl Iterator<Item = Section> {
        let sections = [Section::Memory, Section::List, Section::Restart];
        sections.into_iter().filter(|section| self.wants(*section))
    }

    /// With how many pods a restart is measured: as many as everybody may have.
    pub(crate) fn restart_at(&self) -> Option<usize> {
        self.pods.iter().copied().filter(|pods| *pods <= self.peer_pods).max()
    }

    /// How often that is measured which takes seconds.
    pub(crate) fn few(&self) -> usize {
        (self.runs / 4).max(1)
    }
}

fn main() -> Result<()> {
    bench::main(async |dist| {
        let plan = Plan::from_environment()?;
        let mut sheet = Sheet::default();
        let noise = Noise::begin()?;
        let mut subjects = begin(dist, &plan, &mut sheet).await?;
        compare(&mut subjects, &mut sheet, &plan).await;
        let ours = subjects.iter().map(|subject| subject.consumed().map(|c| c.cpu_seconds));
        // A daemon that has died does not say what it has used.
        if let Ok(ours) = ours.collect::<Result<Vec<_>>>() {
            let others = noise.share_of_others(ours.iter().sum())?;
            sheet.note("machine", "taken by others, % of it", "", others);
        }
        let section = plan.sections.last().context("nothing is to be measured")?.name();
        for subject in subjects {
            let name = subject.name.clone();
            let finished = timeout(FINISHING, subject.finish()).await;
            if let Err(error) = finished.context("it does not end").flatten() {
                sheet.failed(section, &name, &format!("clearing away: {error:#}"));
            }
        }
        sheet.print();
        ensure!(sheet.failures_of("knarr") == 0, "knarr failed");
        Ok(())
    })
}

/// A peer that does not begin is said to have failed, and knarr is measured without it.
async fn begin(dist: &Path, plan: &Plan, sheet: &mut Sheet) -> Result<Vec<Subject>> {
    let mut subjects = vec![ready(Subject::knarr(dist)?).await?];
    for name in &plan.against {
        let begun = async { ready(Subject::peer(name).await?).await };
        match begun.await {
            Ok(subject) => subjects.push(subject),
            Err(error) => plan.sections.iter().for_each(|section| {
                sheet.failed(section.name(), name, &format!("it does not begin: {error:#}"));
            }),
        }
    }
    Ok(subjects)
}

async fn ready(subject: Subject) -> Result<Subject> {
    println!("version\t{}\t{}", subject.name, subject.version().await.context("Version")?);
    let pulled = subject.cri.pull(&subject.image).await;
    pulled.with_context(|| format!("pull {}", subject.image))?;
    Ok(subject)
}

async fn compare(subjects: &mut [Subject], sheet: &mut Sheet, plan: &Plan) {
    if plan.wants(Section::Pods) {
        alternate(subjects, sheet, Section::Pods, plan.runs, pods::alone).await;
        alternate(subjects, sheet, Section::Pods, plan.few(), pods::at_once).await;
        alternate(subjects, sheet, Section::Pods, plan.few(), pods::throughput).await;
        alternate(subjects, sheet, Section::Pods, 2, calls::of_a_life).await;
    }
    if plan.wants(Section::Exec) {
        alternate(subjects, sheet, Section::Exec, plan.runs, exec::probes).await;
        alternate(subjects, sheet, Section::Exec, plan.few(), exec::storm).await;
        for subject in subjects.iter_mut().filter(|subject| !subject.is_out) {
            clear(subject, sheet, Section::Exec).await;
        }
    }
    if plan.wants(Section::Logs) {
        let (megabytes, rounds) = (plan.megabytes, plan.few().min(3));
        let one = async |subject: &mut Subject| logs::one(subject, megabytes).await;
        alternate(subjects, sheet, Section::Logs, rounds, one).await;
        let many = async |subject: &mut Subject| logs::many(subject, megabytes / 4).await;
        alternate(subjects, sheet, Section::Logs, rounds, many).await;
    }
    if plan.full().next().is_some() {
        full::measure(subjects, sheet, plan).await;
    }
}
