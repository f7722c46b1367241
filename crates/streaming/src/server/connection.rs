//! One accepted connection: its one HTTP request, and the session that comes of it.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Method, Request as HttpRequest, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::negotiate::{Refusal, negotiate, refusal};
use super::tokens::Tokens;
use crate::connection::Connection;
use crate::session::{Context, ProcessRequest, Request, Session};
use crate::wire::Wire;

/// For the whole of a request's head. What is slower blocks others.
pub(super) const HEAD_LIMIT: Duration = Duration::from_secs(10);
const HEAD_BYTES: usize = 16 * 1024;
const HEADERS: usize = 64;

/// What the request's handler leaves for after the answer.
struct Begun {
    upgrade: OnUpgrade,
    wire: Wire,
    session: Session,
}

/// A session that is ready to run.
pub(super) struct Ready {
    io: Connection,
    early: bytes::Bytes,
    wire: Wire,
    session: Session,
}

impl Ready {
    /// Runs it to its end.
    pub(super) async fn run(self, context: &Context) {
        let end = self.session.run(self.wire, self.io, self.early, context).await;
        tracing::debug!(%end, "a streaming session ended");
    }
}

/// Serves the request of a connection. `None` if no session comes of it.
pub(super) async fn handshake(connection: Connection, tokens: &Tokens) -> Option<Ready> {
    let begun: Arc<Mutex<Option<Begun>>> = Arc::default();
    let service = service_fn(|request| {
        let answer = answer(request, tokens, &begun);
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS);
    let served = http.serve_connection(TokioIo::new(connection), service).with_upgrades();
    if let Err(error) = Box::pin(served).await {
        tracing::debug!(%error, "a streaming connection failed before its session");
    }
    let begun = begun.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    let Begun { upgrade, wire, session } = begun;
    let parts = upgrade.await.ok()?.downcast::<TokioIo<Connection>>().ok()?;
    Some(Ready { io: parts.io.into_inner(), early: parts.read_buf, wire, session })
}

fn answer(
    mut request: HttpRequest<Incoming>,
    tokens: &Tokens,
    begun: &Mutex<Option<Begun>>,
) -> Response<String> {
    let agreed = token(request.uri().path(), request.method(), tokens)
        .and_then(|wanted| negotiate(request.method(), request.headers(), wanted));
    match agreed {
        Ok(agreed) => {
            let upgrade = hyper::upgrade::on(&mut request);
            let (wire, session) = (agreed.wire, agreed.session);
            *begun.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(Begun { upgrade, wire, session });
            agreed.answer
        }
        Err(refusal) => *refusal,
    }
}

/// What a path's token stands for. A token for something else is used up as well.
fn token(path: &str, method: &Method, tokens: &Tokens) -> Result<Request, Refusal> {
    let unknown = || refusal(StatusCode::NOT_FOUND, "no such streaming session, or begun already");
    let (kind, token) =
        path.strip_prefix('/').and_then(|path| path.split_once('/')).ok_or_else(unknown)?;
    if !["exec", "attach", "portforward"].contains(&kind) {
        return Err(unknown());
    }
    if method != Method::GET && method != Method::POST {
        let mut answer = refusal(StatusCode::METHOD_NOT_ALLOWED, "want GET or POST");
        answer
            .headers_mut()
            .insert(http::header::ALLOW, const { http::HeaderValue::from_static("GET, POST") });
        return Err(answer);
    }
    let request = tokens.take(token).ok_or_else(unknown)?;
    if kind == kind_of(&request) { Ok(request) } else { Err(unknown()) }
}

/// The path's first part.
pub(super) fn kind_of(request: &Request) -> &'static str {
    match request {
        Request::Process(ProcessRequest::Exec(_)) => "exec",
        Request::Process(ProcessRequest::Attach(_)) => "attach",
        Request::PortForward(_) => "portforward",
    }
}

/// Answers that there is no room. Without reading: what the client wants makes no difference.
pub(super) async fn send_away(mut tcp: TcpStream) {
    use tokio::io::AsyncWriteExt as _;
    let answer = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n";
    let sent = async {
        tcp.write_all(answer).await?;
        tcp.shutdown().await
    };
    if let Err(error) = sent.await {
        tracing::debug!(%error, "a client that was sent away had gone by itself");
    }
}
