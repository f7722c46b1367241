//! A blocking HTTP/1.1 client for plain servers nearby: one request per connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// How long a server may take to accept or to say something.
const PATIENCE: Duration = Duration::from_secs(10);

/// Fetches a page: its status and body.
///
/// # Errors
/// The server cannot be reached or does not speak HTTP.
pub fn get(server: SocketAddr, path: &str) -> Result<(u16, String)> {
    let reply = request(server, "GET", path, &[], &[])?;
    Ok((reply.status, String::from_utf8_lossy(&reply.body).into_owned()))
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The value of a header, by case-insensitive name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Sends one request to `server` and reads the answer to its end.
pub(crate) fn request(
    server: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Reply> {
    let what = || format!("{method} http://{server}{target}");
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE).with_context(what)?;
    stream.set_read_timeout(Some(PATIENCE)).with_context(what)?;
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n");
    head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).with_context(what)?;
    stream.write_all(body).with_context(what)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).with_context(what)?;
    parse(&answer).with_context(what)
}

fn parse(answer: &[u8]) -> Result<Reply> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").context("the answer has no head")?;
    let head = std::str::from_utf8(&answer[..end]).context("the head is not text")?.to_owned();
    let status = head.split(' ').nth(1).context("no status")?.parse().context("status")?;
    let mut reply = Reply { status, head, body: answer[end + 4..].to_vec() };
    if reply.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        reply.body = unchunk(&reply.body)?;
    } else if let Some(length) = reply.header("content-length") {
        let length: usize = length.parse().context("content-length")?;
        ensure!(reply.body.len() >= length || reply.body.is_empty(), "the body is cut short");
    }
    Ok(reply)
}

fn unchunk(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n").context("a chunk has no size")?;
        let size = std::str::from_utf8(&rest[..end]).context("chunk size")?;
        let size = usize::from_str_radix(size, 16).context("chunk size")?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Ok(whole);
        }
        let Some(chunk) = rest.get(..size) else { bail!("a chunk is cut short") };
        whole.extend_from_slice(chunk);
        rest = rest.get(size + 2..).context("a chunk has no end")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_body_is_joined() {
        let reply = parse(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        )
        .unwrap();
        assert_eq!((reply.status, reply.body.as_slice()), (200, &b"abcde"[..]));
    }

    #[test]
    fn a_cut_body_is_refused() {
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").is_err());
        assert!(unchunk(b"9\r\nabc").is_err());
    }
}
