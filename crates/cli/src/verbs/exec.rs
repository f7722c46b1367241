//! `knarr exec`

use std::time::Duration;

use cri_api::v1;

use crate::{
    Error, Io,
    client::{Client, Limit},
    human::parse_duration,
    resolve::Inventory,
};

/// Run a command in a running container; its exit code becomes that of `knarr exec`
#[derive(Debug, clap::Args)]
pub struct Exec {
    /// Kill the command after this time
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Container: id, beginning of an id, NAME, POD/NAME or NAMESPACE/POD/NAME
    container: String,
    /// Command and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Exec {
    /// Runs the command to its end and passes on what it wrote.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let container = Inventory::fetch(client).await?.container(&self.container)?;
        // The CRI counts in whole seconds, and 0 means forever.
        let seconds = self.timeout.map_or(0, |timeout| timeout.as_secs().max(1));
        let limit = self.timeout.map_or(Limit::None, Limit::After);
        let doing = format!("run `{}` in container {}", self.command[0], container.full_name());
        let request = v1::ExecSyncRequest {
            container_id: container.id.clone(),
            cmd: self.command,
            timeout: i64::try_from(seconds).unwrap_or(i64::MAX),
        };
        let answer = client.call(doing, limit, client.runtime().exec_sync(request)).await?;
        io.out.write_all(&answer.stdout).map_err(Error::Output)?;
        io.err.write_all(&answer.stderr).map_err(Error::Output)?;
        io.out.flush().map_err(Error::Output)?;
        Ok(exit_code(answer.exit_code))
    }
}

/// A code no process can have must not look like success.
fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(255)
}

#[cfg(test)]
mod tests {
    use super::exit_code;

    #[test]
    fn the_commands_exit_code_is_ours() {
        assert_eq!([0, 1, 137, 255].map(exit_code), [0, 1, 137, 255]);
        assert_eq!([-1, 256].map(exit_code), [255, 255]);
    }
}
