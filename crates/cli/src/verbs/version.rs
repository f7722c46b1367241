//! `knarr version`

use cri_api::v1;

use crate::{
    Error, Io,
    client::{Client, Limit},
    output::FormatArg,
    table::Table,
};

/// Show the versions of this command and of the container runtime
#[derive(Debug, clap::Args)]
pub struct Version {
    #[command(flatten)]
    output: FormatArg,
}

impl Version {
    /// Prints the versions.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let request = v1::VersionRequest { version: String::new() };
        let answer = client
            .call("ask for the version", Limit::Standard, client.runtime().version(request))
            .await?;
        io.emit(self.output.format, &answer, table)?;
        Ok(0)
    }
}

fn table(version: &v1::VersionResponse) -> Table {
    let mut table = Table::new(&["COMPONENT", "VERSION"], &[]);
    table.row(vec!["knarr (this command)".into(), env!("CARGO_PKG_VERSION").into()]);
    table.row(vec![format!("{} (runtime)", version.runtime_name), version.runtime_version.clone()]);
    table.row(vec!["runtime API".into(), version.runtime_api_version.clone()]);
    table
}
