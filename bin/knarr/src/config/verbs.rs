//! `knarr config`

use std::{
    io::{self, Write},
    path::PathBuf,
};

use super::{load, print};

/// Show or check the daemon's configuration
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ConfigVerb {
    /// Print all keys with their meaning and defaults, as a file to start from
    Default,
    /// Check the configuration and say what is wrong with it
    Check(File),
    /// Print the configuration that holds, each setting with the file and line it comes from
    Show(File),
}

/// Which configuration is meant.
#[derive(Debug, clap::Args)]
pub(crate) struct File {
    /// Configuration file; its conf.d is read too [default: /etc/knarr/config.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigVerb {
    /// Does it.
    pub(crate) fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let text = match self {
            Self::Default => print::default_file(),
            Self::Check(file) => {
                let loaded = load(file.config.as_deref())?;
                let count = loaded.files.len();
                format!("the configuration is good ({count} files read)\n")
            }
            Self::Show(file) => print::effective(&load(file.config.as_deref())?),
        };
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }
}
