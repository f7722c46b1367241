//! A node with many pods of which none does anything: what it holds, what it costs while nobody
//! asks, what a kubelet that looks every second is answered, and a restart.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cri_api::v1;
use futures_util::future::join_all;
use test_support::bench::{Sheet, millis};
use test_support::pods::PodBuilder;

use crate::subject::{Role, Subject};
use crate::{Plan, Section};

/// Until what is new has been looked at by whoever looks at it in the background.
const SETTLES: Duration = Duration::from_secs(8);
/// Nobody asks for so long.
const IDLE: Duration = Duration::from_secs(20);
/// Then somebody asks once a second, so many times.
const RELISTS: u8 = 15;
const OFTEN: Duration = Duration::from_secs(1);

/// Pods that are asked for at a time.
const FILLERS: usize = 8;

/// Fills the nodes up to each number of pods in turn and measures there. Others stay out of it
/// beyond the number that was set for them, and from where they fail.
pub(crate) async fn measure(
    subjects: &mut [Subject],
    sheet: &mut Sheet,
    plan: &Plan,
) -> Result<()> {
    let mut dropped_out = Vec::new();
    for &pods in &plan.pods {
        let mut here: Vec<&mut Subject> = Vec::new();
        for subject in &mut *subjects {
            let ours = subject.is_knarr();
            if dropped_out.contains(&subject.name) || (!ours && pods > plan.peer_pods) {
                continue;
            }
            match fill(subject, pods).await {
                Ok(()) => here.push(subject),
                Err(error) => {
                    let error = error.context(format!("{pods} pods"));
                    plan.full().for_each(|section| {
                        sheet.failed(section.name(), &subject.name, &format!("{error:#}"));
                    });
                    dropped_out.push(subject.name.clone());
                }
            }
        }
        at(&mut here, pods, sheet, plan).await?;
        if plan.restart_at() == Some(pods) && plan.wants(Section::Restart) {
            restarts(&mut here, pods, sheet, plan).await;
        }
    }
    for subject in &mut *subjects {
        if let Err(error) = subject.empty().await {
            sheet.failed("memory", &subject.name, &format!("{error:#}"));
        }
    }
    Ok(())
}

async fn at(here: &mut [&mut Subject], pods: usize, sheet: &mut Sheet, plan: &Plan) -> Result<()> {
    let subjects: Vec<&Subject> = here.iter().map(|subject| &**subject).collect();
    let mut note = |section: Section, subject: &Subject, quantity, value| {
        sheet.note_at(section.name(), quantity, Some(pods), &subject.name, value);
    };
    if plan.wants(Section::Memory) {
        tokio::time::sleep(SETTLES).await;
        memory(&subjects, pods, &mut note)?;
        idle(&subjects, &mut note).await?;
    }
    if plan.wants(Section::List) {
        relist(&subjects, pods, &mut note).await?;
    }
    Ok(())
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

type Note<'a> = dyn FnMut(Section, &Subject, &'static str, f64) + 'a;

fn memory(subjects: &[&Subject], pods: usize, note: &mut Note<'_>) -> Result<()> {
    for subject in subjects.iter().filter(|subject| subject.has_account()) {
        let mut note = |quantity, value| note(Section::Memory, subject, quantity, value);
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
    }
    Ok(())
}

/// All at the same time: each is measured by its own account.
async fn idle(subjects: &[&Subject], note: &mut Note<'_>) -> Result<()> {
    let look = || -> Result<Vec<(f64, f64)>> {
        let each = subjects.iter().map(|subject| {
            Ok((subject.consumed()?.cpu_seconds, subject.sleeps(Role::Supervisor)?))
        });
        each.collect()
    };
    let (before, begun) = (look()?, Instant::now());
    tokio::time::sleep(IDLE).await;
    let (after, seconds) = (look()?, begun.elapsed().as_secs_f64());
    for ((subject, before), after) in subjects.iter().zip(before).zip(after) {
        if subject.has_account() {
            let cpu = (after.0 - before.0) * 100.0 / seconds;
            note(Section::Memory, subject, "idle, % of a core", cpu);
            let wakes = (after.1 - before.1) / seconds;
            note(Section::Memory, subject, "wake-ups of all supervisors, a second", wakes);
        }
    }
    Ok(())
}

/// What a kubelet asks each second, of each subject in turn.
async fn relist(subjects: &[&Subject], pods: usize, note: &mut Note<'_>) -> Result<()> {
    for subject in subjects {
        // The first answer fills caches.
        look(subject, pods).await?;
    }
    let mut second = tokio::time::interval(OFTEN);
    let mut used = vec![0.0; subjects.len()];
    let begun = Instant::now();
    for _ in 0..RELISTS {
        second.tick().await;
        for (subject, used) in subjects.iter().zip(&mut used) {
            let before = subject.consumed()?.cpu_seconds;
            for (quantity, value) in look(subject, pods).await? {
                note(Section::List, subject, quantity, value);
            }
            *used += subject.consumed()?.cpu_seconds - before;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    for (subject, used) in subjects.iter().zip(used) {
        if subject.has_account() {
            let share = used * 100.0 / seconds;
            note(Section::List, subject, "answering once a second, % of a core", share);
        }
    }
    Ok(())
}

async fn look(subject: &Subject, pods: usize) -> Result<Vec<(&'static str, f64)>> {
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
    let section = Section::Restart.name();
    for number in 0..=plan.few() {
        for subject in &mut *here {
            match subject.restart().await {
                Ok(took) if number > 0 => {
                    let quantity = "kill -9 to a correct list, ms";
                    sheet.note_at(section, quantity, Some(pods), &subject.name, millis(took));
                }
                Ok(_warm_up) => {}
                Err(error) => sheet.failed(section, &subject.name, &format!("{error:#}")),
            }
        }
    }
}
