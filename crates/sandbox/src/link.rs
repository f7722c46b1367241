//! The daemon's end of a shim's socket.
//!
//! One reader task per link routes replies and their files to their callers, ends to those who
//! wait for them and other events to the pod's owner. One writer task writes frames whole; their
//! files travel with their first byte.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::SandboxId;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use shim_protocol::{
    AttachEnd, Body, CodecError, Event, Exit, Failure, FrameFiles, FrameReader, FromShim, Hello,
    Request, Response, TooManyFiles,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

/// How long a shim may take to answer. Launching is milliseconds; a node that swaps is slow.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Why a shim did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Its socket cannot be reached.
    #[error("cannot reach the shim of sandbox {sandbox}")]
    Connect {
        /// The pod.
        sandbox: SandboxId,
        /// Why.
        source: io::Error,
    },
    /// It closed the connection: it is gone.
    #[error("the shim of sandbox {sandbox} is gone")]
    Gone {
        /// The pod.
        sandbox: SandboxId,
    },
    /// It is there but silent.
    #[error("the shim of sandbox {sandbox} gave no answer within {} s", waited.as_secs())]
    Silent {
        /// The pod.
        sandbox: SandboxId,
        /// How long was waited.
        waited: Duration,
    },
    /// It answered, but not to the question.
    #[error("the shim of sandbox {sandbox} answered something else than asked")]
    Confused {
        /// The pod.
        sandbox: SandboxId,
    },
    /// It was started by an older daemon and speaks an older protocol.
    #[error(
        "the shim of sandbox {sandbox} is of build {build} and cannot do this; a new pod's can"
    )]
    TooOld {
        /// The pod.
        sandbox: SandboxId,
        /// What the shim calls itself.
        build: String,
    },
    /// It says that it could not.
    #[error("{}", .0.message)]
    Failed(Failure),
}

impl LinkError {
    /// Whether the request has no effect, now or later. A shim that is silent may still come to it.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Gone { .. } | Self::TooOld { .. } | Self::Failed(_) => {
                true
            }
            Self::Silent { .. } | Self::Confused { .. } => false,
        }
    }
}

/// What a link tells the pod's owner.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// The shim reports.
    Shim(Event),
    /// The connection ended.
    Closed,
}

/// How something ended, once it has; that the sender is gone means that the shim is.
pub(crate) type Ended<T> = watch::Receiver<Option<T>>;

/// Waits for the end; `None` when the shim is gone. Can be asked again.
pub(crate) async fn end_of<T: Clone>(ended: &mut Ended<T>) -> Option<T> {
    ended.wait_for(Option::is_some).await.ok().and_then(|end| end.clone())
}

/// An answer and the files that came with it.
type Answer = (Response, Vec<OwnedFd>);

#[derive(Default)]
struct Routes {
    closed: bool,
    waiters: HashMap<u64, oneshot::Sender<Answer>>,
    execs: HashMap<u64, watch::Sender<Option<Exit>>>,
    attaches: HashMap<u64, watch::Sender<Option<AttachEnd>>>,
}

/// A connection to one shim.
pub(crate) struct ShimLink {
    sandbox: SandboxId,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    routes: Arc<Mutex<Routes>>,
    next: AtomicU64,
    /// What the shim said of itself.
    shim: Hello,
    reader: tokio::task::JoinHandle<()>,
    writer: tokio::task::JoinHandle<()>,
}

/// A link, what the shim tells through it, and how it greeted.
pub(crate) type Connected = (ShimLink, mpsc::UnboundedReceiver<LinkEvent>, Hello);

/// A frame to be written whole: whoever asked may have given up meanwhile, and half a frame would
/// end the connection.
struct Outgoing {
    frame: Vec<u8>,
    files: Vec<OwnedFd>,
}

impl std::fmt::Debug for ShimLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShimLink").field("sandbox", &self.sandbox).finish_non_exhaustive()
    }
}

impl Drop for ShimLink {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
    }
}

impl ShimLink {
    /// Connects to the socket in a pod's state directory and exchanges greetings.
    pub(crate) async fn connect(
        sandbox: &SandboxId,
        state_dir: &Path,
    ) -> Result<Connected, LinkError> {
        let (mut link, events) = Self::open(sandbox, state_dir).await?;
        let hello = link.greet().await?;
        link.shim = hello.clone();
        Ok((link, events, hello))
    }

    /// As [`Self::connect`], to a shim that this daemon has just started: it is of the daemon's version, and
    /// is asked for something in the same breath. Its answer comes back beside.
    pub(crate) async fn connect_asking(
        sandbox: &SandboxId,
        state_dir: &Path,
        body: Body,
    ) -> Result<(Connected, Result<Response, LinkError>), LinkError> {
        let (mut link, events) = Self::open(sandbox, state_dir).await?;
        // In this order: they are queued as each is first polled.
        let (hello, answer) = tokio::join!(biased; link.greet(), link.call(body, Vec::new()));
        let hello = hello?;
        link.shim = hello.clone();
        Ok(((link, events, hello), answer))
    }

    async fn open(
        sandbox: &SandboxId,
        state_dir: &Path,
    ) -> Result<(Self, mpsc::UnboundedReceiver<LinkEvent>), LinkError> {
        let failed = |source| LinkError::Connect { sandbox: sandbox.clone(), source };
        // A socket address holds 107 bytes; state directories may be longer.
        let dir = rustix::fs::open(
            state_dir,
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .map_err(|errno| failed(errno.into()))?;
        let address = socket_address(dir.as_fd());
        let stream = Arc::new(UnixStream::connect(address).await.map_err(failed)?);
        let routes = Arc::new(Mutex::new(Routes::default()));
        let (events, receiver) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read_loop(
            sandbox.clone(),
            Arc::clone(&stream),
            Arc::clone(&routes),
            events,
        ));
        let (outgoing, queue) = mpsc::unbounded_channel();
        let writer = tokio::spawn(write_loop(stream, queue));
        let link = Self {
            sandbox: sandbox.clone(),
            outgoing,
            routes,
            next: AtomicU64::new(1),
            // Until it has said more: every version has a hello.
            shim: Hello { version: 1, build: String::new(), pid: 0 },
            reader,
            writer,
        };
        Ok((link, receiver))
    }

    async fn greet(&self) -> Result<Hello, LinkError> {
        let hello = Hello {
            version: shim_protocol::VERSION,
            build: env!("CARGO_PKG_VERSION").to_owned(),
            pid: rustix::process::getpid().as_raw_nonzero().get(),
        };
        match self.call(Body::Hello(hello), Vec::new()).await? {
            Response::Hello(hello) => Ok(hello),
            _other => Err(self.confused()),
        }
    }

    /// Asks and waits for the answer. A `Failed` answer is an error.
    pub(crate) async fn call(
        &self,
        body: Body,
        files: Vec<OwnedFd>,
    ) -> Result<Response, LinkError> {
        // Files nobody asked for are closed here.
        self.call_for_files(body, files).await.map(|(response, _files)| response)
    }

    /// As [`Self::call`], with the files that come with the answer.
    pub(crate) async fn call_for_files(
        &self,
        body: Body,
        files: Vec<OwnedFd>,
    ) -> Result<(Response, Vec<OwnedFd>), LinkError> {
        // An older shim closes the connection on a request it does not know.
        if body.since() > self.shim.version {
            let (sandbox, build) = (self.sandbox.clone(), self.shim.build.clone());
            return Err(LinkError::TooOld { sandbox, build });
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, receiver) = oneshot::channel();
        {
            let mut routes = lock(&self.routes);
            if routes.closed {
                return Err(self.gone());
            }
            routes.waiters.insert(id, answer);
        }
        let frame = shim_protocol::encode(&Request { id, body });
        // Where nobody takes it any more, nobody is left in the routes either.
        self.outgoing.send(Outgoing { frame, files }).unwrap_or_default();
        match tokio::time::timeout(ANSWER_WITHIN, receiver).await {
            Ok(Ok((Response::Failed(failure), _))) => Err(LinkError::Failed(failure)),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_closed)) => Err(self.gone()),
            Err(_elapsed) => {
                lock(&self.routes).waiters.remove(&id);
                Err(LinkError::Silent { sandbox: self.sandbox.clone(), waited: ANSWER_WITHIN })
            }
        }
    }

    /// Asks for something whose answer nobody waits for. The shim does it after everything it was
    /// asked before.
    pub(crate) fn tell(&self, body: Body) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let frame = shim_protocol::encode(&Request { id, body });
        // Where nobody takes it any more there is nobody to do it.
        self.outgoing.send(Outgoing { frame, files: Vec::new() }).unwrap_or_default();
    }

    /// Asks for something that is answered by `Done`.
    pub(crate) async fn call_done(&self, body: Body) -> Result<(), LinkError> {
        match self.call(body, Vec::new()).await? {
            Response::Done => Ok(()),
            _other => Err(self.confused()),
        }
    }

    /// Whoever waits on this learns how the exec'd process ended.
    pub(crate) fn watch_exec(&self, exec: u64) -> Ended<Exit> {
        let (sender, receiver) = watch::channel(None);
        let mut routes = lock(&self.routes);
        if !routes.closed {
            routes.execs.insert(exec, sender);
        }
        receiver
    }

    /// Nobody waits any more.
    pub(crate) fn unwatch_exec(&self, exec: u64) {
        lock(&self.routes).execs.remove(&exec);
    }

    /// Whoever waits on this learns why the attach ended.
    pub(crate) fn watch_attach(&self, attach: u64) -> Ended<AttachEnd> {
        let (sender, receiver) = watch::channel(None);
        let mut routes = lock(&self.routes);
        if !routes.closed {
            routes.attaches.insert(attach, sender);
        }
        receiver
    }

    /// Nobody waits any more.
    pub(crate) fn unwatch_attach(&self, attach: u64) {
        lock(&self.routes).attaches.remove(&attach);
    }

    pub(crate) fn confused(&self) -> LinkError {
        LinkError::Confused { sandbox: self.sandbox.clone() }
    }

    pub(crate) fn gone(&self) -> LinkError {
        LinkError::Gone { sandbox: self.sandbox.clone() }
    }
}

/// The address of `shim.sock` in an open directory, short whatever the directory's name.
pub(crate) fn socket_address(dir: BorrowedFd<'_>) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}/shim.sock", dir.as_raw_fd())
}

fn lock(routes: &Mutex<Routes>) -> MutexGuard<'_, Routes> {
    routes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes frames in their order. A connection that takes none ends, which the reader notices.
async fn write_loop(stream: Arc<UnixStream>, mut queue: mpsc::UnboundedReceiver<Outgoing>) {
    while let Some(Outgoing { frame, files }) = queue.recv().await {
        if let Err(error) = write(&stream, &frame, files).await {
            tracing::debug!(%error, "a shim takes no request");
            // Failing means that it is not connected any more: the reader knows.
            rustix::net::shutdown(&stream, rustix::net::Shutdown::Both).ok();
            return;
        }
    }
}

async fn write(stream: &UnixStream, frame: &[u8], mut files: Vec<OwnedFd>) -> io::Result<()> {
    let mut rest = frame;
    while !rest.is_empty() {
        let sent =
            stream.async_io(Interest::WRITABLE, || send(stream.as_fd(), rest, &files)).await?;
        rest = rest.get(sent..).unwrap_or_default();
        // They went with the first byte.
        files.clear();
    }
    Ok(())
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], files: &[OwnedFd]) -> io::Result<usize> {
    let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many files for one frame"));
    }
    let sent =
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(sent)
}

/// What one read of the socket brought.
fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(buffer)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut files = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            files.extend(received);
        }
    }
    Ok((message.bytes, files))
}

/// A frame that cannot be used.
#[derive(Debug, thiserror::Error)]
enum Malformed {
    #[error(transparent)]
    Frame(#[from] CodecError),
    #[error(transparent)]
    Files(#[from] TooManyFiles),
}

/// What has arrived and is not yet whole.
#[derive(Default)]
struct Incoming {
    frames: FrameReader,
    files: FrameFiles<OwnedFd>,
}

async fn read_loop(
    sandbox: SandboxId,
    stream: Arc<UnixStream>,
    routes: Arc<Mutex<Routes>>,
    events: mpsc::UnboundedSender<LinkEvent>,
) {
    let mut incoming = Incoming::default();
    loop {
        let mut buffer = [0; 4096];
        let got =
            stream.async_io(Interest::READABLE, || receive(stream.as_fd(), &mut buffer)).await;
        let (count, files) = match got {
            Ok((0, _)) => break,
            Ok(got) => got,
            Err(error) => {
                tracing::warn!(sandbox = %sandbox, %error, "shim connection broke");
                break;
            }
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        if let Err(error) = incoming.take_in(bytes, files, &routes, &events) {
            let error = crate::error::chain(&error);
            tracing::error!(sandbox = %sandbox, error, "shim sent a malformed frame");
            break;
        }
    }
    {
        let mut routes = lock(&routes);
        routes.closed = true;
        // Dropping the senders wakes every waiter with "gone".
        routes.waiters.clear();
        routes.execs.clear();
        routes.attaches.clear();
    }
    // The owner may have ended already; then nobody needs to know.
    events.send(LinkEvent::Closed).unwrap_or_default();
}

impl Incoming {
    fn take_in(
        &mut self,
        bytes: &[u8],
        files: Vec<OwnedFd>,
        routes: &Mutex<Routes>,
        events: &mpsc::UnboundedSender<LinkEvent>,
    ) -> Result<(), Malformed> {
        self.frames.push(bytes);
        self.files.received(bytes.len(), files)?;
        while let Some(message) = self.frames.next::<FromShim>()? {
            route(message, self.files.of_frame(self.frames.buffered()), routes, events);
        }
        Ok(())
    }
}

fn route(
    message: FromShim,
    files: Vec<OwnedFd>,
    routes: &Mutex<Routes>,
    events: &mpsc::UnboundedSender<LinkEvent>,
) {
    match message {
        FromShim::Reply { id, response } => {
            let Some(waiter) = lock(routes).waiters.remove(&id) else { return };
            // A caller that stopped waiting does not need the answer.
            drop(waiter.send((response, files)));
        }
        FromShim::Event(Event::ExecExited { exec, exit }) => {
            if let Some(waiter) = lock(routes).execs.remove(&exec) {
                waiter.send_replace(Some(exit));
            }
        }
        FromShim::Event(Event::AttachEnded { attach, end }) => {
            if let Some(waiter) = lock(routes).attaches.remove(&attach) {
                waiter.send_replace(Some(end));
            }
        }
        FromShim::Event(event @ (Event::Exited { .. } | Event::PauseExited(_))) => {
            events.send(LinkEvent::Shim(event)).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests;
