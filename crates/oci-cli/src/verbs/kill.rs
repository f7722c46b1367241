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
    let signal = signal_of(&args.signal)?;
    let container = cx.store.open(&args.id)?;
    let record = container.record()?;
    if args.all {
        let cgroup = Host::look()?.cgroup(&container.spec()?, &record)?;
        return all(&container, &cgroup, signal);
    }
    let init = record.init.and_then(|init| init.open());
    let Some(init) = init else {
        // A process that has ended is not there for signals. What it has left in a PID namespace that
        // is not its own can only be ended.
        if signal == Some(Signal::KILL) && others(&container, &record)? {
            return Ok(());
        }
        return Err(OciError::NotRunning { id: args.id.clone() });
    };
    let number = signal.map_or(0, Signal::number);
    sys::pidfd::signal(init.as_fd(), number).step("send the signal")?;
    if signal == Some(Signal::KILL) {
        others(&container, &record)?;
        thaw(&container, &record)?;
    }
    Ok(())
}

/// With cgroup v1 nobody dies in a frozen group before it is thawed.
fn thaw(container: &Container, record: &Record) -> Result<(), OciError> {
    let cgroup = Host::look()?.cgroup(&container.spec()?, record)?;
    let launcher = launching::launcher(container, Options::default())?;
    // Without a freezer, or a group, nobody is frozen; with the last process the group may go.
    let is_frozen = || launcher.is_frozen(&cgroup).unwrap_or_default();
    if is_frozen()
        && let Err(error) = launcher.set_frozen(&cgroup, false)
        && is_frozen()
    {
        return Err(error.into());
    }
    Ok(())
}

/// `None`: 0, which is no signal and only asks whether there is somebody to get one.
fn signal_of(text: &str) -> Result<Option<Signal>, OciError> {
    if text == "0" {
        return Ok(None);
    }
    Signal::parse(text).map(Some).map_err(|_| OciError::BadOption {
        option: "signal",
        value: text.to_owned(),
        want: "a name such as SIGTERM or a number from 0 to 64",
    })
}

/// In a PID namespace of its own the kernel takes the others with the first. Elsewhere they would
/// stay, and nobody would see them. Says whether there were any.
fn others(container: &Container, record: &Record) -> Result<bool, OciError> {
    let host = Host::look()?;
    let spec = container.spec()?;
    let own = host.with_context(record, |context| oci_runtime::has_own_pids(&spec, context))?;
    if own {
        return Ok(false);
    }
    let launcher = launching::launcher(container, Options::default())?;
    let cgroup = host.cgroup(&spec, record)?;
    // Without a cgroup there is nobody in it.
    let some = launcher.pids(&cgroup).is_ok_and(|pids| !pids.is_empty());
    launcher.kill_all(&cgroup)?;
    Ok(some)
}

fn all(container: &Container, cgroup: &CgroupPlan, signal: Option<Signal>) -> Result<(), OciError> {
    let launcher = launching::launcher(container, Options::default())?;
    if signal == Some(Signal::KILL) {
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
        let number = signal.map_or(0, Signal::number);
        sys::pidfd::signal(handle.as_fd(), number).step("send the signal")?;
    }
    Ok(())
}
