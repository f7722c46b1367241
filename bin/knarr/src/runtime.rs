//! This program as an OCI runtime: `knarr oci`, or `knarr-oci` when it is called by that name.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// Run containers from OCI bundles, in runc's place
///
/// Has a command line of its own: see `knarr oci --help`. Called as knarr-oci (by a link), the program
/// is this verb.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<OsString>,
}

/// Does what the runtime is asked for; `None` when that is not what was called. Before anything
/// else, because it forks.
pub(crate) fn answer() -> Option<ExitCode> {
    let mut words: Vec<OsString> = env::args_os().collect();
    let called = words.first_mut()?;
    let name = Path::new(called).file_name()?.to_string_lossy().into_owned();
    if !oci_cli::is_runtime_name(&name) {
        *called = oci_cli::NAME.into();
        if words.get(1).is_none_or(|verb| verb != "oci") {
            return None;
        }
        words.remove(1);
    }
    Some(oci_cli::run(words))
}
