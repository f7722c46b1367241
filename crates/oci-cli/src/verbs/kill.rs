//! `kill`

use std::os::fd::AsFd;

use launch::Options;
use launch::plan::CgroupPlan;
use model::Signal;

use super::Context;
use crate::args::KillArgs;
use crate::container::{Container, Record};
use crate::error::{At as _, OciError};
use crate::launching::{self, Host};

pub(crate) fn run(cx: &Context<'_>, args: &KillArgs) -> Result<(), OciError> {
    let signal = Signal::parse(&args.signal).map_err(|_| OciError::BadOption {
        option: "signal",
        value: args.signal.clone(),
        want: "a name such as SIGTERM or a number from 1 to 64",
    })?;
    let container = cx.store.open(&args.id)?;
    let record = container.record()?;
    if args.all {
        let cgroup = Host::look()?.cgroup(&container.spec()?, &record)?;
        return all(&container, &cgroup, signal);
    }
    // A process that has ended is not there for signals, whatever it has left.
    let init = record.init.and_then(|init| init.open());
    let init = init.ok_or_else(|| OciError::NotRunning { id: args.id.clone() })?;
    sys::pidfd::signal(init.as_fd(), signal.number()).step("send the signal")?;
    if signal == Signal::KILL {
        others(&container, &record)?;
    }
    Ok(())
}

/// In a PID namespace of its own the kernel takes the others with the first. Elsewhere they would
/// stay, and nobody would see them.
fn others(container: &Container, record: &Record) -> Result<(), OciError> {
    let host = Host::look()?;
    let spec = container.spec()?;
    let own = host.with_context(record, |context| oci_runtime::has_own_pids(&spec, context))?;
    if own {
        return Ok(());
    }
    let launcher = launching::launcher(container, Options::default())?;
    Ok(launcher.kill_all(&host.cgroup(&spec, record)?)?)
}

fn all(container: &Container, cgroup: &CgroupPlan, signal: Signal) -> Result<(), OciError> {
    let launcher = launching::launcher(container, Options::default())?;
    if signal == Signal::KILL {
        return Ok(launcher.kill_all(cgroup)?);
    }
    let handles: Vec<_> = launcher
        .pids(cgroup)?
        .into_iter()
        .filter_map(|pid| Some((pid, sys::pidfd::open(pid).ok()?)))
        .collect();
    // Read again: a number that is still there means the same process, or one that joined.
    let still = launcher.pids(cgroup)?;
    for (_, handle) in handles.iter().filter(|(pid, _)| still.contains(pid)) {
        sys::pidfd::signal(handle.as_fd(), signal.number()).step("send the signal")?;
    }
    Ok(())
}
