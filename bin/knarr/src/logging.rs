//! The daemon's own log, on stderr.

use std::io;

use anyhow::{Context as _, Result, anyhow};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Sends what the parts report to stderr. Once per process.
pub(crate) fn start(log: &Log) -> Result<()> {
    let filter = EnvFilter::try_new(&log.level)
        .with_context(|| format!("log.level `{}` is not understood", log.level))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match log.format {
        // The service manager stamps lines and shows no colours.
        LogFormat::Text => {
            let terminal = io::IsTerminal::is_terminal(&io::stderr());
            lines.with_ansi(terminal).try_init()
        }
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    }
    .map_err(|error| anyhow!("cannot start the log: {error}"))
}
