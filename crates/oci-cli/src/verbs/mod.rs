//! One file per verb.

mod create;
mod delete;
mod events;
mod exec;
mod features;
mod kill;
mod list;
mod pause;
mod ps;
mod run;
pub(crate) mod spec;
mod start;
mod state;
mod update;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::args::{Arguments, Verb};
use crate::container::Store;
use crate::error::{At as _, OciError};
use crate::log::Log;

/// What every verb has.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) store: Store,
    pub(crate) log: &'a Log,
    /// New containers have their cgroups from systemd.
    pub(crate) systemd_cgroup: bool,
    /// This program is root of the container's user namespace only.
    pub(crate) in_user_namespace: bool,
}

/// Does what was asked; the exit code.
pub(crate) fn run(arguments: &Arguments, log: &Log) -> Result<u8, OciError> {
    log.debug(&format!("{:?}", arguments.verb));
    let cx = Context {
        store: Store::new(&root(arguments))?,
        log,
        systemd_cgroup: arguments.systemd_cgroup,
        in_user_namespace: arguments.in_user_namespace,
    };
    match &arguments.verb {
        Verb::Create(args) => create::run(&cx, args).map(|()| 0),
        Verb::Start(args) => start::run(&cx, &args.id).map(|()| 0),
        Verb::Run(args) => run::run(&cx, args),
        Verb::State(args) => state::run(&cx, &args.id).map(|()| 0),
        Verb::Kill(args) => kill::run(&cx, args).map(|()| 0),
        Verb::Delete(args) => delete::run(&cx, args).map(|()| 0),
        Verb::Exec(args) => exec::run(&cx, args),
        Verb::List(args) => list::run(&cx, args).map(|()| 0),
        Verb::Ps(args) => ps::run(&cx, args).map(|()| 0),
        Verb::Pause(args) => pause::run(&cx, &args.id, true).map(|()| 0),
        Verb::Resume(args) => pause::run(&cx, &args.id, false).map(|()| 0),
        Verb::Update(args) => update::run(&cx, args).map(|()| 0),
        Verb::Events(args) => events::run(&cx, args).map(|()| 0),
        Verb::Features => features::run().map(|()| 0),
        Verb::Spec(args) => spec::run(args).map(|()| 0),
    }
}

/// Where containers' state is.
pub(crate) fn root(arguments: &Arguments) -> PathBuf {
    if let Some(root) = &arguments.root {
        return root.clone();
    }
    let users = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    match users.filter(|_| !rustix::process::geteuid().is_root()) {
        Some(dir) => Path::new(&dir).join("knarr-oci"),
        None => PathBuf::from("/run/knarr-oci"),
    }
}

/// Writes an answer. Who has stopped reading has what it wanted.
fn answer(text: &str) -> Result<(), OciError> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.step("write to standard output"),
    }
}
