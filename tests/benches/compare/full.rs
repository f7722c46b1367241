//! A node with many pods of which none does anything: what it holds, what it costs while nobody
//! asks, what a kubelet that looks every second is answered, and a restart.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::bench::{Sheet, millis};

use crate::subject::{Role, Subject};
use crate::{Plan, Section};

/// Until what is new has been looked at by whoever looks at it in the background.
const SETTLES: Duration = Duration::from_secs(15);
/// Nobody asks for so long.
const IDLE: Duration = Duration::from_secs(30);
/// Then somebody asks once a second, so many times.
const RELISTS: u8 = 20;
const OFTEN: Duration = Duration::from_secs(1);

/// Fills the nodes up to each number of pods in turn and measures there.
pub(crate) async fn measure(
    subjects: &mut [Subject],
    sheet: &mut Sheet,
    plan: &Plan,
) -> Result<()> {
    for &pods in &plan.pods {
        for subject in &mut *subjects {
            fill(subject, pods)
                .await
                .with_context(|| format!("{pods} pods of {}", subject.name))?;
        }
        tokio::time::sleep(SETTLES).await;
        let mut note = |section: Section, subject: &Subject, quantity, value| {
            sheet.note_at(section.name(), quantity, Some(pods), &subject.name, value);
        };
        if plan.wants(Section::Memory) {
            memory(subjects, pods, &mut note)?;
            idle(subjects, &mut note).await?;
        }
        if plan.wants(Section::List) {
            relist(subjects, pods, &mut note).await?;
        }
    }
    if plan.wants(Section::Restart) {
        restarts(subjects, sheet, plan).await;
    }
    for subject in &mut *subjects {
        subject.cri.remove_everything().await?;
    }
    Ok(())
}

async fn fill(subject: &mut Subject, pods: usize) -> Result<()> {
    let there = subject.cri.pods(None).await?.len();
    for _ in there..pods {
        let pod = subject.pod();
        subject.run(&pod).await?;
    }
    Ok(())
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::MAX, f64::from)
}

type Note<'a> = dyn FnMut(Section, &Subject, &'static str, f64) + 'a;

fn memory(subjects: &[Subject], pods: usize, note: &mut Note<'_>) -> Result<()> {
    for subject in subjects.iter().filter(|subject| subject.has_account()) {
        let mut note = |quantity, value| note(Section::Memory, subject, quantity, value);
        let (daemon, _) = subject.memory(&[Role::Daemon])?;
        note("daemon, MiB", daemon / 1024.0);
        let (supervisors, processes) = subject.memory(&[Role::Supervisor])?;
        note("supervisors, KiB a pod", supervisors / count(pods));
        let (others, helpers) = subject.memory(&[Role::Pause, Role::Helper])?;
        note("supervisors, pause and helpers, KiB a pod", (supervisors + others) / count(pods));
        note(
            "processes beside the containers' own, a pod",
            count(processes + helpers) / count(pods),
        );
        let total = (daemon + supervisors + others) / 1024.0;
        note("everything but the containers, MiB", total);
    }
    Ok(())
}

/// All at the same time: each is measured by its own account.
async fn idle(subjects: &[Subject], note: &mut Note<'_>) -> Result<()> {
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
            note(Section::Memory, subject, "wake-ups of all supervisors, per second", wakes);
        }
    }
    Ok(())
}

/// What a kubelet asks each second, of each subject in turn.
async fn relist(subjects: &[Subject], pods: usize, note: &mut Note<'_>) -> Result<()> {
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

async fn restarts(subjects: &mut [Subject], sheet: &mut Sheet, plan: &Plan) {
    let pods = plan.pods.last().copied();
    let section = Section::Restart.name();
    for _ in 0..plan.few() {
        for subject in &mut *subjects {
            match subject.restart().await {
                Ok(took) => {
                    let quantity = "kill -9 to a correct list, ms";
                    sheet.note_at(section, quantity, pods, &subject.name, millis(took));
                }
                Err(error) => sheet.failed(section, &subject.name, &format!("{error:#}")),
            }
        }
    }
}
