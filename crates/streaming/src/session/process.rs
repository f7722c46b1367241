//! Exec and attach: a process's streams on a connection, and how it ended as the last word.

use std::time::Duration;

use tokio::time::timeout;

use super::resize::resize;
use super::status::{Outcome, StatusFormat};
use super::{Context, ProcessRequest, chain};
use crate::backend::{Backend, Ending, Process, ProcessControl, Streams};
use crate::descriptor::Descriptor;
use crate::wire::{Mux, Parting, Received, Stream};

/// Versions of `channel.k8s.io` over SPDY; WebSocket's are told apart by their [`StatusFormat`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V1,
    V2,
    /// From here on terminals can be resized.
    V3,
    /// From here on the end is told in JSON.
    V4,
}

impl Version {
    fn format(self) -> StatusFormat {
        match self {
            Self::V1 | Self::V2 | Self::V3 => StatusFormat::Text,
            Self::V4 => StatusFormat::Json,
        }
    }
}

/// How the client's streams come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The client opens them.
    Opened(Version),
    /// They are there: WebSocket channels by number.
    Channels(StatusFormat),
}

/// An exec or attach, agreed with the client.
#[derive(Debug)]
pub(crate) struct ProcessSession {
    request: ProcessRequest,
    arrival: Arrival,
    /// Of [`Arrival::Channels`], once it has begun.
    channels: Option<Ends>,
}

/// The client's ends.
#[derive(Debug, Default)]
struct Ends {
    error: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

const STDIN: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const ERROR: u32 = 3;
const RESIZE: u32 = 4;

impl ProcessSession {
    pub(crate) fn new(request: ProcessRequest, arrival: Arrival) -> Self {
        Self { request, arrival, channels: None }
    }

    /// Call before anything is read from the client: what comes for a channel that is not there yet
    /// is lost, and a client may send its input along with the handshake.
    pub(crate) fn begin(&mut self, mux: &Mux) {
        match self.arrival {
            Arrival::Channels(_) => self.channels = Some(channels(mux, self.streams())),
            Arrival::Opened(_) => {}
        }
    }

    fn streams(&self) -> Streams {
        match &self.request {
            ProcessRequest::Exec(request) => request.streams,
            ProcessRequest::Attach(request) => request.streams,
        }
    }

    /// Everything from the client's streams to its goodbye. If the client goes away, so does the
    /// hold on the process.
    pub(crate) async fn run(self, mux: &Mux, context: &Context) {
        let work = Box::pin(self.work(mux, context));
        tokio::select! {
            () = work => {}
            () = mux.ended() => {}
        }
    }

    async fn work(mut self, mux: &Mux, context: &Context) {
        let gathered = match self.arrival {
            Arrival::Channels(_) => self.channels.take(),
            Arrival::Opened(version) => {
                let gather = gather(mux, self.streams(), version);
                timeout(context.patience.streams, gather).await.ok().flatten()
            }
        };
        // Whoever does not open its streams is not told anything: there is no stream for it.
        let Some(ends) = gathered else { return mux.part(Parting::Now) };
        mux.refuse_streams();
        let format = match self.arrival {
            Arrival::Channels(format) => format,
            Arrival::Opened(version) => version.format(),
        };
        let outcome = tokio::select! {
            outcome = self.process(&ends, context) => outcome,
            () = context.stopped() => Outcome::Failure("the container runtime is stopping".into()),
        };
        ends.conclude(&outcome, format).await;
        mux.part(Parting::PeerFirst);
    }

    async fn process(&self, ends: &Ends, context: &Context) -> Outcome {
        let backend: &dyn Backend = &*context.backend;
        let drain = context.patience.drain;
        match &self.request {
            ProcessRequest::Exec(request) => match backend.exec(request.clone()).await {
                Ok(process) => {
                    let ending = ends.connect(process, request.streams, drain).await;
                    Outcome::of_exec(ending)
                }
                Err(error) => Outcome::Failure(format!(
                    "error executing command in container: {}",
                    chain(&error)
                )),
            },
            ProcessRequest::Attach(request) => match backend.attach(request.clone()).await {
                Ok(process) => {
                    let ending = ends.connect(process, request.streams, drain).await;
                    Outcome::of_attach(ending)
                }
                Err(error) => {
                    Outcome::Failure(format!("error attaching to container: {}", chain(&error)))
                }
            },
        }
    }
}

/// WebSocket's channels. An empty message on the lowest that we write tells that they are open.
fn channels(mux: &Mux, streams: Streams) -> Ends {
    let some = |wanted: bool, number| wanted.then(|| mux.channel(number));
    let ends = Ends {
        stdin: some(streams.stdin(), STDIN),
        stdout: some(streams.stdout(), STDOUT),
        stderr: some(streams.stderr(), STDERR),
        error: some(true, ERROR),
        resize: some(streams.tty(), RESIZE),
    };
    let lowest = [&ends.stdout, &ends.stderr, &ends.error].into_iter().flatten().next();
    if let Some(lowest) = lowest {
        lowest.send(&[]);
    }
    ends.listen_only_to_input();
    ends
}

/// Waits for every stream of the request. Others may come; they are accepted and ignored.
async fn gather(mux: &Mux, streams: Streams, version: Version) -> Option<Ends> {
    let mut ends = Ends::default();
    let mut ignored = Vec::new();
    let resizes = streams.tty() && version >= Version::V3;
    while !ends.complete(streams, resizes) {
        let (stream, headers) = mux.accept().await?;
        stream.reply();
        let kind = headers.get("streamtype").unwrap_or_default().to_ascii_lowercase();
        let place = match kind.as_str() {
            "error" => Some(&mut ends.error),
            "stdin" if streams.stdin() => Some(&mut ends.stdin),
            "stdout" if streams.stdout() => Some(&mut ends.stdout),
            "stderr" if streams.stderr() => Some(&mut ends.stderr),
            "resize" if resizes => Some(&mut ends.resize),
            _ => None,
        };
        match place {
            Some(place) if place.is_none() => *place = Some(stream),
            Some(_) | None => ignored.push(stream),
        }
    }
    ends.listen_only_to_input();
    if version == Version::V1 {
        ends.as_the_first_version();
    }
    Some(ends)
}

impl Ends {
    fn complete(&self, streams: Streams, resizes: bool) -> bool {
        self.error.is_some()
            && self.stdin.is_some() == streams.stdin()
            && self.stdout.is_some() == streams.stdout()
            && self.stderr.is_some() == streams.stderr()
            && self.resize.is_some() == resizes
    }

    fn outputs(&self) -> impl Iterator<Item = &Stream> {
        [&self.stdout, &self.stderr].into_iter().flatten()
    }

    /// Nobody reads what a client sends on an output; it must not fill a buffer.
    fn listen_only_to_input(&self) {
        self.outputs().chain(&self.error).for_each(Stream::discard);
    }

    /// Kubernetes 1.0 reset the error stream and closed its side of stdin at the start; clients of
    /// `channel.k8s.io` without a version expect that.
    fn as_the_first_version(&self) {
        if let Some(error) = &self.error {
            error.reset();
        }
        if let Some(stdin) = &self.stdin {
            stdin.finish();
        }
    }

    /// Connects the client with the process until it has ended and everything it wrote is on its
    /// way to the client.
    async fn connect(&self, process: Process, streams: Streams, drain: Duration) -> Ending {
        let Process { stdin, stdout, stderr, control } = process;
        let open = |fd: Option<_>| fd.map(Descriptor::new).transpose();
        let (stdin, stdout, stderr) = match (open(stdin), open(stdout), open(stderr)) {
            (Ok(stdin), Ok(stdout), Ok(stderr)) => (stdin, stdout, stderr),
            (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => {
                return Ending::Lost(format!("its streams cannot be watched: {error}"));
            }
        };
        let control = &*control;
        let input = async {
            if let Some(stream) = &self.stdin {
                feed(stream, stdin).await;
                if !streams.tty()
                    && let Err(error) = control.close_stdin().await
                {
                    tracing::debug!(error = %chain(&error), "cannot close a process's stdin");
                }
            }
            std::future::pending::<()>().await;
        };
        let sizes = async {
            if let Some(stream) = &self.resize {
                resize(stream, control).await;
            }
            std::future::pending::<()>().await;
        };
        let output = async {
            let stdout = Output { from: stdout.as_ref(), to: self.stdout.as_ref() };
            let stderr = Output { from: stderr.as_ref(), to: self.stderr.as_ref() };
            finish(control, stdout, stderr, drain).await
        };
        tokio::select! {
            ending = output => ending,
            () = input => Ending::Lost("its input ended it".into()),
            () = sizes => Ending::Lost("its terminal ended it".into()),
        }
    }

    /// The last words, in the order clients rely on: outputs end, then comes the status.
    async fn conclude(&self, outcome: &Outcome, format: StatusFormat) {
        self.outputs().for_each(Stream::finish);
        if let Some(error) = &self.error {
            // A client that does not take it has closed the connection, or its stream (v1).
            let told = error.send_all(outcome.write(format).as_bytes()).await;
            if let Err(gone) = told {
                tracing::debug!(?outcome, %gone, "a client was not told how its session ended");
            }
            error.finish();
        }
        [&self.stdin, &self.resize].into_iter().flatten().for_each(Stream::finish);
    }
}

/// Passes input on until it ends or nobody takes it any more; then the process's end is closed.
async fn feed(stream: &Stream, stdin: Option<Descriptor>) {
    let Some(stdin) = stdin else { return stream.discard() };
    loop {
        match stream.receive().await {
            Received::Data(bytes) => {
                if stdin.write_all(&bytes).await.is_err() {
                    return stream.discard();
                }
            }
            Received::End | Received::Reset => return,
        }
    }
}

/// What a process writes and who wants it.
#[derive(Clone, Copy)]
struct Output<'e> {
    from: Option<&'e Descriptor>,
    to: Option<&'e Stream>,
}

impl Output<'_> {
    /// To its end, or until nobody takes it any more.
    async fn deliver(self) {
        match (self.from, self.to) {
            // Gone is gone; the session learns it elsewhere.
            (Some(from), Some(to)) => drop(from.deliver(to).await),
            (Some(from), None) => from.skip().await,
            (None, _) => {}
        }
    }
}

/// Waits for the process and for its outputs. A descendant that keeps an output open is waited for
/// only so long; what is in the pipes then is still delivered.
async fn finish(
    control: &dyn ProcessControl,
    stdout: Output<'_>,
    stderr: Output<'_>,
    drain: Duration,
) -> Ending {
    let ending;
    let delivered = {
        let delivery = async { tokio::join!(stdout.deliver(), stderr.deliver()) };
        tokio::pin!(delivery);
        let mut done = false;
        let wait = control.wait();
        tokio::pin!(wait);
        ending = loop {
            tokio::select! {
                ending = &mut wait => break ending,
                _ = &mut delivery, if !done => done = true,
            }
        };
        done || timeout(drain, delivery).await.is_ok()
    };
    if !delivered {
        for Output { from, to } in [stdout, stderr] {
            if let (Some(from), Some(to)) = (from, to)
                && from.deliver_rest(to).await.is_err()
            {
                break;
            }
        }
    }
    ending
}
