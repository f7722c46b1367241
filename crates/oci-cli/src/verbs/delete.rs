//! `delete`: processes, cgroups and record go; each step can be run again.

use std::os::fd::AsFd;
use std::time::Duration;

use launch::{Launcher, Options};
use oci_spec::runtime::Spec;

use super::Context;
use crate::args::DeleteArgs;
use crate::container::{Container, Lock, Record, Status};
use crate::error::{At as _, OciError};
use crate::launching::{self, Host};
use crate::scope;

/// How long a killed process may take to end: one that waits for a disk takes its time.
const DIES_WITHIN: Duration = Duration::from_secs(10);

pub(crate) fn run(cx: &Context<'_>, args: &DeleteArgs) -> Result<(), OciError> {
    // All are tried; the first failure is the answer.
    args.ids.iter().map(|id| one(cx, id, args.force)).fold(Ok(()), Result::and)
}

pub(super) fn one(cx: &Context<'_>, id: &str, force: bool) -> Result<(), OciError> {
    let opened = cx.store.open(id).and_then(|container| {
        let lock = container.lock()?;
        Ok((container, lock))
    });
    let (container, lock) = match opened {
        Err(OciError::NotFound { .. }) if force => return Ok(()),
        opened => opened?,
    };
    let (spec, record) = match container.record().and_then(|it| Ok((container.spec()?, it))) {
        Err(error) if force => {
            cx.log.warning(&model::chain(&error));
            salvage(&container)
        }
        known => known?,
    };
    with_record(cx, &container, &lock, &spec, &record, force)
}

/// What can still be known of a damaged container: where its processes are is in the record, in the
/// specification, and by default in the id. Of an unreadable specification the hooks are lost.
fn salvage(container: &Container) -> (Spec, Record) {
    match (container.record(), container.spec()) {
        (Ok(record), _) => (record.place(), record),
        (Err(_), Ok(spec)) => {
            let systemd = scope::is_meant(&spec);
            (spec, Record { systemd, ..Record::unknown(&container.id) })
        }
        (Err(_), Err(_)) => {
            let record = Record::unknown(&container.id);
            (record.place(), record)
        }
    }
}

fn with_record(
    cx: &Context<'_>,
    container: &Container,
    lock: &Lock,
    spec: &Spec,
    record: &Record,
    force: bool,
) -> Result<(), OciError> {
    let host = Host::look()?;
    let cgroup = host.cgroup(spec, record)?;
    let status = match record.init.and_then(|init| init.open()) {
        None => Status::Stopped,
        Some(_) => host.status_in(container, record, || Ok(cgroup.clone()))?,
    };
    let kills = match status {
        Status::Stopped | Status::Created => true,
        // The lock is ours: who made it has been killed.
        Status::Creating => true,
        Status::Running | Status::Paused => force,
    };
    if !kills {
        return Err(OciError::NotStopped { id: record.id.clone(), status });
    }
    let launcher = launching::launcher(container, Options::default())?;
    let mut failed: Vec<OciError> = Vec::new();
    // A group that is paused would not notice that it is killed.
    if status == Status::Paused {
        failed.extend(launcher.set_frozen(&cgroup, false).err().map(OciError::from));
    }
    failed.extend(end(record).err());
    failed.extend(launcher.kill_all(&cgroup).err().map(OciError::from));
    failed.extend(launcher.remove_cgroups(&cgroup).err().map(OciError::from));
    match scope::of(spec, record) {
        Ok(Some(scope)) => failed.extend(scope::end(&scope).err()),
        Ok(None) => {}
        Err(error) => failed.push(error),
    }
    failed.extend(after(cx, &host, container, spec, record, &launcher).err());
    // What is left could not be found again without its record.
    if failed.is_empty() {
        return container.remove(lock);
    }
    let texts = failed.iter().map(|error| model::chain(error)).collect();
    let source = Box::new(failed.swap_remove(0));
    Err(OciError::Teardown { id: record.id.clone(), failed: texts, source })
}

/// Kills the first process and waits until it has ended; whoever it is a child of reaps it.
fn end(record: &Record) -> Result<(), OciError> {
    let Some(init) = record.init else { return Ok(()) };
    let Some(handle) = init.open() else { return Ok(()) };
    sys::pidfd::kill(handle.as_fd()).step("kill the first process")?;
    if sys::pidfd::wait_ended(handle.as_fd(), DIES_WITHIN).step("wait for the first process")? {
        Ok(())
    } else {
        Err(OciError::Undead { id: record.id.clone(), pid: init.pid })
    }
}

fn after(
    cx: &Context<'_>,
    host: &Host,
    container: &Container,
    spec: &Spec,
    record: &Record,
    launcher: &Launcher,
) -> Result<(), OciError> {
    container.remove_gate()?;
    let hooks = host.with_context(record, |context| oci_runtime::hooks_plan(spec, context))?;
    if let Some(hooks) = hooks {
        launching::log_warnings(&launcher.poststop_hooks(&hooks), cx.log);
    }
    Ok(())
}
