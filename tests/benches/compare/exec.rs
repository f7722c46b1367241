//! Probes: a short command inside a container, over and over.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use test_support::bench::millis;

use crate::rounds::Measured;
use crate::subject::Subject;

/// One after the other, for the time of one.
const IN_A_ROW: u16 = 10;
/// By several callers, for how many there can be.
const CALLERS: usize = 4;
const CALLING: Duration = Duration::from_secs(3);

/// One round in a container that is there already: there is one pod per subject.
pub(crate) async fn probes(subject: &mut Subject) -> Result<Measured> {
    let container = container(subject).await?;
    let subject = &*subject;
    let before = subject.consumed()?;
    let mut measured = Vec::new();
    for _ in 0..IN_A_ROW {
        let begun = Instant::now();
        probe(subject, &container).await?;
        measured.push(("ExecSync of `true`, ms", millis(begun.elapsed())));
    }
    if subject.has_account() {
        let cpu = subject.consumed()?.cpu_seconds - before.cpu_seconds;
        let each = cpu * 1000.0 / f64::from(IN_A_ROW);
        measured.push(("processor time of an ExecSync, ms", each));
    }
    Ok(measured)
}

/// As many as go, from several callers.
pub(crate) async fn storm(subject: &mut Subject) -> Result<Measured> {
    let container = container(subject).await?;
    let subject = &*subject;
    let done = AtomicU32::new(0);
    let begun = Instant::now();
    let caller = async || {
        while begun.elapsed() < CALLING {
            probe(subject, &container).await?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        anyhow::Ok(())
    };
    let all = join_all((0..CALLERS).map(|_| caller())).await;
    let took = begun.elapsed().as_secs_f64();
    all.into_iter().collect::<Result<()>>()?;
    let rate = f64::from(done.into_inner()) / took;
    Ok(vec![("ExecSync of `true`, 4 callers, per second", rate)])
}

async fn container(subject: &mut Subject) -> Result<String> {
    if let Some(container) = subject.cri.containers(None).await?.into_iter().next() {
        return Ok(container.id);
    }
    let pod = subject.pod();
    subject.run(&pod).await.map(|(_, id)| id)
}

async fn probe(subject: &Subject, container: &str) -> Result<()> {
    let output = subject.cri.exec(container, &["/bin/true"], 10).await.context("ExecSync")?;
    ensure!(output.code == 0, "{output:?}");
    Ok(())
}
