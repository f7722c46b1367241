//! This program as a CNI plugin: when it is called by the name of one, or with CNI's variables.

use std::env;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

/// Answers a container runtime; `None` when nobody asked for a plugin.
pub(crate) fn answer() -> Option<ExitCode> {
    let called = env::args_os().next().unwrap_or_default();
    let name = Path::new(&called).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let variable = |key: &str| env::var(key).ok();
    if variable("CNI_COMMAND").is_none() {
        if !cni::is_plugin_name(&name) {
            return None;
        }
        let told = io::stderr().write_all(cni::about_plugin(&name).as_bytes());
        return Some(told.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS));
    }
    let answer = cni::run_plugin(&name, variable, &mut io::stdin().lock());
    let told = io::stdout().write_all(answer.stdout.as_bytes());
    Some(if told.is_ok() && answer.success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
