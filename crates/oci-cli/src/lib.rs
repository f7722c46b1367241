//! `knarr oci`: the command line of an OCI runtime, as containerd, CRI-O, podman and people know it
//! from runc.
//!
//! A container is a directory below the root (`container`): its specification, a record of its
//! first process, the socket by which that is started. Nobody supervises it: when `create` has ended the
//! first process is a child of whoever reaps for the caller. Everything that makes a process is
//! `launch`'s, everything that reads a specification `oci-runtime`'s, as in a pod's supervisor.
//!
//! Never here: threads and an async runtime (a launcher forks), the daemon, the CRI.
//!
//! Entry points: [`is_runtime_name`] and [`run`].
#![forbid(unsafe_code)]

mod args;
mod console;
mod container;
mod delegated;
mod error;
mod foreground;
mod launching;
mod log;
mod own_program;
mod rootless;
mod scope;
mod stats;
mod sub_cgroup;
mod tolerant;
mod verbs;

pub use verbs::spec::specification as general_spec;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Arguments;
use crate::error::OciError;
use crate::log::Log;

/// The version of the runtime specification whose words are spoken.
pub const SPEC_VERSION: &str = "1.2.1";

/// What ends with 255, as those who exec expect, and not with 1.
const EXEC_FAILED: u8 = 255;
const USAGE: u8 = 1;

/// What the program is called as a runtime.
pub const NAME: &str = "knarr-oci";

/// Whether a program called by this name is to be the runtime.
pub fn is_runtime_name(name: &str) -> bool {
    name == NAME
}

/// Does what a command line asks for; `arguments` begins with the program's name, by which this
/// program knows itself when it is executed again. Blocks: `run` and
/// `exec` for as long as the process takes. Call it before the process has a second thread.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    own_program::protect_early(&arguments);
    let parsed = match Arguments::try_parse_from(&arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            let usage = if error.use_stderr() { USAGE } else { 0 };
            // Help that nobody reads any more is no failure.
            return error.print().map_or(ExitCode::FAILURE, |()| ExitCode::from(usage));
        }
    };
    let log = match Log::open(&parsed) {
        Ok(log) => log,
        Err(error) => return complain(&error::told(&error)),
    };
    let done = prepare(&parsed, &arguments).and_then(|()| verbs::run(&parsed, &log));
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let text = format!("{}{}", parsed.verb.failed(), error::told(&error));
            log.error(&text);
            if log.is_elsewhere() {
                complain(&text);
            }
            ExitCode::from(if parsed.verb.is_exec() { EXEC_FAILED } else { 1 })
        }
    }
}

/// A process that will be in a container must not give it this program to write to.
fn prepare(parsed: &Arguments, arguments: &[OsString]) -> Result<(), OciError> {
    if !parsed.verb.enters_containers() {
        return Ok(());
    }
    rootless::enter(parsed, arguments, &verbs::root(parsed))?;
    own_program::protect(arguments)
}

fn complain(text: &str) -> ExitCode {
    // Without an open standard error there is nobody to be told.
    writeln!(io::stderr(), "{text}").ok();
    ExitCode::FAILURE
}
