//! `start`: the word that the first process waits for.

use std::os::fd::AsFd;

use launch::Options;
use rustix::process::Pid;

use super::Context;
use crate::container::{Record, Status};
use crate::error::OciError;
use crate::launching::{self, Host};

pub(crate) fn run(cx: &Context<'_>, id: &str) -> Result<(), OciError> {
    let container = cx.store.open(id)?;
    let _lock = container.lock()?;
    let record = container.record()?;
    let host = Host::look()?;
    let status = host.status(&container, &record)?;
    if status != Status::Created {
        return Err(OciError::WrongStatus { verb: "start", id: id.to_owned(), status });
    }
    let not_waiting = |source| OciError::NotWaiting { id: id.to_owned(), source };
    let connection = container.connect().map_err(not_waiting)?;
    let spec = container.spec()?;
    let pid = record.init.and_then(|init| Pid::from_raw(init.pid));
    let pid = pid.ok_or_else(|| OciError::NotRunning { id: id.to_owned() })?;
    let listener =
        host.with_context(&record, |context| oci_runtime::listener_plan(&spec, context))?;
    let warnings = launch::start_waiting(&connection, pid, listener.as_ref());
    let warnings = warnings.inspect_err(|_| kill(&record))?;
    launching::log_warnings(&warnings, cx.log);
    container.write_record(&Record { started: true, ..record.clone() })?;
    container.remove_gate()?;
    let hooks = host.with_context(&record, |context| oci_runtime::hooks_plan(&spec, context))?;
    if let Some(hooks) = hooks {
        let launcher = launching::launcher(&container, Options::default())?;
        launcher.poststart_hooks(&hooks, pid).inspect_err(|_| kill(&record))?;
    }
    Ok(())
}

/// What could not be started as it was meant to be must not run. The error that made this necessary is
/// the one to report.
fn kill(record: &Record) {
    if let Some(init) = record.init.and_then(|init| init.open()) {
        sys::pidfd::kill(init.as_fd()).ok();
    }
}
