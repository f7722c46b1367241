//! The server against the client over real sockets, with a runtime whose containers are plain
//! processes of this machine and whose pods are this machine.

mod forward;
mod http;
mod process;
mod tls;

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use model::{ContainerId, SandboxId, Signal};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::*;

/// Processes and connections of this machine.
#[derive(Debug)]
struct Machine {
    /// Holds on processes that were given out and not dropped.
    held: Arc<AtomicUsize>,
    sizes: mpsc::UnboundedSender<TerminalSize>,
    dropped: mpsc::UnboundedSender<()>,
}

#[derive(Debug)]
struct Hold {
    child: Mutex<tokio::process::Child>,
    held: Arc<AtomicUsize>,
    sizes: mpsc::UnboundedSender<TerminalSize>,
    dropped: mpsc::UnboundedSender<()>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::SeqCst);
        // Nobody may be listening.
        self.dropped.send(()).ok();
    }
}

impl ProcessControl for Hold {
    fn resize(&self, size: TerminalSize) -> BoxFuture<'_, Result<(), BackendError>> {
        Box::pin(async move { self.sizes.send(size).map_err(BackendError::new) })
    }

    fn close_stdin(&self) -> BoxFuture<'_, Result<(), BackendError>> {
        Box::pin(async { Ok(()) })
    }

    fn wait(&self) -> BoxFuture<'_, Ending> {
        use std::os::unix::process::ExitStatusExt as _;
        Box::pin(async {
            match self.child.lock().await.wait().await {
                Ok(status) => match (status.code(), status.signal()) {
                    (Some(code), _) => Ending::Exited(u8::try_from(code).unwrap()),
                    (None, signal) => {
                        Ending::Signaled(Signal::from_number(signal.unwrap()).unwrap())
                    }
                },
                Err(error) => Ending::Lost(error.to_string()),
            }
        })
    }
}

impl Machine {
    fn start(&self, command: &[String], streams: Streams) -> Result<Process, BackendError> {
        let io = |wanted| if wanted { Stdio::piped() } else { Stdio::null() };
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .stdin(io(streams.stdin()))
            .stdout(io(streams.stdout()))
            .stderr(io(streams.stderr()))
            .kill_on_drop(true)
            .spawn()
            .map_err(BackendError::new)?;
        let stdin = child.stdin.take().map(|end| end.into_owned_fd().unwrap());
        let stdout = child.stdout.take().map(|end| end.into_owned_fd().unwrap());
        let stderr = child.stderr.take().map(|end| end.into_owned_fd().unwrap());
        self.held.fetch_add(1, Ordering::SeqCst);
        let control = Box::new(Hold {
            child: Mutex::new(child),
            held: Arc::clone(&self.held),
            sizes: self.sizes.clone(),
            dropped: self.dropped.clone(),
        });
        Ok(Process { stdin, stdout, stderr, control })
    }
}

impl Backend for Machine {
    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, Result<Process, BackendError>> {
        Box::pin(async move { self.start(&request.command, request.streams) })
    }

    fn attach(&self, request: AttachRequest) -> BoxFuture<'_, Result<Process, BackendError>> {
        Box::pin(async move { self.start(&["cat".to_owned()], request.streams) })
    }

    fn connect(
        &self,
        _sandbox: SandboxId,
        port: u16,
    ) -> BoxFuture<'_, Result<TcpStream, BackendError>> {
        Box::pin(
            async move { TcpStream::connect(("127.0.0.1", port)).await.map_err(BackendError::new) },
        )
    }
}

/// A running server.
struct Node {
    urls: Urls,
    backend: Arc<Machine>,
    sizes: mpsc::UnboundedReceiver<TerminalSize>,
    dropped: mpsc::UnboundedReceiver<()>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl Node {
    async fn start() -> Self {
        Self::with(Config::default()).await
    }

    async fn with(config: Config) -> Self {
        let (sizes, sizes_seen) = mpsc::unbounded_channel();
        let (dropped, drops_seen) = mpsc::unbounded_channel();
        let backend = Arc::new(Machine { held: Arc::default(), sizes, dropped });
        let server = Server::bind(config).await.unwrap();
        let urls = server.urls();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async { drop(stopped.await) };
        let runtime: Arc<dyn Backend> = Arc::clone(&backend) as _;
        let running = tokio::spawn(server.run(runtime, shutdown));
        Self { urls, backend, sizes: sizes_seen, dropped: drops_seen, stop, running }
    }

    fn exec(&self, command: &[&str], streams: Streams) -> String {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        self.urls.exec(ExecRequest { container: container(), command, streams }).unwrap()
    }

    fn port_forward(&self, ports: &[u16]) -> String {
        let ports = ports.to_vec();
        self.urls.port_forward(PortForwardRequest { sandbox: sandbox(), ports }).unwrap()
    }

    /// Stops the server and sees that nothing is left of it: no task holds the backend, nobody
    /// holds a process, no token waits.
    async fn stop(self) {
        drop(self.stop);
        self.running.await.unwrap();
        assert_eq!(Arc::strong_count(&self.backend), 1, "a task outlived the server");
        assert_eq!(self.backend.held.load(Ordering::SeqCst), 0, "a process is still held");
        assert_eq!(self.urls.waiting(), 0, "a token was not used");
    }
}

fn container() -> ContainerId {
    ContainerId::from_random([1; 32])
}

fn sandbox() -> SandboxId {
    SandboxId::from_random([2; 32])
}

fn all() -> Streams {
    Streams::new(true, true, true, false).unwrap()
}

const TRANSPORTS: [client::Transport; 2] = [client::Transport::Spdy, client::Transport::WebSocket];

/// What a session gave.
#[derive(Debug)]
struct Seen {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    verdict: client::Verdict,
}

impl Seen {
    fn stdout(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.stdout)
    }
}

/// Sends `input` to its end and reads everything, to the server's last word.
async fn converse(mut process: client::ClientProcess, input: &[u8]) -> Seen {
    let feed = async {
        if let Some(stdin) = &mut process.stdin {
            // The process may not want it all.
            stdin.write_all(input).await.ok();
            stdin.finish();
        }
    };
    let talk = async {
        let (stdout, stderr, (), verdict) = tokio::join!(
            read(&mut process.stdout),
            read(&mut process.stderr),
            feed,
            process.end.verdict(),
        );
        process.end.close();
        Seen { stdout, stderr, verdict: verdict.unwrap() }
    };
    let (seen, ()) = tokio::join!(talk, process.driver);
    seen
}

async fn read(reader: &mut Option<client::Reader>) -> Vec<u8> {
    let mut all = Vec::new();
    if let Some(reader) = reader {
        while let Some(bytes) = reader.next().await {
            all.extend_from_slice(&bytes);
        }
    }
    all
}

/// Bytes that show when one is lost, doubled or moved.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(length)
    .collect()
}
