//! `knarr logs`

use std::{collections::VecDeque, path::Path, time::Duration};

use cri_api::v1;
use jiff::Timestamp;
use tonic::Code;

use crate::{
    Error, Io,
    client::{Client, Limit},
    human::parse_duration,
    logs::{Follower, LogError, Piece, Selection, Stream},
    resolve::Inventory,
};

/// How often a followed file is looked at.
const POLL: Duration = Duration::from_millis(100);
/// How many looks at the file pass between two questions to the runtime.
const LOOKS_PER_STATUS: u32 = 10;

/// Show what a container wrote
#[derive(Debug, clap::Args)]
pub struct Logs {
    /// Container: id, beginning of an id, NAME, POD/NAME or NAMESPACE/POD/NAME
    container: String,
    /// Keep showing new output until the container has exited
    #[arg(short, long)]
    follow: bool,
    /// Only this many of the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
    /// Only what was written since then: a length of time (10m) or a time (RFC 3339)
    #[arg(long, value_name = "WHEN", value_parser = parse_since)]
    since: Option<Timestamp>,
    /// Put the time in front of each line
    #[arg(short, long)]
    timestamps: bool,
}

fn parse_since(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let ago = parse_duration(text)
        .map_err(|_| format!("`{text}` is neither a length of time (10m) nor an RFC 3339 time"))?;
    Timestamp::now().checked_sub(ago).map_err(|error| error.to_string())
}

impl Logs {
    /// Prints the log; with `--follow` until the container has exited.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let container = Inventory::fetch(client).await?.container(&self.container)?;
        let path = log_path(client, &container.id).await?;
        let selection =
            Selection { tail: self.tail, since: self.since, timestamps: self.timestamps };
        let mut log = Follower::open(Path::new(&path)).map_err(|source| LogError::Open {
            container: container.id.clone(),
            path: path.into(),
            source,
        })?;
        print_present(&mut log, &selection, io)?;
        if self.follow {
            follow(client, &container.id, &mut log, &selection, io).await?;
        }
        let rest: Vec<Piece> = log.flush().collect();
        for piece in rest {
            print(&selection, &piece, io)?;
        }
        Ok(0)
    }
}

/// Prints what a container has written so far, for instance because it has failed.
///
/// # Errors
/// The log is not there, or the output is gone.
pub(crate) async fn show_tail(
    client: &Client,
    container: &str,
    lines: usize,
    io: &mut Io<'_>,
) -> Result<(), Error> {
    let path = log_path(client, container).await?;
    let selection = Selection { tail: Some(lines), ..Selection::default() };
    let mut log = Follower::open(Path::new(&path)).map_err(|source| LogError::Open {
        container: container.to_owned(),
        path: path.into(),
        source,
    })?;
    let mut last = Tail::new(lines);
    log.read_on::<Error>(&selection, |piece| {
        last.push(piece);
        Ok(())
    })?;
    log.flush().for_each(|piece| last.push(piece));
    for piece in last.pieces {
        io.err.write_all(&selection.print(&piece)).map_err(Error::Output)?;
    }
    Ok(())
}

async fn log_path(client: &Client, id: &str) -> Result<String, Error> {
    let status = status(client, id).await?;
    match status {
        Some(status) if !status.log_path.is_empty() => Ok(status.log_path),
        _ => Err(LogError::NoLog { container: id.to_owned() }.into()),
    }
}

/// The container's status; `None` once it is removed.
async fn status(client: &Client, id: &str) -> Result<Option<v1::ContainerStatus>, Error> {
    let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    let answer = client
        .call(
            "read the container's status",
            Limit::Standard,
            client.runtime().container_status(request),
        )
        .await;
    match answer {
        Ok(answer) => Ok(answer.status),
        Err(error) if error.code() == Some(Code::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn print_present(log: &mut Follower, selection: &Selection, io: &mut Io<'_>) -> Result<(), Error> {
    let Some(lines) = selection.tail else {
        return log.read_on(selection, |piece| print(selection, &piece, io));
    };
    let mut last = Tail::new(lines);
    log.read_on::<Error>(selection, |piece| {
        last.push(piece);
        Ok(())
    })?;
    last.pieces.iter().try_for_each(|piece| print(selection, piece, io))
}

async fn follow(
    client: &Client,
    id: &str,
    log: &mut Follower,
    selection: &Selection,
    io: &mut Io<'_>,
) -> Result<(), Error> {
    let mut looks = 0_u32;
    loop {
        // Asked before the file is read: what was written before the exit is then read after it.
        let over = looks.is_multiple_of(LOOKS_PER_STATUS) && has_exited(client, id).await?;
        log.read_on::<Error>(selection, |piece| print(selection, &piece, io))?;
        // Somebody watches: a prompt without an end of line is worth showing.
        let unfinished: Vec<Piece> = log.flush().collect();
        unfinished.iter().try_for_each(|piece| print(selection, piece, io))?;
        io.out.flush().map_err(Error::Output)?;
        if over {
            return Ok(());
        }
        looks = looks.wrapping_add(1);
        tokio::time::sleep(POLL).await;
    }
}

async fn has_exited(client: &Client, id: &str) -> Result<bool, Error> {
    match status(client, id).await {
        Ok(Some(status)) => Ok(status.state() == v1::ContainerState::ContainerExited),
        Ok(None) => Ok(true),
        // A restarting daemon says nothing about the container, which runs on.
        Err(Error::Rpc(error)) if error.code() == Some(Code::Unavailable) => Ok(false),
        Err(error) => Err(error),
    }
}

fn print(selection: &Selection, piece: &Piece, io: &mut Io<'_>) -> Result<(), Error> {
    let line = selection.print(piece);
    match piece.stream {
        Stream::Stdout => io.out.write_all(&line),
        Stream::Stderr => io.err.write_all(&line),
    }
    .map_err(Error::Output)
}

/// The last so many lines.
struct Tail {
    lines: usize,
    pieces: VecDeque<Piece>,
}

impl Tail {
    fn new(lines: usize) -> Self {
        Self { lines, pieces: VecDeque::new() }
    }

    fn push(&mut self, piece: Piece) {
        self.pieces.push_back(piece);
        if self.pieces.len() > self.lines {
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse_since;

    #[test]
    fn since_is_a_time_or_a_length_of_time() {
        assert!(parse_since("2026-01-02T03:04:05Z").is_ok());
        assert!(parse_since("10m").unwrap() < jiff::Timestamp::now());
        assert!(parse_since("yesterday").unwrap_err().contains("`yesterday`"));
    }
}
