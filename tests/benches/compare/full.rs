//! A node with many pods of which none does anything: what it holds, what it costs while nobody
//! asks, what a kubelet that looks every second is answered, and a restart.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cri_api::v1;
use futures_util::future::join_all;
use test_support::bench::{Sheet, millis};
use test_support::pods::PodBuilder;
use tokio::time::timeout;

use crate::rounds::Measured;
use crate::subject::{Role, Subject};
use crate::{Plan, Section};

/// Until what is new has been looked at by whoever looks at it in the background.
const SETTLES: Duration = Duration::from_secs(8);
/// Nobody asks for so long.
const IDLE: Duration = Duration::from_secs(20);
/// Then somebody asks once a second, so many times.
const RELISTS: u8 = 15;
const OFTEN: Duration = Duration::from_secs(1);

/// For pods to come up to the next number, and for all of them to go.
const FILLING: Duration = Duration::from_secs(900);
/// Pods that are asked for at a time.
const FILLERS: usize = 8;

/// Fills the nodes up to each number of pods in turn and measures there. Others stay out of it
/// beyond the number that was set for them, and everybody from where it fails.
pub(crate) async fn measure(subjects: &mut [Subject], sheet: &mut Sheet, plan: &Plan) {
    for &pods in &plan.pods {
        let taking_part = |subject: &&mut Subject| {
            !subject.is_out && (subject.is_knarr() || pods <= plan.peer_pods)
        };
        let mut here: Vec<&mut Subject> = Vec::new();
        for subject in subjects.iter_mut().filter(taking_part) {
            let filled = timeout(FILLING, fill(subject, pods)).await;
            match filled.context("they do not come").flatten() {
                Ok(()) => here.push(subject),
                Err(error) => {
                    plan.full().for_each(|section| drop_out(subject, sheet, section, pods, &error))
                }
            }
        }
        at(&mut here, pods, sheet, plan).await;
        if plan.restart_at() == Some(pods) && plan.wants(Section::Restart) {
            restarts(&mut here, pods, sheet, plan).await;
        }
    }
    let last = plan.full().last().unwrap_or(Section::Memory);
    for subject in subjects {
        match timeout(FILLING, subject.empty()).await.context("they do not go").flatten() {
            Ok(()) => {}
            Err(error) => sheet.failed(last.name(), &subject.name, &format!("{error:#}")),
        }
    }
}

/// Nothing more is asked of a full node that did not do what it was asked for.
fn drop_out(
    subject: &mut Subject,
    sheet: &mut Sheet,
    section: Section,
    pods: usize,
    error: &anyhow::Error,
) {
    let why = format!("{pods} pods: {error:#}; left out of all that follows");
    sheet.failed(section.name(), &subject.name, &why);
    subject.is_out = true;
}

async fn at(here: &mut Vec<&mut Subject>, pods: usize, sheet: &mut Sheet, plan: &Plan) {
    if plan.wants(Section::Memory) {
        tokio::time::sleep(SETTLES).await;
        let section = Section::Memory;
        each(here, sheet, section, pods, |subject, note| memory(subject, pods, note));
        idle(here, sheet, pods).await;
    }
    if plan.wants(Section::List) {
        relist(here, sheet, pods).await;
    }
}

/// Something of everybody who takes part; who fails does so no longer.
fn each(
    here: &mut Vec<&mut Subject>,
    sheet: &mut Sheet,
    section: Section,
    pods: usize,
    measure: impl Fn(&Subject, &mut Note<'_>) -> Result<()>,
) {
    for subject in here.iter_mut() {
        let name = subject.name.clone();
        let mut note = |quantity, value| {
            sheet.note_at(section.name(), quantity, Some(pods), &name, value);
        };
        if let Err(error) = measure(subject, &mut note) {
            drop_out(subject, sheet, section, pods, &error);
        }
    }
    here.retain(|subject| !subject.is_out);
}

async fn fill(subject: &mut Subject, pods: usize) -> Result<()> {
    let there = subject.cri.pods(None).await?.len();
    let new: Vec<PodBuilder> = (there..pods).map(|_| subject.pod()).collect();
    let next = AtomicUsize::new(0);
    let subject = &*subject;
    let caller = async || {
        while let Some(pod) = new.get(next.fetch_add(1, Ordering::Relaxed)) {
            subject.run(pod).await?;
        }
        anyhow::Ok(())
    };
    let done = join_all((0..FILLERS).map(|_| caller())).await;
    done.into_iter().collect()
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::MAX, f64::from)
}

type Note<'a> = dyn FnMut(&'static str, f64) + 'a;

fn memory(subject: &Subject, pods: usize, note: &mut Note<'_>) -> Result<()> {
    if !subject.has_account() {
        return Ok(());
    }
    let daemon = subject.memory(&[Role::Daemon])?;
    note("daemon, MiB", daemon.pss_kib / 1024.0);
    note("daemon, resident, MiB", daemon.resident_kib / 1024.0);
    let supervisors = subject.memory(&[Role::Supervisor])?;
    note("supervisors, KiB a pod", supervisors.pss_kib / count(pods));
    note("supervisors, resident, KiB a pod", supervisors.resident_kib / count(pods));
    let others = subject.memory(&[Role::Pause, Role::Helper])?;
    let beside = supervisors.pss_kib + others.pss_kib;
    note("supervisors, pause and helpers, KiB a pod", beside / count(pods));
    let processes = count(supervisors.processes + others.processes);
    note("processes beside daemon and containers, a pod", processes / count(pods));
    note("everything but the containers, MiB", (daemon.pss_kib + beside) / 1024.0);
    Ok(())
}

/// All at the same time: each is measured by its own account.
async fn idle(here: &mut Vec<&mut Subject>, sheet: &mut Sheet, pods: usize) {
    let look = |subject: &Subject| {
        let cpu = subject.consumed()?.cpu_seconds;
        anyhow::Ok((cpu, subject.sleeps(Role::Supervisor)?))
    };
    let mut before = BTreeMap::new();
    for subject in here.iter_mut().filter(|subject| subject.has_account()) {
        match look(subject) {
            Ok(looked) => drop(before.insert(subject.name.clone(), looked)),
            Err(error) => drop_out(subject, sheet, Section::Memory, pods, &error),
        }
    }
    let begun = Instant::now();
    tokio::time::sleep(IDLE).await;
    each(here, sheet, Section::Memory, pods, |subject, note| {
        let Some((cpu, sleeps)) = before.get(&subject.name) else { return Ok(()) };
        let (after, seconds) = (look(subject)?, begun.elapsed().as_secs_f64());
        note("idle, % of a core", (after.0 - cpu) * 100.0 / seconds);
        note("wake-ups of all supervisors, a second", (after.1 - sleeps) / seconds);
        Ok(())
    });
}

/// What a kubelet asks each second, of each subject in turn.
async fn relist(here: &mut Vec<&mut Subject>, sheet: &mut Sheet, pods: usize) {
    let section = Section::List;
    let mut used: BTreeMap<String, f64> = BTreeMap::new();
    let mut second = tokio::time::interval(OFTEN);
    let mut begun = Instant::now();
    for number in 0..=RELISTS {
        second.tick().await;
        if number == 1 {
            // The first answer fills caches.
            begun = Instant::now();
            used.clear();
        }
        for subject in here.iter_mut() {
            match look_and_account(subject, pods).await {
                Ok((measured, cpu)) => {
                    *used.entry(subject.name.clone()).or_default() += cpu;
                    for (quantity, value) in measured.into_iter().filter(|_| number > 0) {
                        let name = &subject.name;
                        sheet.note_at(section.name(), quantity, Some(pods), name, value);
                    }
                }
                Err(error) => drop_out(subject, sheet, section, pods, &error),
            }
        }
        here.retain(|subject| !subject.is_out);
    }
    let seconds = begun.elapsed().as_secs_f64();
    for subject in here.iter().filter(|subject| subject.has_account()) {
        let share = used.get(&subject.name).copied().unwrap_or_default() * 100.0 / seconds;
        let quantity = "answering once a second, % of a core";
        sheet.note_at(section.name(), quantity, Some(pods), &subject.name, share);
    }
}

/// What it was asked, with how long each took, and the processor seconds of all of it.
async fn look_and_account(subject: &Subject, pods: usize) -> Result<(Measured, f64)> {
    let before = subject.consumed()?.cpu_seconds;
    let measured = look(subject, pods).await?;
    Ok((measured, subject.consumed()?.cpu_seconds - before))
}

async fn look(subject: &Subject, pods: usize) -> Result<Measured> {
    let runtime = || subject.cri.runtime.clone();
    let mut measured = Vec::new();
    let mut begun = Instant::now();
    let mut lap = |quantity| {
        measured.push((quantity, millis(begun.elapsed())));
        begun = Instant::now();
    };
    ensure!(subject.cri.pods(None).await?.len() == pods, "ListPodSandbox");
    lap("ListPodSandbox, ms");
    ensure!(subject.cri.containers(None).await?.len() == pods, "ListContainers");
    lap("ListContainers, ms");
    let stats = runtime().list_container_stats(v1::ListContainerStatsRequest::default()).await?;
    ensure!(stats.into_inner().stats.len() == pods, "ListContainerStats");
    lap("ListContainerStats, ms");
    let stats = runtime().list_pod_sandbox_stats(v1::ListPodSandboxStatsRequest::default()).await?;
    ensure!(stats.into_inner().stats.len() == pods, "ListPodSandboxStats");
    lap("ListPodSandboxStats, ms");
    Ok(measured)
}

async fn restarts(here: &mut [&mut Subject], pods: usize, sheet: &mut Sheet, plan: &Plan) {
    let section = Section::Restart;
    for number in 0..=plan.few() {
        for subject in here.iter_mut().filter(|subject| !subject.is_out) {
            sheet.tries(section.name(), &subject.name);
            match subject.restart().await {
                Ok(took) if number > 0 => {
                    let quantity = "kill -9 to a correct list, ms";
                    let name = &subject.name;
                    sheet.note_at(section.name(), quantity, Some(pods), name, millis(took));
                }
                Ok(_warm_up) => {}
                Err(error) => drop_out(subject, sheet, section, pods, &error),
            }
        }
    }
}
