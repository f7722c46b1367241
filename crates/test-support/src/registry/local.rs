//! A registry within this process: pull only, from memory, and able to misbehave.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use crate::images::OciImage;

/// What goes wrong when a blob is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The connection breaks at that byte of the blob, every time.
    Truncate(usize),
    /// The connection breaks at that byte of the blob, the first time.
    TruncateOnce(usize),
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
}

/// A registry that lives as long as this process.
#[derive(Debug)]
pub struct LocalRegistry {
    address: SocketAddr,
    shelf: Arc<Mutex<Shelf>>,
}

impl LocalRegistry {
    /// Listens on a free loopback port.
    ///
    /// # Errors
    /// No port or no thread is to be had.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen on loopback")?;
        let address = listener.local_addr().context("the registry's address")?;
        let shelf = Arc::new(Mutex::new(Shelf::default()));
        let served = Arc::clone(&shelf);
        let accept = move || {
            for stream in listener.incoming().flatten() {
                let shelf = Arc::clone(&served);
                let serve = move || {
                    // A client that hangs up in the middle is its own affair.
                    serve(stream, &shelf).ok();
                };
                std::thread::Builder::new().name("registry-conn".into()).spawn(serve).ok();
            }
        };
        std::thread::Builder::new()
            .name("registry".into())
            .spawn(accept)
            .context("start the registry's thread")?;
        Ok(Self { address, shelf })
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

    /// `METHOD path` of every request so far whose path begins with `/v2/<repository>/`.
    pub fn requests(&self, repository: &str) -> Vec<String> {
        let prefix = format!(" /v2/{repository}/");
        self.shelf().requests.iter().filter(|r| r.contains(&prefix)).cloned().collect()
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Request {
    method: String,
    path: String,
    range_start: usize,
}

fn serve(stream: TcpStream, shelf: &Mutex<Shelf>) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone().context("clone the stream")?);
    let mut stream = stream;
    while let Some(request) = read_request(&mut reader)? {
        if !answer(&mut stream, shelf, &request)? {
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
    let mut request = Request { method, path, range_start: 0 };
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
        }
    }
}

/// Whether the connection may go on.
fn answer(stream: &mut TcpStream, shelf: &Mutex<Shelf>, request: &Request) -> Result<bool> {
    let (content, fault) = {
        let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
        shelf.requests.push(format!("{} {}", request.method, request.path));
        let fault = shelf.faults.get(&request.path).cloned();
        if request.method == "GET" && matches!(fault, Some(Fault::TruncateOnce(_))) {
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
    send(stream, request, &content, fault.as_ref())
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
    request: &Request,
    content: &Content,
    fault: Option<&Fault>,
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
