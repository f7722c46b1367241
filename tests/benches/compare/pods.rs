//! A pod's life: alone, and many at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::future::join_all;
use test_support::bench::millis;
use test_support::pods::PodBuilder;

use crate::rounds::Measured;
use crate::subject::Subject;

const AT_ONCE: usize = 16;
/// Whole lives one after the other, by so many callers.
const CALLERS: usize = 8;
const LIVES: usize = 48;

/// One pod with one container, from nothing to nothing.
pub(crate) async fn alone(subject: &mut Subject) -> Result<Measured> {
    let pod = subject.pod();
    let container = subject.waiting(&pod);
    let before = subject.consumed()?;
    let mut clock = Clock::start();
    let pod_id = subject.cri.run_pod(&pod).await.context("RunPodSandbox")?;
    let run = clock.lap();
    let id = subject.cri.create(&pod_id, &pod, &container).await.context("CreateContainer")?;
    let create = clock.lap();
    subject.cri.start(&id).await.context("StartContainer")?;
    let start = clock.lap();
    let written = subject.consumed()?.written_mib - before.written_mib;
    clock.lap();
    subject.cri.stop(&id, 0).await.context("StopContainer")?;
    subject.cri.remove(&id).await.context("RemoveContainer")?;
    let container_gone = clock.lap();
    subject.end(&pod_id).await?;
    let pod_gone = clock.lap();
    let mut measured = vec![
        ("start of a pod, ms", run + create + start),
        ("RunPodSandbox, ms", run),
        ("CreateContainer, ms", create),
        ("StartContainer, ms", start),
        ("StopContainer and RemoveContainer, ms", container_gone),
        ("StopPodSandbox and RemovePodSandbox, ms", pod_gone),
    ];
    if subject.has_account() {
        let cpu = subject.consumed()?.cpu_seconds - before.cpu_seconds;
        measured.push(("processor time of a pod's life, ms", cpu * 1000.0));
        measured.push(("written by the daemon and the pod's supervisor, KiB", written * 1024.0));
    }
    Ok(measured)
}

/// Many pods of which each is asked for at the same moment.
pub(crate) async fn at_once(subject: &mut Subject) -> Result<Measured> {
    let pods: Vec<PodBuilder> = (0..AT_ONCE).map(|_| subject.pod()).collect();
    let begun = Instant::now();
    let one = async |pod| {
        let (pod_id, _) = subject.run(pod).await?;
        anyhow::Ok((pod_id, begun.elapsed()))
    };
    let running = join_all(pods.iter().map(one)).await;
    let all_run = begun.elapsed();
    let running: Vec<(String, Duration)> = running.into_iter().collect::<Result<_>>()?;
    let begun = Instant::now();
    let gone = join_all(running.iter().map(|(id, _)| subject.end(id))).await;
    let all_gone = begun.elapsed();
    gone.into_iter().collect::<Result<()>>()?;
    let each = running.iter().map(|(_, time)| millis(*time)).sum::<f64>() / f64::from(16_u8);
    Ok(vec![
        ("16 at once: until all run, ms", millis(all_run)),
        ("16 at once: until one runs, on average, ms", each),
        ("16 at once: until all are gone, ms", millis(all_gone)),
    ])
}

/// Pods that come and go, from several callers.
pub(crate) async fn throughput(subject: &mut Subject) -> Result<Measured> {
    let pods: Vec<PodBuilder> = (0..LIVES).map(|_| subject.pod()).collect();
    let next = AtomicUsize::new(0);
    let before = subject.consumed()?;
    let begun = Instant::now();
    let caller = async || {
        while let Some(pod) = pods.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (pod_id, _) = subject.run(pod).await?;
            subject.end(&pod_id).await?;
        }
        anyhow::Ok(())
    };
    let done = join_all((0..CALLERS).map(|_| caller())).await;
    let took = begun.elapsed().as_secs_f64();
    done.into_iter().collect::<Result<()>>()?;
    let lives = f64::from(48_u8);
    let mut measured = vec![("whole lives, 8 callers, per second", lives / took)];
    if subject.has_account() {
        let cpu = subject.consumed()?.cpu_seconds - before.cpu_seconds;
        measured.push(("processor time of a life, 8 callers, ms", cpu * 1000.0 / lives));
    }
    Ok(measured)
}

struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    /// Milliseconds since the last time it was asked.
    fn lap(&mut self) -> f64 {
        let now = Instant::now();
        millis(now.duration_since(std::mem::replace(&mut self.0, now)))
    }
}
