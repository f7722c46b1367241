//! System calls, as `strace` counts them: those of the daemon and of everything it starts.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};
use test_support::proc;

use crate::rounds::Measured;
use crate::subject::Subject;

const STRACE: &str = "/usr/bin/strace";
const LETTING_GO: Duration = Duration::from_secs(30);

/// A pod's life while somebody counts: nothing else is measured of it.
pub(crate) async fn of_a_life(subject: &mut Subject) -> Result<Measured> {
    let pod = subject.pod();
    let table = subject.dir("calls")?.join("table");
    let counting = Counting::begin(subject.daemon_pid()?, &table)?;
    let lived = async {
        let (pod_id, _) = subject.run(&pod).await?;
        subject.end(&pod_id).await
    };
    let lived = lived.await;
    let calls = counting.end(&table)?;
    lived?;
    Ok(vec![("system calls of a pod's life, number", calls)])
}

/// A running `strace`; it lets go of those it watches when dropped.
struct Counting(Option<Child>);

impl Counting {
    /// Of a process, its threads and its children to be.
    fn begin(pid: u32, table: &Path) -> Result<Self> {
        let mut strace = Command::new(STRACE)
            .args(["-f", "-c", "-o"])
            .arg(table)
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("start strace")?;
        let said = strace.stderr.take().context("strace has no stderr")?;
        let counting = Self(Some(strace));
        let mut said = BufReader::new(said);
        let mut line = String::new();
        said.read_line(&mut line).context("what strace says")?;
        ensure!(line.contains("attached"), "strace: {line}");
        // It names every child; a full pipe would stop it.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Ok(counting)
    }

    /// How many calls there were, by its table.
    fn end(mut self, table: &Path) -> Result<f64> {
        let child = self.0.take().context("strace has ended")?;
        interrupt(child)?;
        let text = std::fs::read_to_string(table).context("strace's table")?;
        total(&text).with_context(|| format!("no total: {text}"))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if let Some(child) = self.0.take() {
            interrupt(child).ok();
        }
    }
}

fn interrupt(mut child: Child) -> Result<()> {
    let pid = Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::INT).context("end strace")?;
    if !proc::ended_within(pid.as_raw_nonzero().get(), LETTING_GO)? {
        child.kill().context("kill strace")?;
        child.wait().context("wait for strace")?;
        bail!("strace does not let go of those that it counts");
    }
    child.wait().context("wait for strace")?;
    Ok(())
}

/// Column `calls` of the line `total`.
fn total(table: &str) -> Option<f64> {
    let line = table.lines().rev().find(|line| line.ends_with("total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}
