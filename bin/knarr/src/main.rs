//! The knarr daemon and command line. Parses what was asked, builds the parts, runs them.
#![forbid(unsafe_code)]

mod cgroup_drivers;
mod config;
mod help;
mod incoming;
mod logging;
mod memory;
mod plugin;
mod runtime;
mod serve;
mod subordinate;
mod unpack;
mod watchdog;

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

/// A container runtime for Kubernetes, and the command line that drives it
#[derive(Debug, Parser)]
#[command(name = "knarr", version, arg_required_else_help = true, max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    connection: cli::Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(ServeArguments),
    #[command(subcommand)]
    Config(config::ConfigVerb),
    Oci(runtime::Arguments),
    #[command(flatten)]
    Client(Box<cli::Verb>),
}

/// Run the daemon: serve the CRI until told to stop
///
/// Containers do not depend on the daemon: they run on when it stops, and it finds them again
/// when it starts.
#[derive(Debug, clap::Args)]
struct ServeArguments {
    /// Configuration file; its conf.d is read too [default: /etc/knarr/config.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of images, layers and records; survives a reboot
    #[arg(long, value_name = "DIR", default_value = "/var/lib/knarr")]
    root: PathBuf,
    /// Directory of sockets and run-time files; empty after a reboot
    #[arg(long, value_name = "DIR", default_value = "/run/knarr")]
    state: PathBuf,
    /// Socket to serve the CRI on [default: knarr.sock in the state directory]
    #[arg(long, value_name = "SOCKET")]
    listen: Option<PathBuf>,
}

fn main() -> ExitCode {
    if let Some(code) = plugin::answer().or_else(runtime::answer) {
        return code;
    }
    let parsed = help::grouped(Arguments::command())
        .try_get_matches()
        .and_then(|matches| Arguments::from_arg_matches(&matches));
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(error) => {
            let usage = if error.use_stderr() { 2 } else { 0 };
            // Help that nobody reads any more is no failure.
            return error.print().map_or(ExitCode::FAILURE, |()| ExitCode::from(usage));
        }
    };
    match run(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let told = writeln!(io::stderr(), "knarr: {error:#}");
            debug_assert!(told.is_ok(), "stderr is gone");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<u8> {
    match arguments.command {
        Command::Serve(serve) => self::serve(serve),
        Command::Oci(_) => anyhow::bail!("`oci` takes no options of knarr: say `knarr oci ...`"),
        Command::Config(verb) => verb.run(&mut io::stdout().lock()).map(|()| 0),
        Command::Client(verb) => {
            if let cli::Verb::Image(image) = verb.as_ref()
                && let Some(asked) = image.as_unpack()
            {
                return unpack::run(asked).map(|()| 0);
            }
            let width = cli::terminal_width();
            let progress = width.is_some() && io::stderr().is_terminal();
            let (mut out, mut err) = (io::stdout(), io::stderr());
            let mut io = cli::Io { out: &mut out, err: &mut err, width, progress };
            let doctor =
                if let cli::Verb::Doctor(doctor) = &*verb { Some(doctor.clone()) } else { None };
            match (cli::run(&arguments.connection, *verb, &mut io), doctor) {
                (Err(cli::Error::Connect(error)), Some(doctor)) if error.nobody_serves() => {
                    examine_alone(&doctor, &arguments.connection, &mut io)
                }
                (done, _) => Ok(done?),
            }
        }
    }
}

/// `knarr doctor` without a daemon to ask.
fn examine_alone(
    doctor: &cli::verbs::Doctor,
    connection: &cli::Connection,
    io: &mut cli::Io<'_>,
) -> anyhow::Result<u8> {
    if doctor.mends() {
        anyhow::bail!(
            "knarr does not run, and only it knows what belongs to nobody: start it, then --fix"
        );
    }
    let (root, state) = doctor.places();
    let paths = sandbox::Paths::new(std::path::absolute(root)?, std::path::absolute(state)?);
    let network = config::load(doctor.config())
        .map(|loaded| cni::Engine::new(loaded.config.network(paths.root())))
        .map_err(|error| model::chain(&error));
    let address = connection.address();
    let findings = sandbox::examine_without_a_daemon(&paths, address.as_ref(), &network);
    let code = doctor.tell(&cri_server::told(findings), io)?;
    io.out.flush()?;
    Ok(code)
}

/// Arms what a test asks for; gives the list of all places if that is what it asks for.
fn failpoints() -> anyhow::Result<Option<String>> {
    match std::env::var(failpoint::VARIABLE) {
        Err(_unset) => Ok(None),
        Ok(spec) if spec == "list" => Ok(Some(failpoint::list())),
        Ok(spec) => Ok(failpoint::arm(&spec).map(|()| None)?),
    }
}

fn serve(arguments: ServeArguments) -> anyhow::Result<u8> {
    if let Some(answer) = failpoints()? {
        io::stdout().write_all(answer.as_bytes())?;
        return Ok(0);
    }
    let loaded = config::load(arguments.config.as_deref())?;
    // The daemon's paths reach shims, plugins and records: they must not depend on where it was
    // started.
    let root = std::path::absolute(&arguments.root)?;
    let state = std::path::absolute(&arguments.state)?;
    let listen = match arguments.listen {
        Some(listen) => std::path::absolute(listen)?,
        None => state.join("knarr.sock"),
    };
    memory::limit()?;
    logging::start(&loaded.config.log)?;
    sys::trace::from_environment().context(sys::trace::VARIABLE)?;
    serve::run(&loaded.config, &serve::Places { root, state, listen })?;
    Ok(0)
}
