//! Just enough HTTP/1.1 to serve a pull, and to break it in the middle.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::watch;

use super::Seen;

/// An answer to be.
#[derive(Debug, Clone, Default)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) cut_after: Option<usize>,
    pub(super) held: bool,
    pub(super) dropped: bool,
}

impl Reply {
    pub(super) fn text(status: u16, body: String) -> Self {
        Self { status, body: body.into_bytes(), ..Self::default() }
    }
}

pub(super) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

/// Serves one connection until either side has enough.
pub(super) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: impl Fn(Seen) -> Reply,
    mut hold: watch::Receiver<bool>,
) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await {
        let head = request.method == "HEAD";
        let reply = answer(request);
        let (held, in_the_middle) = (reply.held, reply.cut_after.is_some());
        let mut released = async || hold.wait_for(|released| *released).await.is_ok();
        if reply.dropped || (held && !in_the_middle && !released().await) {
            return;
        }
        let whole = write(stream.get_mut(), reply, head).await == Ok(true);
        if held && in_the_middle {
            released().await;
        }
        if !whole {
            return;
        }
    }
}

/// The next request; `None` at the end or for anything that is no HTTP (a TLS greeting, say).
async fn read(stream: &mut BufReader<impl AsyncRead + Unpin>) -> Option<Seen> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await.ok()?;
    let line = String::from_utf8(line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut seen = Seen { method, target, headers, body: String::new() };
    if let Some(length) = seen.header("content-length").and_then(|text| text.parse().ok()) {
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        seen.body = String::from_utf8(body).ok()?;
    }
    Some(seen)
}

/// Whether the connection can be used again.
async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    reply: Reply,
    head: bool,
) -> Result<bool, ()> {
    let mut text = format!("HTTP/1.1 {} Fake\r\n", reply.status);
    for (name, value) in &reply.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n", reply.body.len()));
    stream.write_all(text.as_bytes()).await.map_err(drop)?;
    if head {
        return Ok(true);
    }
    let sent = reply.cut_after.unwrap_or(usize::MAX).min(reply.body.len());
    stream.write_all(&reply.body[..sent]).await.map_err(drop)?;
    stream.flush().await.map_err(drop)?;
    Ok(sent == reply.body.len())
}
