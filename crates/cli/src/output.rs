//! Where verbs write and in which form.

use std::io::Write;

use serde::Serialize;

use crate::{Error, table::Table};

/// Where a verb writes.
pub struct Io<'a> {
    /// Results.
    pub out: &'a mut dyn Write,
    /// Notes and a container's stderr.
    pub err: &'a mut dyn Write,
    /// Columns of the terminal behind `out`; `None` where it is a file or a pipe.
    pub width: Option<u16>,
    /// Whether progress may be drawn on stderr.
    pub progress: bool,
}

impl std::fmt::Debug for Io<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Io").field("width", &self.width).finish_non_exhaustive()
    }
}

/// Form of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// The CRI message as proto3 JSON.
    Json,
    /// The same as YAML.
    Yaml,
}

/// The `-o` of listings.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct FormatArg {
    /// Output form
    #[arg(short = 'o', long = "output", value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

impl Io<'_> {
    /// Writes one line.
    ///
    /// # Errors
    /// The output is gone.
    pub fn line(&mut self, text: impl std::fmt::Display) -> Result<(), Error> {
        writeln!(self.out, "{text}").map_err(Error::Output)
    }

    /// Writes one note for the person at the terminal.
    ///
    /// # Errors
    /// Stderr is gone.
    pub fn note(&mut self, text: impl std::fmt::Display) -> Result<(), Error> {
        writeln!(self.err, "{text}").map_err(Error::Output)
    }

    /// Writes a message in the asked form; `table` makes the human one.
    ///
    /// # Errors
    /// The output is gone, or the message has no such form.
    pub fn emit<M: Serialize>(
        &mut self,
        format: Format,
        message: &M,
        table: impl FnOnce(&M) -> Table,
    ) -> Result<(), Error> {
        match format {
            Format::Table => {
                let text = table(message).render(self.width);
                self.out.write_all(text.as_bytes()).map_err(Error::Output)
            }
            Format::Json => self.json(message),
            Format::Yaml => self.yaml(message),
        }
    }

    /// Writes indented JSON.
    ///
    /// # Errors
    /// As [`Io::emit`].
    pub fn json<M: Serialize>(&mut self, message: &M) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(message).map_err(Error::Json)?;
        self.line(text)
    }

    /// Writes YAML.
    ///
    /// # Errors
    /// As [`Io::emit`].
    pub fn yaml<M: Serialize>(&mut self, message: &M) -> Result<(), Error> {
        // By way of JSON: the two forms then agree in every name and value.
        let value = serde_json::to_value(message).map_err(Error::Json)?;
        let text = serde_saphyr::to_string(&value).map_err(Error::Yaml)?;
        self.out.write_all(text.as_bytes()).map_err(Error::Output)
    }
}
