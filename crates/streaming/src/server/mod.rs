//! The HTTP server that clients are sent to, and the URLs they are given.

mod connection;
mod negotiate;
mod tokens;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use self::connection::{handshake, kind_of};
use self::tokens::Tokens;
pub use self::tokens::TooManyRequests;
use crate::backend::{AttachRequest, Backend, ExecRequest, PortForwardRequest};
use crate::connection::Connection;
use crate::session::{Context, Patience, ProcessRequest, Request};
use crate::tls::{Reloading, TlsError, TlsFiles};
use crate::wire::Timeouts;

/// Connections whose request has not come yet. A slow one is cut after ten seconds.
const MOST_HANDSHAKES: usize = 256;
/// A pause after a failure to accept: it is for want of descriptors, and does not end by trying.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Packets that ask whether a silent peer is still there begin after this many seconds.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// For sessions to tell their clients that the server stops.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How the server is to be.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 takes any.
    pub listen: SocketAddr,
    /// TLS, if clients are to use it.
    pub tls: Option<TlsFiles>,
    /// A session in which no byte moves for this long is ended.
    pub idle_timeout: Duration,
    /// For a client to open its streams.
    pub stream_creation_timeout: Duration,
    /// How long output is waited for when a command has ended and a descendant keeps it open.
    pub drain_timeout: Duration,
    /// How long running sessions may go on when the server stops.
    pub shutdown_grace: Duration,
    /// Sessions at a time; more are answered 503.
    pub max_sessions: usize,
}

impl Default for Config {
    /// Loopback, any port, no TLS, and the limits that clients of Kubernetes know.
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            tls: None,
            idle_timeout: Duration::from_secs(4 * 60 * 60),
            stream_creation_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
            shutdown_grace: Duration::ZERO,
            max_sessions: 8192,
        }
    }
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be had.
    #[error("the streaming server cannot listen at {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// TLS cannot be offered.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Makes URLs for sessions. Clones are the same; the server's requests wait in here.
#[derive(Debug, Clone)]
pub struct Urls {
    base: Arc<str>,
    tokens: Tokens,
}

impl Urls {
    /// Where a client begins this exec, once and within a minute.
    ///
    /// # Errors
    /// [`TooManyRequests`]: `ResourceExhausted` in the CRI.
    pub fn exec(&self, request: ExecRequest) -> Result<String, TooManyRequests> {
        self.url(Request::Process(ProcessRequest::Exec(request)))
    }

    /// Where a client begins this attach, once and within a minute.
    ///
    /// # Errors
    /// [`TooManyRequests`]: `ResourceExhausted` in the CRI.
    pub fn attach(&self, request: AttachRequest) -> Result<String, TooManyRequests> {
        self.url(Request::Process(ProcessRequest::Attach(request)))
    }

    /// Where a client begins this port-forward, once and within a minute.
    ///
    /// # Errors
    /// [`TooManyRequests`]: `ResourceExhausted` in the CRI.
    pub fn port_forward(&self, request: PortForwardRequest) -> Result<String, TooManyRequests> {
        self.url(Request::PortForward(request))
    }

    /// How many sessions were asked for and not begun.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.tokens.count()
    }

    fn url(&self, request: Request) -> Result<String, TooManyRequests> {
        let kind = kind_of(&request);
        let token = self.tokens.add(request)?;
        Ok(format!("{}/{kind}/{token}", self.base))
    }
}

/// A server that listens and does not accept yet.
#[derive(Debug)]
pub struct Server {
    config: Config,
    listener: TcpListener,
    tls: Option<Arc<Reloading>>,
    urls: Urls,
}

impl Server {
    /// Takes the address. Clients may connect from now on; they are answered by [`Self::run`].
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let address = config.listen;
        let failed = |source| BindError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let tls = match config.tls.clone() {
            None => None,
            Some(files) => {
                let loaded = tokio::task::spawn_blocking(|| Reloading::load(files)).await;
                let loaded = loaded.map_err(|gone| failed(io::Error::other(gone)))?;
                Some(Arc::new(loaded?))
            }
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let base = format!("{scheme}://{}", reachable(bound)).into();
        let urls = Urls { base, tokens: Tokens::default() };
        Ok(Self { config, listener, tls, urls })
    }

    /// What makes URLs for this server.
    pub fn urls(&self) -> Urls {
        self.urls.clone()
    }

    /// Serves until `shutdown`, then lets sessions go on for the configured grace, tells the rest of
    /// them that it is over, and waits for that.
    pub async fn run(self, backend: Arc<dyn Backend>, shutdown: impl Future<Output = ()>) {
        let Self { config, listener, tls, urls } = self;
        let (stop, stopping) = watch::channel(false);
        let context = Arc::new(Context { backend, patience: config.patience(), stopping });
        let handshakes = Arc::new(Semaphore::new(MOST_HANDSHAKES));
        let sessions = Arc::new(Semaphore::new(config.max_sessions));
        let mut tasks = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(done) = tasks.join_next() => report(done),
                accepted = accept(&listener, &handshakes) => match accepted {
                    Ok((permit, tcp)) => {
                        tasks.spawn(Visit {
                            permit,
                            sessions: Arc::clone(&sessions),
                            tls: tls.clone(),
                            tokens: urls.tokens.clone(),
                            context: Arc::clone(&context),
                        }.serve(tcp));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the streaming server cannot accept connections");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        drop(context);
        if timeout(config.shutdown_grace, finish(&mut tasks)).await.is_err() {
            stop.send_replace(true);
            if timeout(LAST_WORDS, finish(&mut tasks)).await.is_err() {
                tasks.shutdown().await;
            }
        }
    }
}

/// The next connection, once its handshake has a place. Losing the future loses nothing.
async fn accept(
    listener: &TcpListener,
    handshakes: &Arc<Semaphore>,
) -> io::Result<(OwnedSemaphorePermit, TcpStream)> {
    let permit = Arc::clone(handshakes).acquire_owned().await.map_err(io::Error::other)?;
    let (tcp, _) = listener.accept().await?;
    Ok((permit, tcp))
}

async fn finish(tasks: &mut JoinSet<()>) {
    while let Some(done) = tasks.join_next().await {
        report(done);
    }
}

fn report(done: Result<(), tokio::task::JoinError>) {
    if let Err(error) = done {
        tracing::error!(%error, "a streaming session panicked");
    }
}

impl Config {
    fn patience(&self) -> Patience {
        Patience {
            timeouts: Timeouts {
                idle: self.idle_timeout,
                peer_first: Duration::from_secs(3),
                linger: Duration::from_secs(10),
            },
            streams: self.stream_creation_timeout,
            drain: self.drain_timeout,
            half_open: Duration::from_secs(5 * 60),
        }
    }
}

/// A URL needs a host that can be connected to: kubelet is on this node.
fn reachable(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

/// What a connection's task has.
struct Visit {
    permit: OwnedSemaphorePermit,
    sessions: Arc<Semaphore>,
    tls: Option<Arc<Reloading>>,
    tokens: Tokens,
    context: Arc<Context>,
}

impl Visit {
    async fn serve(self, tcp: TcpStream) {
        if let Err(error) = prepare(&tcp) {
            tracing::debug!(%error, "a streaming connection was gone at once");
            return;
        }
        let Ok(session) = self.sessions.try_acquire_owned() else {
            tracing::warn!("a streaming client was sent away: all sessions are taken");
            return connection::send_away(tcp).await;
        };
        let handshaken = async {
            let connection = match &self.tls {
                None => Connection::Plain(tcp),
                Some(tls) => Connection::Tls(Box::new(encrypt(tls, tcp).await?.into())),
            };
            handshake(connection, &self.tokens).await
        };
        let stopped = self.context.stopped();
        let ready = tokio::select! {
            ready = Box::pin(handshaken) => ready,
            () = stopped => None,
        };
        drop(self.permit);
        if let Some(ready) = ready {
            Box::pin(ready.run(&self.context)).await;
        }
        drop(session);
    }
}

fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, KEEPALIVE)?;
    Ok(())
}

async fn encrypt(
    tls: &Arc<Reloading>,
    tcp: TcpStream,
) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    let tls = Arc::clone(tls);
    let config = tokio::task::spawn_blocking(move || tls.current()).await.ok()?;
    let accepted = timeout(connection::HEAD_LIMIT, TlsAcceptor::from(config).accept(tcp)).await;
    match accepted {
        Ok(Ok(connection)) => Some(connection),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a streaming client's TLS handshake failed");
            None
        }
        Err(_elapsed) => None,
    }
}
