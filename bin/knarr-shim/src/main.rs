//! The per-pod supervisor. The daemon starts one per pod, with the pod's state directory as its
//! argument and the listening socket as descriptor 0.
#![forbid(unsafe_code)]

use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

const BUILD: &str = env!("CARGO_PKG_VERSION");

const USAGE: &str = "\
knarr-shim supervises the containers of one pod. `knarr serve` starts it; people do not.

usage: knarr-shim POD-STATE-DIRECTORY   with the pod's listening unix socket as descriptor 0
       knarr-shim --version
";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [only] if only == "--version" => {
            say(&mut std::io::stdout(), &format!("knarr-shim {BUILD}\n"));
            ExitCode::SUCCESS
        }
        [only] if only == "--help" || only == "-h" => {
            say(&mut std::io::stdout(), USAGE);
            ExitCode::SUCCESS
        }
        [state_dir] if !state_dir.as_encoded_bytes().starts_with(b"-") => {
            supervise(state_dir.as_ref())
        }
        _ => {
            say(&mut std::io::stderr(), USAGE);
            ExitCode::from(2)
        }
    }
}

fn supervise(state_dir: &Path) -> ExitCode {
    let Err(error) = shim::run(state_dir, BUILD) else { return ExitCode::SUCCESS };
    let mut text = format!("knarr-shim: {error}");
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    say(&mut std::io::stderr(), &format!("{text}\n"));
    ExitCode::FAILURE
}

/// Whoever does not read it does not get it.
fn say(to: &mut dyn Write, text: &str) {
    to.write_all(text.as_bytes()).ok();
}
