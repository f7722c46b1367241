//! The client's side: what `kubectl` does through kubelet, for the command line and for tests.

mod forward;
mod process;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes};
use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::uri::InvalidUri;
use http::{Method, Request, StatusCode, Uri};
use hyper::body::{Body, Incoming};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub use self::forward::{ForwardError, Forwarder};
pub use self::process::{ClientProcess, Reader, Verdict, VerdictError, Writer};
use crate::connection::Connection;
use crate::protocol::{
    SPDY, STREAM_PROTOCOL, WEBSOCKET_ACCEPT, WEBSOCKET_KEY, WEBSOCKET_PROTOCOL, WEBSOCKET_VERSION,
};
use crate::tls::{ClientTls, TlsError};
use crate::wire::{Gone, Timeouts};
use crate::{random, websocket};

/// For the server to be reached and to answer the upgrade.
const LIMIT: Duration = Duration::from_secs(30);
/// What is shown of a server's words.
const TEXT: usize = 1024;

/// How to speak with the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// SPDY/3.1: every container runtime has it.
    #[default]
    Spdy,
    /// WebSocket; port-forward as SPDY within it.
    WebSocket,
}

/// How to reach the server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// The protocol.
    pub transport: Transport,
    /// For URLs that are `https`.
    pub tls: Option<ClientTls>,
}

impl From<Transport> for Options {
    fn from(transport: Transport) -> Self {
        Self { transport, tls: None }
    }
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The runtime gave something that is no URL.
    #[error("the runtime's streaming URL `{url}` is not a URL")]
    Url {
        /// As given.
        url: String,
        /// Why.
        #[source]
        source: InvalidUri,
    },
    /// Of another kind.
    #[error("the runtime's streaming URL `{url}` is not of the form http[s]://HOST:PORT/PATH")]
    Scheme {
        /// As given.
        url: String,
    },
    /// It is to be verified, and nobody said by whom.
    #[error(
        "the runtime's streaming URL `{url}` is https: name the authority that signed its certificate (--tls-ca)"
    )]
    NoAuthority {
        /// As given.
        url: String,
    },
    /// Our files for it.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It is not whom we believe, or does not believe us.
    #[error("no TLS connection with the runtime's streaming server at {address}")]
    Handshake {
        /// Host and port.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nobody is there.
    #[error("cannot connect to the runtime's streaming server at {address}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("the runtime's streaming server at {address} does not answer")]
    Silent {
        /// Host and port.
        address: String,
    },
    /// What is there does not speak HTTP.
    #[error("the runtime's streaming server broke the connection")]
    Http(#[from] hyper::Error),
    /// The server does not want to.
    #[error("the runtime's streaming server refuses with {status}: {text}")]
    Refused {
        /// HTTP's.
        status: StatusCode,
        /// Its words.
        text: String,
    },
    /// The server agreed to something that was not offered.
    #[error("the runtime's streaming server does not upgrade properly: {what}")]
    Upgrade {
        /// What is wrong.
        what: &'static str,
    },
    /// The connection ended while the streams were opened.
    #[error("the runtime's streaming server closed the connection before the streams were open")]
    Closed,
}

impl From<Gone> for ConnectError {
    fn from(_: Gone) -> Self {
        Self::Closed
    }
}

/// A connection whose upgrade is done.
struct Upgrade {
    io: Connection,
    early: Bytes,
    /// What the server chose of the offered sub-protocols.
    protocol: String,
}

/// A client waits as long as its user does.
const TIMEOUTS: Timeouts = Timeouts {
    idle: Duration::from_secs(365 * 24 * 60 * 60),
    peer_first: Duration::from_secs(3),
    linger: Duration::from_secs(3),
};

/// Upgrades to SPDY, offering `protocols`.
async fn spdy(
    url: &str,
    tls: Option<ClientTls>,
    protocols: &[&'static str],
) -> Result<Upgrade, ConnectError> {
    let mut headers = HeaderMap::new();
    headers.insert(UPGRADE, const { HeaderValue::from_static(SPDY) });
    for protocol in protocols {
        headers.append(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    }
    let asked = upgrade(url, tls, Method::POST, headers, protocols, STREAM_PROTOCOL);
    asked.await.map(|(done, _)| done)
}

/// Upgrades to WebSocket, offering `protocols`.
async fn websocket(
    url: &str,
    tls: Option<ClientTls>,
    protocols: &[&'static str],
) -> Result<Upgrade, ConnectError> {
    let key = STANDARD.encode(random::bytes::<16>());
    let accept = websocket::handshake::accept(&key);
    let mut headers = HeaderMap::new();
    headers.insert(UPGRADE, const { HeaderValue::from_static("websocket") });
    headers.insert(WEBSOCKET_VERSION, const { HeaderValue::from_static("13") });
    // Base64 is always a header's value.
    if let Ok(key) = HeaderValue::from_str(&key) {
        headers.insert(WEBSOCKET_KEY, key);
    }
    // In one line: Go's server reads no second one.
    if let Ok(offer) = HeaderValue::from_str(&protocols.join(", ")) {
        headers.insert(WEBSOCKET_PROTOCOL, offer);
    }
    let asked = upgrade(url, tls, Method::GET, headers, protocols, WEBSOCKET_PROTOCOL);
    let (done, answer) = asked.await?;
    if answer.get(&WEBSOCKET_ACCEPT).is_none_or(|value| value.as_bytes() != accept.as_bytes()) {
        return Err(ConnectError::Upgrade { what: "its Sec-WebSocket-Accept is wrong" });
    }
    Ok(done)
}

async fn upgrade(
    url: &str,
    tls: Option<ClientTls>,
    method: Method,
    headers: HeaderMap,
    protocols: &[&'static str],
    chosen: HeaderName,
) -> Result<(Upgrade, HeaderMap), ConnectError> {
    let uri: Uri =
        url.parse().map_err(|source| ConnectError::Url { url: url.to_owned(), source })?;
    let wrong = || ConnectError::Scheme { url: url.to_owned() };
    let tls = match (uri.scheme_str(), tls) {
        (Some("http"), _) => None,
        (Some("https"), Some(tls)) => Some(tls),
        (Some("https"), None) => return Err(ConnectError::NoAuthority { url: url.to_owned() }),
        _ => return Err(wrong()),
    };
    let authority = uri.authority().ok_or_else(wrong)?.as_str().to_owned();
    let asked = async {
        let connection = dial(&uri, tls).await?;
        ask(connection, &uri, &authority, method, headers).await
    };
    let asked = Box::pin(asked);
    let (upgraded, answer) = match tokio::time::timeout(LIMIT, asked).await {
        Ok(done) => done?,
        Err(_elapsed) => return Err(ConnectError::Silent { address: authority }),
    };
    let protocol = answer.get(&chosen).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !protocols.contains(&protocol) {
        return Err(ConnectError::Upgrade { what: "it chose a protocol that was not offered" });
    }
    let parts = upgraded.downcast::<TokioIo<Connection>>();
    let parts = parts.map_err(|_| ConnectError::Upgrade { what: "it is not a connection" })?;
    let protocol = protocol.to_owned();
    let done = Upgrade { io: parts.io.into_inner(), early: parts.read_buf, protocol };
    Ok((done, answer))
}

/// Connects to the URL's host.
async fn dial(uri: &Uri, tls: Option<ClientTls>) -> Result<Connection, ConnectError> {
    let host = uri.host().unwrap_or_default();
    let usual = if tls.is_some() { 443 } else { 80 };
    let port = uri.port_u16().unwrap_or(usual);
    let address = format!("{host}:{port}");
    let unreachable = |source| ConnectError::Unreachable { address: address.clone(), source };
    let addresses: Vec<SocketAddr> =
        tokio::net::lookup_host(&address).await.map_err(unreachable)?.collect();
    let tcp = TcpStream::connect(&*addresses).await.map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;
    let Some(tls) = tls else { return Ok(Connection::Plain(tcp)) };
    let config = tokio::task::spawn_blocking(move || tls.config()).await;
    let config = config.map_err(|gone| unreachable(io::Error::other(gone)))??;
    // An IPv6 address in a URL is in brackets; as a name it is not.
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name =
        ServerName::try_from(bare).map_err(|_| ConnectError::Scheme { url: uri.to_string() })?;
    let encrypted = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
    let encrypted =
        encrypted.map_err(|source| ConnectError::Handshake { address: address.clone(), source })?;
    Ok(Connection::Tls(Box::new(encrypted.into())))
}

/// Sends the request and takes the answer, which is 101.
async fn ask(
    connection: Connection,
    uri: &Uri,
    authority: &str,
    method: Method,
    headers: HeaderMap,
) -> Result<(Upgraded, HeaderMap), ConnectError> {
    let mut request = Request::new(String::new());
    *request.method_mut() = method;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() =
        path.parse().map_err(|source| ConnectError::Url { url: uri.to_string(), source })?;
    *request.headers_mut() = headers;
    request.headers_mut().insert(CONNECTION, const { HeaderValue::from_static("Upgrade") });
    if let Ok(host) = HeaderValue::from_str(authority) {
        request.headers_mut().insert(HOST, host);
    }
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(connection)).await?;
    let exchange = async move {
        let mut answer = sender.send_request(request).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let text = text(answer.body_mut()).await;
            return Err(ConnectError::Refused { status: answer.status(), text });
        }
        let headers = answer.headers().clone();
        Ok((hyper::upgrade::on(answer).await?, headers))
    };
    // The connection does the work; how it ends is told by the exchange.
    let (answer, _end) = tokio::join!(exchange, connection.with_upgrades());
    answer
}

/// The beginning of an answer's body.
async fn text(body: &mut Incoming) -> String {
    let mut text = Vec::new();
    while text.len() < TEXT {
        let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut *body).poll_frame(cx)).await;
        let Some(Ok(frame)) = frame else { break };
        if let Ok(mut data) = frame.into_data() {
            let some = data.copy_to_bytes(data.len().min(TEXT));
            text.extend_from_slice(&some);
        }
    }
    String::from_utf8_lossy(&text).trim().to_owned()
}
