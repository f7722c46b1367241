//! The command line's verbs against a CRI socket: any runtime's, by default knarr's own.
//!
//! For operators and developers at a terminal. It never touches the daemon's files or processes:
//! everything goes through the CRI (and knarr's progress service beside it), except container
//! logs, which are read where the runtime says they are, and the volumes of `knarr run`.
//!
//! [`Verb`] is what was asked for, [`Connection`] whom to ask, [`Io`] where to write; [`run`]
//! brings them together. A Pod manifest becomes CRI requests in [`pod`], which is pure.
#![forbid(unsafe_code)]

pub mod client;
mod error;
pub mod human;
pub mod logs;
pub mod output;
pub mod pod;
mod progress;
pub mod resolve;
pub mod run;
pub mod stream;
pub mod suggest;
pub mod table;
pub mod verbs;
pub mod volumes;

use std::time::Duration;

pub use error::Error;
pub use logs::LogError;
pub use output::Io;
pub use run::RunError;
pub use verbs::Verb;
pub use volumes::VolumeError;

use client::{ADDRESS_VARIABLE, Client, DEFAULT_ADDRESS};

/// Whom to ask, and how patiently.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Connection {
    /// Socket of the container runtime [default: $KNARR_ADDRESS, else /run/knarr/knarr.sock];
    /// before the verb also as -a
    #[arg(long, global = true, value_name = "SOCKET", help_heading = "Connection")]
    address: Option<String>,
    // `ps -a` means all, so the short form exists only in front of the verb.
    #[arg(short = 'a', value_name = "SOCKET", hide = true, conflicts_with = "address")]
    address_before: Option<String>,
    /// How long the runtime may take for each answer, given before the verb
    /// [default: as kubelet, 2m; a pull as long as it takes]
    #[arg(long, value_name = "DURATION", value_parser = human::parse_duration,
          help_heading = "Connection")]
    timeout: Option<Duration>,
}

impl Connection {
    /// The socket: as given, else from the environment, else knarr's own.
    #[must_use]
    pub fn address(&self) -> String {
        let given = self.address.clone().or_else(|| self.address_before.clone());
        given
            .or_else(|| std::env::var(ADDRESS_VARIABLE).ok().filter(|value| !value.is_empty()))
            .unwrap_or_else(|| DEFAULT_ADDRESS.to_owned())
    }
}

/// Runs a verb to its end. Blocks; starts and ends its own asynchronous runtime. The value is the
/// exit code for the process.
///
/// # Errors
/// [`Error`]. A reader of the output that went away is no error.
pub fn run(connection: &Connection, verb: Verb, io: &mut Io<'_>) -> Result<u8, Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Start)?;
    let done = runtime.block_on(async {
        if let Verb::Run(run) = &verb
            && run.is_dry()
        {
            return run.show(io);
        }
        let client = Client::connect(&connection.address(), connection.timeout).await?;
        verb.run(&client, io).await
    });
    match done.and_then(|code| io.out.flush().map_err(Error::Output).map(|()| code)) {
        Err(error) if error.is_broken_pipe() => Ok(0),
        done => done,
    }
}

/// Columns of the terminal that stdout is, if it is one.
#[must_use]
pub fn terminal_width() -> Option<u16> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    // A terminal that was never told its size says 0.
    Some(if size.ws_col == 0 { 80 } else { size.ws_col })
}
