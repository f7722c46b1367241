//! `create`: everything but executing the program.
//!
//! The first process waits behind a socket in the container's directory. When this program ends it
//! becomes the child of whoever reaps for the caller.

use std::os::fd::AsFd;

use launch::plan::{EnvEntry, LaunchPlan};
use launch::{Launcher, Options, Prepared};
use oci_spec::runtime::Spec;

use super::Context;
use crate::args::{CreateArgs, NewArgs};
use crate::console;
use crate::container::{Container, Init, Lock, Record};
use crate::error::{At as _, OciError};
use crate::launching::{self, Bundle, Host};
use crate::{rootless, scope};

pub(crate) fn run(cx: &Context<'_>, args: &CreateArgs) -> Result<(), OciError> {
    let new = New::begin(cx, &args.id, &args.new, false)?;
    new.make(|launcher, plan| {
        let gate = new.container.listen()?;
        let io = console::io_of(plan.process.terminal);
        let mut prepared = launcher.prepare_waiting(plan, io, gate.as_fd())?;
        new.note(&prepared, false)?;
        let io = &args.new.io;
        // The caller has it now, or there is none.
        drop(launching::settle_console(io, prepared.console.take())?);
        launching::write_pid_file(io, prepared.pid)?;
        launching::hand_over_process(io, prepared.pidfd())?;
        launching::log_warnings(&prepared.leave()?.warnings, cx.log);
        Ok(())
    })
}

/// Somebody else's processes would be the container's, and in a group that is stopped it would never
/// come to be.
fn check_cgroup(launcher: &Launcher, plan: &LaunchPlan) -> Result<(), OciError> {
    let Some(group) = plan.cgroup.groups.first() else { return Ok(()) };
    if !launcher.pids(&plan.cgroup)?.is_empty() {
        return Err(OciError::CgroupTaken { path: group.path.clone() });
    }
    // One that is not there yet is not frozen, and one without a freezer never.
    if launcher.is_frozen(&plan.cgroup).unwrap_or_default() {
        return Err(OciError::CgroupFrozen { path: group.path.clone() });
    }
    Ok(())
}

/// A container that is being made.
#[derive(Debug)]
pub(crate) struct New<'a> {
    pub(crate) container: Container,
    pub(crate) record: Record,
    pub(crate) spec: Spec,
    pub(crate) host: Host,
    cx: &'a Context<'a>,
    options: Options,
    activation: u32,
    stays: bool,
    lock: Lock,
}

impl<'a> New<'a> {
    /// Checks everything that can be before anything is made, then takes the id. `stays`: this program
    /// stays with the container's process.
    pub(crate) fn begin(
        cx: &'a Context<'a>,
        id: &str,
        args: &NewArgs,
        stays: bool,
    ) -> Result<Self, OciError> {
        let activation = launching::activation()?;
        let files = activation.saturating_add(args.io.preserve_fds);
        let options = Options {
            keep_files: launching::check_files(files)?,
            keep_keyring: args.no_new_keyring,
            no_pivot: args.no_pivot,
            users_own: rootless::groups(cx.in_user_namespace),
            own_line_ends: stays && args.io.console_socket.is_none(),
            runs_within: None,
        };
        let bundle = Bundle::read(&args.bundle)?;
        bundle.passed.iter().for_each(|passed| cx.log.warning(passed));
        launching::check_console(&args.io, bundle.has_terminal(), stays)?;
        let host = Host::look()?;
        let mut record = bundle.record(id, cx)?;
        let spec = if cx.in_user_namespace { rootless::inside(bundle.spec) } else { bundle.spec };
        scope::check(&spec, &record, host.cgroups())?;
        let delegated = host.delegated().map(|own| own.make_room(cx.log)).transpose()?;
        record.delegated = delegated.flatten();
        let (container, lock) = cx.store.create(id)?;
        let new = Self { container, record, spec, host, cx, options, activation, stays, lock };
        let noted = new
            .container
            .write_spec(&bundle.text)
            .and_then(|()| new.container.write_record(&new.record));
        match noted {
            Ok(()) => Ok(new),
            Err(error) => Err(new.forget(error)),
        }
    }

    /// Runs `f` with a launcher and the container's plan. When it fails nothing is left.
    pub(crate) fn make<T>(
        &self,
        f: impl FnOnce(&Launcher, &LaunchPlan) -> Result<T, OciError>,
    ) -> Result<T, OciError> {
        let attempt = || {
            let mut plan = self.host.plan(&self.spec, &self.record, self.cx.log)?;
            if self.activation > 0 {
                // Whoever is started first in a PID namespace of its own has this number.
                let sockets = [format!("LISTEN_FDS={}", self.activation), "LISTEN_PID=1".into()];
                plan.process.env.extend(sockets.map(|entry| EnvEntry(entry.into_bytes())));
            }
            if self.stays {
                console::give_own_size(&mut plan.process);
            }
            let launcher = launching::launcher(&self.container, self.options)?;
            check_cgroup(&launcher, &plan)?;
            let scope = scope::of(&self.spec, &self.record)?;
            let held = scope.map(|scope| scope::begin(&scope, &self.record.id, &plan.cgroup));
            let _until_the_container_is_in_it = held.transpose()?;
            // Programs of the host that the bundle names expect to start there.
            rustix::process::chdir(self.record.bundle.as_str()).at("enter", &self.record.bundle)?;
            f(&launcher, &plan).inspect_err(|_| self.after(&launcher, &plan))
        };
        attempt().map_err(|error| self.forget(error))
    }

    /// OCI: hooks for the end of a container are run for one whose creation fails, too.
    fn after(&self, launcher: &Launcher, plan: &LaunchPlan) {
        if let Some(hooks) = &plan.hooks {
            launching::log_warnings(&launcher.poststop_hooks(hooks), self.cx.log);
        }
    }

    /// Puts the first process on record.
    pub(crate) fn note(&self, prepared: &Prepared, started: bool) -> Result<(), OciError> {
        let init = Init::of(prepared.pid).step("look at the new process")?;
        let record = Record { init: Some(init), started, ..self.record.clone() };
        self.container.write_record(&record)
    }

    /// Gives the id free again; the error is the one that made this necessary.
    fn forget(&self, error: OciError) -> OciError {
        if let Err(left) = self.container.remove(&self.lock) {
            self.cx.log.warning(&model::chain(&left));
        }
        error
    }
}
