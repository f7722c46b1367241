//! `knarr attach`

use cri_api::v1;
use streaming::{
    Streams,
    client::{ClientProcess, Verdict},
};

use crate::{
    Error, Io,
    client::{Client, Limit},
    resolve::Inventory,
    stream::{
        StreamArgs,
        keys::DetachKeys,
        session::{self, Ended},
    },
};

/// Connect with a running container's own process: its output from now on, and its input
///
/// Ends with the container, or by the detach keys, which leave it running.
#[derive(Debug, clap::Args)]
pub struct Attach {
    /// Pass our standard input to the container (created with `stdin: true`)
    #[arg(short = 'i', long)]
    interactive: bool,
    /// The container has a terminal (created with `tty: true`)
    #[arg(short = 't', long)]
    tty: bool,
    /// Keys that detach when typed one after the other; none if empty
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q",
          value_parser = DetachKeys::parse)]
    detach_keys: DetachKeys,
    #[command(flatten)]
    stream: StreamArgs,
    /// Container: id, beginning of an id, NAME, POD/NAME or NAMESPACE/POD/NAME
    container: String,
}

impl Attach {
    /// Attaches until the container ends or the user detaches. The container's exit code is ours.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let container = Inventory::fetch(client).await?.container(&self.container)?;
        let request = v1::AttachRequest {
            container_id: container.id.clone(),
            stdin: self.interactive,
            tty: self.tty,
            stdout: true,
            stderr: !self.tty,
        };
        let doing = format!("attach to container {}", container.full_name());
        let mut runtime = client.runtime();
        let answer = client.call(doing, Limit::Standard, runtime.attach(request)).await?;
        if answer.url.is_empty() {
            return Err(Error::Incomplete { rpc: "Attach", field: "url" });
        }
        let streams = Streams::new(self.interactive, true, !self.tty, self.tty)?;
        let process = ClientProcess::connect(&answer.url, self.stream, streams).await?;
        match session::run(process, io, self.tty, self.detach_keys).await? {
            Ended::Told(Verdict::Success) => exit_code(client, &container.id).await,
            Ended::Told(Verdict::ExitCode(code)) => Ok(u8::try_from(code).unwrap_or(255)),
            Ended::Told(Verdict::Failure(why)) => Err(Error::Session(why)),
            Ended::Detached => {
                io.note(format_args!("\r\ndetached from {}", container.full_name()))?;
                Ok(0)
            }
            Ended::Signaled(number) => Ok(number.saturating_add(128)),
        }
    }
}

/// The session does not tell it. A container that runs on has closed its output, and no more.
async fn exit_code(client: &Client, id: &str) -> Result<u8, Error> {
    let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    let doing = "get the container's exit code";
    let mut runtime = client.runtime();
    let answer = client.call(doing, Limit::Standard, runtime.container_status(request)).await?;
    let status = answer.status.unwrap_or_default();
    Ok(match status.state() {
        v1::ContainerState::ContainerExited => u8::try_from(status.exit_code).unwrap_or(255),
        v1::ContainerState::ContainerCreated
        | v1::ContainerState::ContainerRunning
        | v1::ContainerState::ContainerUnknown => 0,
    })
}
