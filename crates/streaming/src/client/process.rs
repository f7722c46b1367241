//! Exec and attach from the client's side.

use bytes::Bytes;
use serde::Deserialize;

use super::{ConnectError, Options, TIMEOUTS, Transport, Upgrade, spdy, websocket};
use crate::backend::{BoxFuture, Streams, TerminalSize};
use crate::protocol::{V1, V2, V3, V4, V5};
use crate::session::PROCESS_LIMITS;
use crate::spdy::{Endpoint, headers::Headers};
use crate::websocket::{Channels, Encoding};
use crate::wire::{Gone, Limits, Mux, Parting, Received, Role, Stream, Wire, drive};

const LIMITS: Limits = Limits { outlives_reset: true, ..PROCESS_LIMITS };

/// What comes from the process.
#[derive(Debug)]
pub struct Reader(Stream);

impl Reader {
    /// The next bytes; `None` at the end, whatever ended it. Losing the future loses nothing.
    pub async fn next(&mut self) -> Option<Bytes> {
        match self.0.receive().await {
            Received::Data(bytes) => Some(bytes),
            Received::End | Received::Reset => None,
        }
    }
}

/// What goes to the process.
#[derive(Debug)]
pub struct Writer {
    stream: Stream,
    finished: bool,
}

impl Writer {
    /// Sends everything, waiting while the process does not take it.
    ///
    /// # Errors
    /// The session is over, or the process takes no more.
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<(), ConnectError> {
        Ok(self.stream.send_all(bytes).await?)
    }

    /// The process gets end of file. WebSocket before v5 has no word for it.
    pub fn finish(&mut self) {
        if !self.finished {
            self.finished = true;
            self.stream.finish();
        }
    }

    /// Sends a terminal's size, on the stream for that.
    ///
    /// # Errors
    /// The session is over.
    pub async fn resize(&mut self, size: TerminalSize) -> Result<(), ConnectError> {
        let text = format!("{{\"Width\":{},\"Height\":{}}}\n", size.width, size.height);
        self.write_all(text.as_bytes()).await
    }
}

/// How the session ended, as the server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The command exited with 0, or the attached container ended.
    Success,
    /// The command's exit code, not 0.
    ExitCode(i32),
    /// It did not work, in the server's words.
    Failure(String),
}

/// Why nothing is known about the end.
#[derive(Debug, thiserror::Error)]
pub enum VerdictError {
    /// The connection broke.
    #[error("the connection to the runtime broke before the command's end was told")]
    Lost,
    /// The server speaks otherwise.
    #[error("the runtime tells the command's end in words that are not JSON: {text}")]
    Unreadable {
        /// Its words.
        text: String,
        /// What is wrong with them.
        #[source]
        source: serde_json::Error,
    },
}

/// A running exec or attach. [`Self::driver`] moves the bytes and must be polled along with
/// whatever else is done; it ends with the connection.
#[expect(missing_debug_implementations, reason = "a future has none")]
pub struct ClientProcess {
    /// Moves the bytes.
    pub driver: BoxFuture<'static, ()>,
    /// To the process.
    pub stdin: Option<Writer>,
    /// From the process.
    pub stdout: Option<Reader>,
    /// From the process.
    pub stderr: Option<Reader>,
    /// Terminal sizes.
    pub sizes: Option<Writer>,
    /// The end.
    pub end: Ending,
}

/// The error stream.
#[derive(Debug)]
pub struct Ending {
    error: Stream,
    mux: Mux,
    json: bool,
}

#[derive(Debug, Deserialize)]
struct Status {
    #[serde(default)]
    status: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    details: Option<Details>,
}

#[derive(Debug, Deserialize)]
struct Details {
    #[serde(default)]
    causes: Vec<Cause>,
}

#[derive(Debug, Deserialize)]
struct Cause {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

impl Ending {
    /// Waits for the server's last word. The outputs are complete only once their readers are at
    /// their end.
    ///
    /// # Errors
    /// [`VerdictError`].
    pub async fn verdict(&mut self) -> Result<Verdict, VerdictError> {
        let mut text = Vec::new();
        let ended = loop {
            match self.error.receive().await {
                Received::Data(bytes) => text.extend_from_slice(&bytes),
                Received::End => break true,
                Received::Reset => break false,
            }
        };
        let text = String::from_utf8_lossy(&text).into_owned();
        match (text.is_empty(), self.json) {
            (true, true) => Err(VerdictError::Lost),
            (true, false) if ended => Ok(Verdict::Success),
            (true, false) => Err(VerdictError::Lost),
            (false, false) => Ok(Verdict::Failure(text)),
            (false, true) => match serde_json::from_str::<Status>(&text) {
                Ok(status) => Ok(status.verdict()),
                Err(source) => Err(VerdictError::Unreadable { text, source }),
            },
        }
    }

    /// Says goodbye; the driver ends soon after.
    pub fn close(&self) {
        self.mux.part(Parting::Now);
    }
}

impl Status {
    fn verdict(self) -> Verdict {
        if self.status == "Success" {
            return Verdict::Success;
        }
        let causes = self.details.map(|details| details.causes).unwrap_or_default();
        let code = causes.iter().find(|cause| cause.reason == "ExitCode");
        match code.and_then(|cause| cause.message.parse().ok()) {
            Some(code) if self.reason == "NonZeroExitCode" => Verdict::ExitCode(code),
            Some(_) | None => Verdict::Failure(self.message),
        }
    }
}

impl ClientProcess {
    /// Connects to the URL that the CRI's Exec or Attach gave, and opens the same streams that were
    /// asked for there.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(
        url: &str,
        options: impl Into<Options>,
        streams: Streams,
    ) -> Result<Self, ConnectError> {
        let Options { transport, tls } = options.into();
        match transport {
            Transport::Spdy => Self::spdy(spdy(url, tls, &[V4, V3, V2, V1]).await?, streams).await,
            Transport::WebSocket => {
                Ok(Self::websocket(websocket(url, tls, &[V5, V4]).await?, streams))
            }
        }
    }

    async fn spdy(upgrade: Upgrade, streams: Streams) -> Result<Self, ConnectError> {
        let mux = Mux::new(Wire::Spdy(Endpoint::new(Role::Client)), LIMITS);
        let resizes = streams.tty() && [V4, V3].contains(&upgrade.protocol.as_str());
        let json = upgrade.protocol == V4;
        let driven = mux.clone();
        let mut driver: BoxFuture<'static, ()> = Box::pin(async move {
            let end = drive(&driven, upgrade.io, upgrade.early, TIMEOUTS).await;
            tracing::debug!(%end, "the streaming connection ended");
        });
        let open = async {
            let open = |kind| mux.open(&Headers::new([("streamtype", kind)]));
            let some = |wanted: bool, kind| wanted.then(|| open(kind)).transpose();
            let error = open("error")?;
            let stdin = some(streams.stdin(), "stdin")?;
            let stdout = some(streams.stdout(), "stdout")?;
            let stderr = some(streams.stderr(), "stderr")?;
            let sizes = some(resizes, "resize")?;
            for stream in [&stdin, &stdout, &stderr, &sizes].into_iter().flatten() {
                stream.replied().await?;
            }
            error.replied().await?;
            Ok::<_, Gone>((error, stdin, stdout, stderr, sizes))
        };
        // Boxed: the streams of a client are opened once.
        let opened = Box::pin(open);
        let (error, stdin, stdout, stderr, sizes) = tokio::select! {
            opened = opened => opened?,
            () = &mut driver => return Err(ConnectError::Closed),
        };
        Ok(Self::new(driver, mux, json, [stdin, stdout, stderr, sizes], error))
    }

    fn websocket(upgrade: Upgrade, streams: Streams) -> Self {
        let channels = Channels::new(Role::Client, Encoding::Binary, upgrade.protocol == V5);
        let mux = Mux::new(Wire::Channels(channels), LIMITS);
        let some = |wanted: bool, number| wanted.then(|| mux.channel(number));
        let all = [
            some(streams.stdin(), 0),
            some(streams.stdout(), 1),
            some(streams.stderr(), 2),
            some(streams.tty(), 4),
        ];
        let error = mux.channel(3);
        let driven = mux.clone();
        let driver = Box::pin(async move {
            let end = drive(&driven, upgrade.io, upgrade.early, TIMEOUTS).await;
            tracing::debug!(%end, "the streaming connection ended");
        });
        Self::new(driver, mux, true, all, error)
    }

    fn new(
        driver: BoxFuture<'static, ()>,
        mux: Mux,
        json: bool,
        [stdin, stdout, stderr, sizes]: [Option<Stream>; 4],
        error: Stream,
    ) -> Self {
        let writer = |stream| Writer { stream, finished: false };
        for output in [&stdin, &sizes].into_iter().flatten() {
            output.discard();
        }
        Self {
            driver,
            stdin: stdin.map(writer),
            stdout: stdout.map(Reader),
            stderr: stderr.map(Reader),
            sizes: sizes.map(writer),
            end: Ending { error, mux, json },
        }
    }
}
