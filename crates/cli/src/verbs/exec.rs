//! `knarr exec`

use std::time::Duration;

use cri_api::v1;
use streaming::{
    Streams,
    client::{ClientProcess, Verdict},
};
use tonic::Code;

use crate::{
    Error, Io,
    client::{Client, Limit},
    human::parse_duration,
    resolve::{Inventory, Object},
    stream::{
        StreamArgs,
        keys::DetachKeys,
        session::{self, Ended},
    },
};

/// Run a command in a running container; its exit code becomes that of `knarr exec`
#[derive(Debug, clap::Args)]
pub struct Exec {
    /// Pass our standard input to the command
    #[arg(short = 'i', long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// Kill the command after this time; its output comes when it has ended
    #[arg(long, value_name = "DURATION", value_parser = parse_duration,
          conflicts_with_all = ["interactive", "tty"])]
    timeout: Option<Duration>,
    #[command(flatten)]
    stream: StreamArgs,
    /// Container: id, beginning of an id, NAME, POD/NAME or NAMESPACE/POD/NAME
    container: String,
    /// Command and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Exec {
    /// Runs the command to its end and passes on what it writes, as it writes it.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let container = Inventory::fetch(client).await?.container(&self.container)?;
        if self.timeout.is_some() {
            return self.at_once(client, io, &container).await;
        }
        let request = v1::ExecRequest {
            container_id: container.id.clone(),
            cmd: self.command.clone(),
            tty: self.tty,
            stdin: self.interactive,
            stdout: true,
            stderr: !self.tty,
        };
        let doing = doing(&self.command, &container);
        let answer = client.call(doing, Limit::Standard, client.runtime().exec(request)).await;
        let url = match answer {
            Ok(answer) => answer.url,
            // A runtime without a streaming server still runs commands.
            Err(error)
                if error.code() == Some(Code::Unimplemented) && !self.interactive && !self.tty =>
            {
                return self.at_once(client, io, &container).await;
            }
            Err(error) => return Err(error.into()),
        };
        if url.is_empty() {
            return Err(Error::Incomplete { rpc: "Exec", field: "url" });
        }
        let streams = Streams::new(self.interactive, true, !self.tty, self.tty)?;
        let process = ClientProcess::connect(&url, self.stream, streams).await?;
        // Leaving a command ends it, so there are no keys for it.
        let nothing = DetachKeys::parse("")?;
        match session::run(process, io, self.tty, nothing).await? {
            Ended::Told(Verdict::Success) | Ended::Detached => Ok(0),
            Ended::Told(Verdict::ExitCode(code)) => Ok(exit_code(code)),
            Ended::Told(Verdict::Failure(why)) => Err(Error::Session(why)),
            Ended::Signaled(number) => Ok(number.saturating_add(128)),
        }
    }

    /// By ExecSync: everything it wrote comes with its end.
    async fn at_once(
        self,
        client: &Client,
        io: &mut Io<'_>,
        container: &Object,
    ) -> Result<u8, Error> {
        // The CRI counts in whole seconds, and 0 means forever.
        let seconds = self.timeout.map_or(0, |timeout| timeout.as_secs().max(1));
        let limit = self.timeout.map_or(Limit::None, Limit::After);
        let doing = doing(&self.command, container);
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

fn doing(command: &[String], container: &Object) -> String {
    format!("run `{}` in container {}", command[0], container.full_name())
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
