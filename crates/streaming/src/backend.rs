//! What a streaming session needs of the runtime.
//!
//! The server of this crate knows clients and bytes; whoever implements [`Backend`] knows pods. They
//! meet in owned descriptors, so that no byte is copied between them.

use std::error::Error;
use std::fmt;
use std::os::fd::OwnedFd;
use std::pin::Pin;

use model::{ContainerId, SandboxId, Signal};
use tokio::net::TcpStream;

/// A future on the heap, so that [`Backend`] can be a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a choice of streams is refused. CRI: ExecRequest, AttachRequest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamsError {
    /// Nothing would be carried.
    #[error("one of stdin, stdout or stderr must be asked for")]
    None,
    /// A terminal has one output.
    #[error("stderr cannot be asked for with a terminal: its output comes on stdout")]
    StderrOfTerminal,
}

/// Which of a process's streams a client wants. At least one; never stderr of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    /// Checks the combination.
    ///
    /// # Errors
    /// [`StreamsError`]; both are `InvalidArgument` in the CRI.
    pub fn new(stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Result<Self, StreamsError> {
        if tty && stderr {
            return Err(StreamsError::StderrOfTerminal);
        }
        if !(stdin || stdout || stderr) {
            return Err(StreamsError::None);
        }
        Ok(Self { stdin, stdout, stderr, tty })
    }

    /// The client sends input.
    pub fn stdin(self) -> bool {
        self.stdin
    }

    /// The client wants standard output, or all output of a terminal.
    pub fn stdout(self) -> bool {
        self.stdout
    }

    /// The client wants standard error.
    pub fn stderr(self) -> bool {
        self.stderr
    }

    /// The process has a terminal, or is to get one.
    pub fn tty(self) -> bool {
        self.tty
    }
}

/// A command to run in a running container. CRI: ExecRequest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// Where.
    pub container: ContainerId,
    /// Program and arguments, not empty.
    pub command: Vec<String>,
    /// What the client wants to see of it.
    pub streams: Streams,
}

/// A look at a running container's own process. CRI: AttachRequest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachRequest {
    /// Which.
    pub container: ContainerId,
    /// What the client wants to see of it; `tty` says what the container was created with.
    pub streams: Streams,
}

/// Connections into a pod's network namespace. CRI: PortForwardRequest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForwardRequest {
    /// Which.
    pub sandbox: SandboxId,
    /// Only WebSocket channels use them, in this order; SPDY names a port with each connection.
    pub ports: Vec<u16>,
}

/// Columns and rows of a terminal, both at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// How a process, or the connection to it, ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It exited.
    Exited(u8),
    /// It was ended by a signal. The client is told 128 + its number.
    Signaled(Signal),
    /// What became of it is not known, and why: its shim is gone, say.
    Lost(String),
}

/// The runtime could not do as asked. Clients are told the text and its causes, joined with `: `.
#[derive(Debug)]
pub struct BackendError(Box<dyn Error + Send + Sync>);

impl BackendError {
    /// Wraps the runtime's own error, or a text.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for BackendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// A process's streams and the hold on it.
///
/// A descriptor is there exactly if [`Streams`] asked for it (attach: and the container has it); an
/// exec's terminal is always read, or the command would soon wait for that. Each can be waited for by
/// epoll: a pipe, a socket, a terminal. With a terminal, stdin and stdout are two duplicates of one
/// descriptor, used both ways. The session makes them non-blocking, which holds for everybody who
/// shares the file description.
///
/// stdout and stderr end by end of file (a terminal: `EIO`). That they end and that the process
/// ends are two events, in any order: what is still in the pipes is delivered.
#[derive(Debug)]
pub struct Process {
    /// To write to. Closing it is end of file for a process without terminal, if nobody else holds
    /// the write end; see [`ProcessControl::close_stdin`].
    pub stdin: Option<OwnedFd>,
    /// To read from.
    pub stdout: Option<OwnedFd>,
    /// To read from.
    pub stderr: Option<OwnedFd>,
    /// The hold on the process.
    pub control: Box<dyn ProcessControl>,
}

/// The hold on an exec'd or attached process.
///
/// **Dropping it** ends an exec: the process and its descendants get SIGHUP, and soon SIGKILL if they
/// are still there. If the process has ended by itself, nothing is signalled. Of an attach it only
/// detaches: the container does not notice. Dropping does not block; whoever implements this does
/// the signalling elsewhere.
///
/// All methods may be called at the same time, and their futures dropped at any point.
pub trait ProcessControl: fmt::Debug + Send + Sync {
    /// Sets the terminal's size. Only called if there is a terminal.
    fn resize(&self, size: TerminalSize) -> BoxFuture<'_, Result<(), BackendError>>;

    /// The client's input has ended; called after [`Process::stdin`] was closed. An exec's process
    /// gets end of file, an attached container only if it was created with `stdin_once` and without
    /// a terminal. Not called if there is a terminal.
    fn close_stdin(&self) -> BoxFuture<'_, Result<(), BackendError>>;

    /// Waits for the end: of the exec'd process, or of the attached container. Asked again after the
    /// end, it answers the same.
    fn wait(&self) -> BoxFuture<'_, Ending>;
}

/// The runtime as sessions see it.
pub trait Backend: Send + Sync + 'static {
    /// Starts a command in a running container.
    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, Result<Process, BackendError>>;

    /// Attaches to a running container: its output from now on, and its input.
    fn attach(&self, request: AttachRequest) -> BoxFuture<'_, Result<Process, BackendError>>;

    /// Connects to `localhost:port` inside the pod's network namespace (the node's, if the pod uses
    /// that), IPv4 first, then IPv6.
    fn connect(
        &self,
        sandbox: SandboxId,
        port: u16,
    ) -> BoxFuture<'_, Result<TcpStream, BackendError>>;
}
