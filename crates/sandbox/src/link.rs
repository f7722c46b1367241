//! The daemon's end of a shim's socket.
//!
//! One reader task per link routes replies to their callers and events to the pod's owner. A
//! frame is written whole under a lock; its files travel with its first byte.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::SandboxId;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use shim_protocol::{
    Body, CodecError, Event, Exit, Failure, FrameReader, FromShim, Hello, Request, Response,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

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
    /// It says that it could not.
    #[error("{}", .0.message)]
    Failed(Failure),
}

/// What a link tells the pod's owner.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// The shim reports.
    Shim(Event),
    /// The connection ended.
    Closed,
}

#[derive(Default)]
struct Routes {
    closed: bool,
    waiters: HashMap<u64, oneshot::Sender<Response>>,
    execs: HashMap<u64, oneshot::Sender<Exit>>,
}

/// A connection to one shim.
pub(crate) struct ShimLink {
    sandbox: SandboxId,
    stream: Arc<UnixStream>,
    writing: tokio::sync::Mutex<()>,
    routes: Arc<Mutex<Routes>>,
    next: AtomicU64,
    reader: tokio::task::JoinHandle<()>,
}

impl std::fmt::Debug for ShimLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShimLink").field("sandbox", &self.sandbox).finish_non_exhaustive()
    }
}

impl Drop for ShimLink {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl ShimLink {
    /// Connects to the socket in a pod's state directory and exchanges greetings.
    pub(crate) async fn connect(
        sandbox: &SandboxId,
        state_dir: &Path,
    ) -> Result<(Self, mpsc::UnboundedReceiver<LinkEvent>, Hello), LinkError> {
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
        let link = Self {
            sandbox: sandbox.clone(),
            stream,
            writing: tokio::sync::Mutex::new(()),
            routes,
            next: AtomicU64::new(1),
            reader,
        };
        let hello = Hello {
            version: shim_protocol::VERSION,
            build: env!("CARGO_PKG_VERSION").to_owned(),
            pid: rustix::process::getpid().as_raw_nonzero().get(),
        };
        match link.call(Body::Hello(hello), &[]).await? {
            Response::Hello(hello) => Ok((link, receiver, hello)),
            _other => Err(LinkError::Confused { sandbox: sandbox.clone() }),
        }
    }

    /// Asks and waits for the answer. A `Failed` answer is an error.
    pub(crate) async fn call(
        &self,
        body: Body,
        files: &[BorrowedFd<'_>],
    ) -> Result<Response, LinkError> {
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
        if self.write(&frame, files).await.is_err() {
            lock(&self.routes).waiters.remove(&id);
            return Err(self.gone());
        }
        match tokio::time::timeout(ANSWER_WITHIN, receiver).await {
            Ok(Ok(Response::Failed(failure))) => Err(LinkError::Failed(failure)),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_closed)) => Err(self.gone()),
            Err(_elapsed) => {
                lock(&self.routes).waiters.remove(&id);
                Err(LinkError::Silent { sandbox: self.sandbox.clone(), waited: ANSWER_WITHIN })
            }
        }
    }

    /// Asks for something that is answered by `Done`.
    pub(crate) async fn call_done(&self, body: Body) -> Result<(), LinkError> {
        match self.call(body, &[]).await? {
            Response::Done => Ok(()),
            _other => Err(LinkError::Confused { sandbox: self.sandbox.clone() }),
        }
    }

    /// Whoever waits on this learns how the exec'd process ended; an error means the shim died.
    pub(crate) fn watch_exec(&self, exec: u64) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
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

    pub(crate) fn gone(&self) -> LinkError {
        LinkError::Gone { sandbox: self.sandbox.clone() }
    }

    async fn write(&self, frame: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let _whole_frame = self.writing.lock().await;
        let mut files = files;
        let mut rest = frame;
        while !rest.is_empty() {
            let sent = self
                .stream
                .async_io(Interest::WRITABLE, || send(self.stream.as_fd(), rest, files))
                .await?;
            rest = rest.get(sent..).unwrap_or_default();
            files = &[];
        }
        Ok(())
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

fn send(socket: BorrowedFd<'_>, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many files for one frame"));
    }
    let sent =
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(sent)
}

/// Files that come along are closed: this version of the daemon asks for none.
fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(buffer)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    Ok(message.bytes)
}

async fn read_loop(
    sandbox: SandboxId,
    stream: Arc<UnixStream>,
    routes: Arc<Mutex<Routes>>,
    events: mpsc::UnboundedSender<LinkEvent>,
) {
    let mut frames = FrameReader::default();
    loop {
        let mut buffer = [0; 4096];
        let got =
            stream.async_io(Interest::READABLE, || receive(stream.as_fd(), &mut buffer)).await;
        match got {
            Ok(0) => break,
            Ok(count) => frames.push(buffer.get(..count).unwrap_or_default()),
            Err(error) => {
                tracing::warn!(sandbox = %sandbox, %error, "shim connection broke");
                break;
            }
        }
        if let Err(error) = route_all(&mut frames, &routes, &events) {
            tracing::error!(sandbox = %sandbox, %error, "shim sent a malformed frame");
            break;
        }
    }
    {
        let mut routes = lock(&routes);
        routes.closed = true;
        // Dropping the senders wakes every waiter with "gone".
        routes.waiters.clear();
        routes.execs.clear();
    }
    // The owner may have ended already; then nobody needs to know.
    events.send(LinkEvent::Closed).unwrap_or_default();
}

fn route_all(
    frames: &mut FrameReader,
    routes: &Mutex<Routes>,
    events: &mpsc::UnboundedSender<LinkEvent>,
) -> Result<(), CodecError> {
    while let Some(message) = frames.next::<FromShim>()? {
        match message {
            FromShim::Reply { id, response } => {
                let Some(waiter) = lock(routes).waiters.remove(&id) else { continue };
                // A caller that stopped waiting does not need the answer.
                drop(waiter.send(response));
            }
            FromShim::Event(Event::ExecExited { exec, exit }) => {
                if let Some(waiter) = lock(routes).execs.remove(&exec) {
                    drop(waiter.send(exit));
                }
            }
            FromShim::Event(event) => events.send(LinkEvent::Shim(event)).unwrap_or_default(),
        }
    }
    Ok(())
}
