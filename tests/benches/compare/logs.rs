//! Containers that write as fast as they can, until every line is in its log.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use futures_util::future::try_join_all;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::rounds::Measured;
use crate::subject::{AGAIN, Subject};

const PATIENCE: Duration = Duration::from_secs(300);
/// Long enough not to be seen in the result, often enough not to prolong it.
const LOOKS: Duration = Duration::from_millis(10);
/// Bytes of a line, with its end.
const LINE: u64 = 100;
/// Lines of the file that a container copies to its output again and again.
const LINES: u64 = 10_000;

/// How many write, in how many pods, and how often each writes all [`LINES`].
struct Load {
    pods: usize,
    containers: usize,
    times: u64,
}

/// One container that writes much.
pub(crate) async fn one(subject: &mut Subject, megabytes: u64) -> Result<Measured> {
    let load = Load { pods: 1, containers: 1, times: (megabytes << 20) / (LINE * LINES) };
    let [rate, cpu] = write_all(subject, &load).await?;
    let mut measured = vec![("one writes, MiB/s", rate)];
    if subject.has_account() {
        measured.push(("one writes, processor ms a MiB", cpu));
    }
    Ok(measured)
}

/// Fifty containers that write some.
pub(crate) async fn many(subject: &mut Subject, megabytes: u64) -> Result<Measured> {
    let times = ((megabytes << 20) / (50 * LINE * LINES)).max(1);
    let load = Load { pods: 10, containers: 5, times };
    let [rate, cpu] = write_all(subject, &load).await?;
    let mut measured = vec![("50 write, MiB/s", rate)];
    if subject.has_account() {
        measured.push(("50 write, processor ms a MiB", cpu));
    }
    Ok(measured)
}

/// MiB per second, and milliseconds of the processor for one.
async fn write_all(subject: &mut Subject, load: &Load) -> Result<[f64; 2]> {
    let shared = subject.dir("writers")?;
    let line = format!("{}\n", "x".repeat(99));
    fs::write(shared.join("lines"), line.repeat(10_000)).context("lines")?;
    let mut writers = Vec::new();
    let mut pods = Vec::new();
    for _ in 0..load.pods {
        let pod = subject.pod();
        let pod_id = subject.cri.run_pod(&pod).await.context("RunPodSandbox")?;
        for number in 0..load.containers {
            let name = format!("w{number}");
            let gate = shared.join(format!("{}-{name}", pod.config.hostname));
            make_fifo(&gate)?;
            let script = format!(
                "cat /gate/{}-{name}; for i in $(seq {}); do set -- \"$@\" /gate/lines; done; exec cat \"$@\"",
                pod.config.hostname, load.times
            );
            let container = pod.container(&name, &subject.image).script(&script);
            let container = container.mount(&shared, "/gate", true);
            let id = subject.cri.create(&pod_id, &pod, &container).await?;
            subject.cri.start(&id).await.context("StartContainer")?;
            writers.push((id, gate));
        }
        pods.push(pod_id);
    }
    let mut gates = Vec::new();
    for (_, gate) in &writers {
        gates.push(reader_of(gate).await?);
    }
    let before = subject.consumed()?.cpu_seconds;
    let begun = Instant::now();
    // Each `cat` sees the end of its gate.
    drop(gates);
    let lines = load.times * LINES;
    let subject = &*subject;
    try_join_all(writers.iter().map(|(id, _)| ended_with(subject, id, lines))).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = subject.consumed()?.cpu_seconds - before;
    for pod_id in pods {
        subject.end(&pod_id).await?;
    }
    fs::remove_dir_all(&shared).context("remove the gates")?;
    let mib = u32::try_from((lines * LINE * writers.len() as u64) >> 10).map(f64::from)? / 1024.0;
    Ok([mib / seconds, cpu * 1000.0 / mib])
}

fn make_fifo(path: &Path) -> Result<()> {
    rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .with_context(|| path.display().to_string())
}

/// The writing end, once somebody reads.
async fn reader_of(gate: &Path) -> Result<File> {
    let begun = Instant::now();
    loop {
        match rustix::fs::open(
            gate,
            OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(file) => return Ok(file.into()),
            Err(Errno::NXIO) => {}
            Err(error) => return Err(error).with_context(|| gate.display().to_string()),
        }
        ensure!(begun.elapsed() < PATIENCE, "nobody reads {}", gate.display());
        tokio::time::sleep(AGAIN).await;
    }
}

/// Waits for the end of the container; all its lines must be in its log then.
async fn ended_with(subject: &Subject, id: &str, lines: u64) -> Result<()> {
    let begun = Instant::now();
    let status = loop {
        let status = subject.cri.container(id).await?;
        if status.state() == v1::ContainerState::ContainerExited {
            break status;
        }
        ensure!(begun.elapsed() < PATIENCE, "a container does not end");
        tokio::time::sleep(LOOKS).await;
    };
    ensure!(status.exit_code == 0, "{status:?}");
    let path = PathBuf::from(&status.log_path);
    let found = tokio::task::spawn_blocking(move || lines_of(&path)).await??;
    ensure!(found == lines, "{found} of {lines} lines are in the log");
    Ok(())
}

fn lines_of(path: &Path) -> Result<u64> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let mut buffer = vec![0; 1 << 20];
    let mut lines = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(lines);
        }
        let ends = buffer.iter().take(count).filter(|byte| **byte == b'\n').count();
        lines += u64::try_from(ends)?;
    }
}
