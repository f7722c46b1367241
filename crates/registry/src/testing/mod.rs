//! A registry inside the test process: HTTP/1.1 over loopback, with faults on demand.
//!
//! Never in a shipped build (feature `testing`). It keeps what is put into it, answers the pull
//! half of the distribution API, and remembers every request it saw.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a broken test double must panic")]

mod content;
mod http;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use model::Digest;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use content::Content;
pub use content::{ImageSpec, LayerSpec};
use http::Reply;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `GET`, …
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lowercase.
    pub headers: Vec<(String, String)>,
    /// The body, if any.
    pub body: String,
}

impl Seen {
    /// The first header of this (lowercase) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What goes wrong with one answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This status, header lines and body instead.
    Status(u16, Vec<(String, String)>, String),
    /// The connection closes after so many bytes of the body.
    CutAfter(usize),
    /// Nothing follows so many bytes of the body until [`FakeRegistry::release`].
    HoldAfter(usize),
    /// This byte of the body is changed.
    Corrupt(usize),
    /// So many bytes of the body, honestly announced.
    Shortened(usize),
    /// These bytes follow the body, honestly announced.
    Appended(Vec<u8>),
    /// No `Range` is honoured.
    NoRanges,
    /// Nothing is answered until [`FakeRegistry::release`].
    Hold,
    /// The connection closes without an answer.
    Drop,
}

/// Who may read.
#[derive(Debug, Clone, Default)]
pub enum Access {
    /// Everybody.
    #[default]
    Open,
    /// This user.
    Basic {
        /// User name.
        user: String,
        /// Password.
        password: String,
    },
    /// Bearers of a token from `/token` of this server.
    Token {
        /// Who gets one by `GET` or, of plain letters, by `POST`; `None`: everybody by `GET`.
        user: Option<(String, String)>,
        /// Which refresh token gets one by `POST`.
        refresh: Option<String>,
        /// Seconds a token is said to live; each is valid until the next is issued.
        expires_in: u64,
    },
}

struct Planned {
    part: String,
    fault: Fault,
    times: usize,
}

#[derive(Default)]
struct State {
    content: Content,
    faults: Vec<Planned>,
    access: Access,
    token: u32,
    seen: Vec<Seen>,
}

/// The registry; it ends when dropped.
pub struct FakeRegistry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    released: tokio::sync::watch::Sender<bool>,
    arrivals: tokio::sync::watch::Sender<usize>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for FakeRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FakeRegistry({})", self.address)
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeRegistry {
    /// Listens on a free port of the loopback interface, without TLS.
    pub async fn start() -> Self {
        Self::listen(None).await
    }

    /// The same with TLS alone.
    pub async fn start_tls(config: Arc<rustls::ServerConfig>) -> Self {
        Self::listen(Some(config.into())).await
    }

    async fn listen(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let (released, hold) = tokio::sync::watch::channel(false);
        let (arrivals, _) = tokio::sync::watch::channel(0);
        let shared = Arc::clone(&state);
        let counter = arrivals.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (state, counter) = (Arc::clone(&shared), counter.clone());
                let answer = move |request: Seen| {
                    let reply = lock(&state).answer(address, &request);
                    counter.send_modify(|count| *count += 1);
                    reply
                };
                let (tls, hold) = (tls.clone(), hold.clone());
                connections.spawn(async move {
                    match tls {
                        None => http::serve(stream, answer, hold).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                http::serve(stream, answer, hold).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, state, released, arrivals, task }
    }

    /// `127.0.0.1:<port>`: what references name.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// `http://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Keeps a blob, readable in every repository.
    pub fn put_blob(&self, bytes: impl Into<Vec<u8>>) -> Digest {
        lock(&self.state).content.put_blob(bytes.into())
    }

    /// Keeps a manifest under its digest and, if given, a tag.
    pub fn put_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: impl AsRef<[u8]>,
    ) -> Digest {
        lock(&self.state).content.put_manifest(repository, tag, media_type, bytes.as_ref())
    }

    /// Keeps a whole image: layers, configuration and manifest. Returns the manifest's digest
    /// and the configuration's, which is the image id.
    pub fn put_image(&self, repository: &str, tag: &str, image: &ImageSpec) -> (Digest, Digest) {
        lock(&self.state).content.put_image(repository, tag, image)
    }

    /// Forgets a blob.
    pub fn remove_blob(&self, digest: &Digest) {
        lock(&self.state).content.remove_blob(digest);
    }

    /// Spoils the next `times` answers to requests whose target contains `part`.
    pub fn fault(&self, part: &str, fault: Fault, times: usize) {
        lock(&self.state).faults.push(Planned { part: part.into(), fault, times });
    }

    /// Says who may read from now on.
    pub fn access(&self, access: Access) {
        lock(&self.state).access = access;
    }

    /// No token issued so far is valid any longer.
    pub fn revoke_tokens(&self) {
        lock(&self.state).token += 1;
    }

    /// Lets answers go that [`Fault::Hold`] keeps back.
    pub fn release(&self) {
        self.released.send_replace(true);
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.state).seen.clone()
    }

    /// How many requests had `part` in their target.
    pub fn count(&self, part: &str) -> usize {
        lock(&self.state).seen.iter().filter(|seen| seen.target.contains(part)).count()
    }

    /// Waits until so many requests with `part` in their target have arrived.
    pub async fn arrived(&self, part: &str, times: usize) {
        let mut arrivals = self.arrivals.subscribe();
        while self.count(part) < times {
            arrivals.changed().await.unwrap();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl State {
    fn answer(&mut self, address: SocketAddr, request: &Seen) -> Reply {
        self.seen.push(request.clone());
        let planned = self
            .faults
            .iter_mut()
            .find(|planned| planned.times > 0 && request.target.contains(&planned.part));
        let fault = planned.map(|planned| {
            planned.times -= 1;
            planned.fault.clone()
        });
        if let Some(Fault::Status(status, headers, body)) = fault {
            return Reply { status, headers, ..Reply::text(status, body) };
        }
        if request.target.starts_with("/token") {
            return self.issue(request);
        }
        if let Some(refusal) = self.refusal(address, request) {
            return refusal;
        }
        let ranges = !matches!(fault, Some(Fault::NoRanges));
        let mut reply = self.content.answer(request, ranges);
        match fault {
            None | Some(Fault::Status(..) | Fault::NoRanges) => {}
            Some(Fault::CutAfter(bytes)) => reply.cut_after = Some(bytes),
            Some(Fault::HoldAfter(bytes)) => {
                reply.cut_after = Some(bytes);
                reply.held = true;
            }
            Some(Fault::Corrupt(at)) => {
                if let Some(byte) = reply.body.get_mut(at) {
                    *byte ^= 0xff;
                }
            }
            Some(Fault::Shortened(bytes)) => reply.body.truncate(bytes),
            Some(Fault::Appended(more)) => reply.body.extend(more),
            Some(Fault::Hold) => reply.held = true,
            Some(Fault::Drop) => reply.dropped = true,
        }
        reply
    }

    fn refusal(&self, address: SocketAddr, request: &Seen) -> Option<Reply> {
        let authorization = request.header("authorization");
        let (wanted, challenge) = match &self.access {
            Access::Open => return None,
            Access::Basic { user, password } => {
                (http::basic(user, password), "Basic realm=\"fake\"".to_owned())
            }
            Access::Token { .. } => (
                format!("Bearer token-{}", self.token),
                format!("Bearer realm=\"http://{address}/token\",service=\"fake\""),
            ),
        };
        if authorization == Some(&wanted) {
            return None;
        }
        let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"log in first"}]}"#;
        let mut reply = Reply::text(401, body.to_owned());
        reply.headers.push(("WWW-Authenticate".to_owned(), challenge));
        Some(reply)
    }

    fn issue(&mut self, request: &Seen) -> Reply {
        let Access::Token { user, refresh, expires_in } = &self.access else {
            return Reply::text(404, String::new());
        };
        let allowed = if request.method == "POST" {
            let says = |pair: &str| request.body.split('&').any(|own| own == pair);
            let refreshes = refresh.as_ref().is_some_and(|refresh| {
                says("grant_type=refresh_token") && says(&format!("refresh_token={refresh}"))
            });
            let names = user.as_ref().is_some_and(|(user, password)| {
                says("grant_type=password")
                    && says(&format!("username={user}"))
                    && says(&format!("password={password}"))
            });
            refreshes || names
        } else {
            user.as_ref().is_none_or(|(user, password)| {
                request.header("authorization") == Some(&http::basic(user, password))
            })
        };
        if !allowed {
            return Reply::text(401, r#"{"details":"incorrect username or password"}"#.to_owned());
        }
        self.token += 1;
        let body = format!(r#"{{"token":"token-{}","expires_in":{expires_in}}}"#, self.token);
        Reply::text(200, body)
    }
}
