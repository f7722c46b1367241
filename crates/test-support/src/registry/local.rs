//! A registry within this process: pull only, from memory, and able to misbehave.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::images::OciImage;

/// What goes wrong when a blob is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The connection breaks at that byte of the blob, every time.
    Truncate(usize),
    /// The connection breaks at that byte of the blob, the first time.
    TruncateOnce(usize),
    /// Nothing comes after that byte of the blob, the first time, until it is let go on.
    HoldOnce(usize),
    /// Other bytes of the same length.
    Corrupt,
    /// This HTTP status.
    Status(u16),
}

#[derive(Debug, Clone)]
struct Content {
    media_type: String,
    digest: String,
    bytes: Arc<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Shelf {
    /// By path: `/v2/<name>/manifests/<tag or digest>`, `/v2/<name>/blobs/<digest>`.
    content: HashMap<String, Content>,
    /// By path.
    faults: HashMap<String, Fault>,
    /// `METHOD path`, in the order of arrival.
    requests: Vec<String>,
    /// Who asks must bear the token of this number.
    token: Option<u32>,
    /// So many have been asked for.
    issued: u32,
    /// So many blobs are held.
    held: u32,
}

/// What all connections share.
#[derive(Debug, Default)]
struct Shared {
    shelf: Mutex<Shelf>,
    /// A blob is held, or let go on.
    changed: Condvar,
}

impl Shared {
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a blob until it is let go on.
    fn hold(&self) {
        let mut shelf = self.shelf();
        shelf.held += 1;
        self.changed.notify_all();
        let held = self.changed.wait_while(shelf, |shelf| shelf.held > 0);
        drop(held.unwrap_or_else(PoisonError::into_inner));
    }
}

/// A registry that lives as long as this process.
#[derive(Debug)]
pub struct LocalRegistry {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl LocalRegistry {
    /// Listens on a free loopback port.
    ///
    /// # Errors
    /// No port or no thread is to be had.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen on loopback")?;
        let address = listener.local_addr().context("the registry's address")?;
        let shared = Arc::new(Shared::default());
        let served = Arc::clone(&shared);
        let accept = move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&served);
                let serve = move || {
                    // A client that hangs up in the middle is its own affair.
                    serve(stream, &shared).ok();
                };
                std::thread::Builder::new().name("registry-conn".into()).spawn(serve).ok();
            }
        };
        std::thread::Builder::new()
            .name("registry".into())
            .spawn(accept)
            .context("start the registry's thread")?;
        Ok(Self { address, shared })
    }

    /// `127.0.0.1:<port>`
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Offers an image.
    ///
    /// # Errors
    /// The image has no manifest.
    pub fn add(&self, image: &OciImage) -> Result<()> {
        let mut shelf = self.shelf();
        let base = format!("/v2/{}", image.repository);
        for blob in &image.blobs {
            let content = Content {
                media_type: "application/octet-stream".to_owned(),
                digest: blob.digest.clone(),
                bytes: Arc::new(blob.bytes.clone()),
            };
            shelf.content.insert(format!("{base}/blobs/{}", blob.digest), content);
        }
        for manifest in &image.manifests {
            let content = Content {
                media_type: manifest.media_type.to_owned(),
                digest: manifest.digest.clone(),
                bytes: Arc::new(manifest.bytes.clone()),
            };
            shelf.content.insert(format!("{base}/manifests/{}", manifest.digest), content.clone());
            if manifest.digest == image.top()?.digest {
                shelf.content.insert(format!("{base}/manifests/{}", image.tag), content);
            }
        }
        Ok(())
    }

    /// Makes requests for one blob of `repository` fail in a certain way.
    pub fn break_blob(&self, repository: &str, digest: &str, fault: Fault) {
        self.shelf().faults.insert(format!("/v2/{repository}/blobs/{digest}"), fault);
    }

    /// `METHOD path` of every request so far whose path begins with `/v2/<repository>/`, as far as who asked
    /// was let in.
    pub fn requests(&self, repository: &str) -> Vec<String> {
        let prefix = format!(" /v2/{repository}/");
        self.shelf().requests.iter().filter(|r| r.contains(&prefix)).cloned().collect()
    }

    /// From now on it serves only bearers of the last token that it has issued, which lives for five
    /// minutes as it says.
    pub fn guard(&self) {
        self.shelf().token = Some(0);
    }

    /// The last token is good for nothing any more.
    pub fn revoke(&self) {
        let mut shelf = self.shelf();
        shelf.token = shelf.token.map(|number| number + 1);
    }

    /// How many tokens it has issued.
    pub fn issued(&self) -> u32 {
        self.shelf().issued
    }

    /// Waits until a blob is held.
    ///
    /// # Errors
    /// `limit` passes first.
    pub fn await_held(&self, limit: Duration) -> Result<()> {
        let waited = self.shared.changed.wait_timeout_while(self.shelf(), limit, |it| it.held == 0);
        let (_shelf, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        ensure!(!timeout.timed_out(), "no blob is asked for that is to be held");
        Ok(())
    }

    /// Lets all go on that are held.
    pub fn let_go(&self) {
        self.shelf().held = 0;
        self.shared.changed.notify_all();
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shared.shelf()
    }
}

struct Request {
    method: String,
    path: String,
    range_start: usize,
    authorization: String,
    host: String,
}

fn serve(stream: TcpStream, shared: &Shared) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone().context("clone the stream")?);
    let mut stream = stream;
    while let Some(request) = read_request(&mut reader)? {
        if !answer(&mut stream, shared, &request)? {
            stream.shutdown(Shutdown::Both).ok();
            break;
        }
    }
    Ok(())
}

fn read_request(reader: &mut impl BufRead) -> Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let method = words.next().unwrap_or_default().to_owned();
    let path = words.next().unwrap_or_default().to_owned();
    let (authorization, host) = (String::new(), String::new());
    let mut request = Request { method, path, range_start: 0, authorization, host };
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let header = header.trim_end();
        if header.is_empty() {
            return Ok(Some(request));
        }
        let lower = header.to_ascii_lowercase();
        if let Some(range) = lower.strip_prefix("range: bytes=") {
            let start = range.split('-').next().unwrap_or_default();
            request.range_start = start.parse().context("range")?;
        } else if let Some(value) = lower.strip_prefix("authorization: ") {
            value.clone_into(&mut request.authorization);
        } else if let Some(value) = lower.strip_prefix("host: ") {
            value.clone_into(&mut request.host);
        }
    }
}

/// Whether the connection may go on.
fn answer(stream: &mut TcpStream, shared: &Shared, request: &Request) -> Result<bool> {
    if let Some(went_on) = let_in(stream, shared, request)? {
        return Ok(went_on);
    }
    let (content, fault) = {
        let mut shelf = shared.shelf();
        shelf.requests.push(format!("{} {}", request.method, request.path));
        let fault = shelf.faults.get(&request.path).cloned();
        let once = matches!(fault, Some(Fault::TruncateOnce(_) | Fault::HoldOnce(_)));
        if request.method == "GET" && once {
            shelf.faults.remove(&request.path);
        }
        (shelf.content.get(&request.path).cloned(), fault)
    };
    if request.path == "/v2/" {
        return plain(stream, "200 OK", "{}");
    }
    if let Some(Fault::Status(code)) = fault {
        return plain(stream, &format!("{code} Refused"), "{}");
    }
    let Some(content) = content else {
        let text = r#"{"errors":[{"code":"NOT_FOUND","message":"no such thing"}]}"#;
        return plain(stream, "404 Not Found", text);
    };
    send(stream, shared, request, (&content, fault.as_ref()))
}

/// Issues a token, or turns away who bears none: whether the connection may go on then.
fn let_in(stream: &mut TcpStream, shared: &Shared, request: &Request) -> Result<Option<bool>> {
    let mut shelf = shared.shelf();
    let Some(number) = shelf.token else { return Ok(None) };
    if request.path.starts_with("/token") {
        shelf.issued += 1;
        shelf.token = Some(number + 1);
        let body = format!(r#"{{"token":"number-{}","expires_in":300}}"#, number + 1);
        return plain(stream, "200 OK", &body).map(Some);
    }
    if request.authorization == format!("bearer number-{number}") {
        return Ok(None);
    }
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"local\"", request.host);
    write!(
        stream,
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n"
    )?;
    Ok(Some(true))
}

fn plain(stream: &mut TcpStream, status: &str, body: &str) -> Result<bool> {
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    Ok(true)
}

fn send(
    stream: &mut TcpStream,
    shared: &Shared,
    request: &Request,
    (content, fault): (&Content, Option<&Fault>),
) -> Result<bool> {
    let total = content.bytes.len();
    let start = request.range_start.min(total);
    let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
    let mut head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {}\r\nDocker-Content-Digest: {}\r\n\
         Accept-Ranges: bytes\r\nContent-Length: {}\r\n",
        content.media_type,
        content.digest,
        total - start
    );
    if start > 0 {
        head.push_str(&format!("Content-Range: bytes {start}-{}/{total}\r\n", total - 1));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if request.method == "HEAD" {
        return Ok(true);
    }
    let body = &content.bytes[start..];
    match fault {
        Some(Fault::HoldOnce(n)) => {
            let (now, then) = body.split_at(body.len().min(*n));
            stream.write_all(now)?;
            shared.hold();
            stream.write_all(then)?;
        }
        Some(Fault::Truncate(n) | Fault::TruncateOnce(n)) => {
            stream.write_all(&body[..body.len().min(n.saturating_sub(start))])?;
            return Ok(false);
        }
        Some(Fault::Corrupt) => {
            let mut other = body.to_vec();
            if let Some(last) = other.last_mut() {
                *last ^= 0xff;
            }
            stream.write_all(&other)?;
        }
        Some(Fault::Status(_)) | None => stream.write_all(body)?,
    }
    Ok(true)
}
