//! What is answered to requests that are no sessions.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// Host and port, and the path.
fn parts(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("http://").unwrap();
    let slash = rest.find('/').unwrap();
    rest.split_at(slash)
}

/// Sends a request head as it is and reads the answer to its end.
async fn ask(url: &str, method: &str, headers: &[&str]) -> String {
    let (address, path) = parts(url);
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n");
    for header in headers {
        head += header;
        head += "\r\n";
    }
    tcp.write_all((head + "\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).to_lowercase()
}

const SPDY: [&str; 3] =
    ["Connection: Upgrade", "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v4.channel.k8s.io"];
const WEBSOCKET: [&str; 4] = [
    "Connection: keep-alive, Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

#[tokio::test]
async fn only_a_fresh_token_of_the_right_kind_reaches_anything() {
    let node = Node::start().await;
    let url = node.exec(&["true"], all());
    let base = url.rsplit_once("/exec/").unwrap().0.to_owned();
    for path in ["/", "/exec", "/exec/", "/exec/AAAAAAAA", "/metrics", "/exec/a/b", "/other/x"] {
        let answer = ask(&format!("{base}{path}"), "GET", &SPDY).await;
        assert!(answer.starts_with("http/1.1 404 "), "{path}: {answer}");
    }
    let answer = ask(&url.replace("/exec/", "/attach/"), "POST", &SPDY).await;
    assert!(answer.starts_with("http/1.1 404 "), "{answer}");
    // The attempt has used it up.
    let answer = ask(&url, "POST", &SPDY).await;
    assert!(answer.starts_with("http/1.1 404 "), "{answer}");
    node.stop().await;
}

#[tokio::test]
async fn methods_and_upgrades_are_refused_as_clients_expect() {
    let node = Node::start().await;
    let url = || node.exec(&["true"], all());
    let spared = url();
    let answer = ask(&spared, "DELETE", &SPDY).await;
    assert!(answer.starts_with("http/1.1 405 ") && answer.contains("allow: get, post"), "{answer}");
    for (headers, status, says) in [
        (&SPDY[1..], "400", "no `connection: upgrade`"),
        (&SPDY[..1], "400", "unable to upgrade"),
        (&SPDY[..2], "400", "no `x-stream-protocol-version`"),
        (&WEBSOCKET[..3], "400", "sec-websocket-key"),
        (&WEBSOCKET[..2], "426", "sec-websocket-version: 13"),
    ] {
        let answer = ask(&url(), "GET", headers).await;
        assert!(answer.starts_with(&format!("http/1.1 {status} ")), "{headers:?}: {answer}");
        assert!(answer.contains(says), "{headers:?}: {answer}");
    }
    let unknown = "X-Stream-Protocol-Version: v9.channel.k8s.io";
    let answer = ask(&url(), "POST", &[SPDY[0], SPDY[1], unknown]).await;
    assert!(answer.starts_with("http/1.1 403 "), "{answer}");
    for version in ["v4.", "v3.", "v2.", ""] {
        let line = format!("x-accepted-stream-protocol-versions: {version}channel.k8s.io\r\n");
        assert!(answer.contains(&line), "{answer}");
    }
    let mut headers = WEBSOCKET.to_vec();
    headers.push("Sec-WebSocket-Protocol: v9.channel.k8s.io");
    let answer = ask(&url(), "GET", &headers).await;
    assert!(answer.starts_with("http/1.1 403 "), "{answer}");
    let used = node.urls.waiting();
    assert_eq!(used, 1, "only the wrong method leaves the token");
    ask(&spared, "GET", &[]).await;
    node.stop().await;
}

#[tokio::test]
async fn the_clients_first_known_version_wins() {
    let node = Node::start().await;
    let offers = "X-Stream-Protocol-Version: v9.channel.k8s.io, v2.channel.k8s.io";
    let more = "X-Stream-Protocol-Version: v4.channel.k8s.io";
    let url = node.exec(&["true"], all());
    let (address, path) = parts(&url);
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {path}?ignored=1 HTTP/1.1\r\nHost: {address}\r\nConnection: upgrade\r\n\
         Upgrade: spdy/3.1\r\n{offers}\r\n{more}\r\n\r\n"
    );
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 1024];
    let n = tcp.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..n]).to_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    assert!(answer.contains("x-stream-protocol-version: v2.channel.k8s.io"), "{answer}");
    assert!(answer.contains("upgrade: spdy/3.1"), "{answer}");
    // Go's client would drop the whole of `Connection` with a `close` in it.
    assert!(answer.contains("connection: upgrade\r\n"), "{answer}");
    drop(tcp);
    node.stop().await;
}

/// The handshake and the first messages of a WebSocket client without a sub-protocol.
#[tokio::test]
async fn a_websocket_client_without_a_protocol_gets_the_first_version() {
    let node = Node::start().await;
    let streams = Streams::new(false, true, false, false).unwrap();
    let url = node.exec(&["sh", "-c", "echo hello; exit 5"], streams);
    let (address, path) = parts(&url);
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{}\r\n\r\n", WEBSOCKET.join("\r\n"));
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let mut piece = [0; 256];
    // The server's closing frame is answered, then it closes.
    while !answer.ends_with(b"\x88\x02\x03\xe8") {
        let n = tcp.read(&mut piece).await.unwrap();
        assert_ne!(n, 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..n]);
    }
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    assert!(!head.contains("sec-websocket-protocol"), "{head}");
    let failure = b"command terminated with non-zero exit code: 5";
    let mut want = b"\x82\x01\x01\x82\x07\x01hello\n".to_vec();
    want.extend([0x82, u8::try_from(failure.len()).unwrap() + 1, 3]);
    want.extend(failure);
    want.extend(b"\x88\x02\x03\xe8");
    assert_eq!(String::from_utf8_lossy(&answer[end..]), String::from_utf8_lossy(&want));
    drop(tcp);
    node.stop().await;
}

#[tokio::test]
async fn input_that_comes_with_a_websocket_handshake_reaches_the_process() {
    use crate::websocket::{Channels, Encoding};
    use crate::wire::{Role, StreamId};
    let node = Node::start().await;
    let streams = Streams::new(true, true, false, false).unwrap();
    let url = node.exec(&["head", "-c", "6"], streams);
    let (address, path) = parts(&url);
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{}\r\n\r\n", WEBSOCKET.join("\r\n"));
    let mut out = bytes::BytesMut::from(head.as_bytes());
    let channels = Channels::new(Role::Client, Encoding::Binary, false);
    channels.data(StreamId(0), b"early\n", &mut out);
    tcp.write_all(&out).await.unwrap();
    let mut answer = Vec::new();
    let mut piece = [0; 256];
    while !answer.windows(7).any(|bytes| bytes == b"\x01early\n") {
        let n = tcp.read(&mut piece).await.unwrap();
        assert_ne!(n, 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..n]);
    }
    drop(tcp);
    node.stop().await;
}

#[tokio::test]
async fn a_client_that_opens_no_streams_is_cut_in_time() {
    let config = Config { stream_creation_timeout: Duration::from_millis(50), ..Config::default() };
    let node = Node::with(config).await;
    let (url, port_forward) = (node.exec(&["true"], all()), node.port_forward(&[]));
    let answer = ask(&url, "POST", &SPDY).await;
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    let (address, path) = parts(&port_forward);
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n"
    );
    tcp.write_all(head.as_bytes()).await.unwrap();
    assert_ne!(tcp.read(&mut [0; 512]).await.unwrap(), 0);
    drop(tcp);
    node.stop().await;
}

#[tokio::test]
async fn more_sessions_than_allowed_are_sent_away() {
    let node = Node::with(Config { max_sessions: 1, ..Config::default() }).await;
    let url = node.exec(&["sleep", "1000"], all());
    let first = client::ClientProcess::connect(&url, client::Transport::Spdy, all()).await.unwrap();
    let refused = node.exec(&["true"], all());
    let second = client::ClientProcess::connect(&refused, client::Transport::Spdy, all()).await;
    match second {
        Err(client::ConnectError::Refused { status, .. }) => assert_eq!(status, 503),
        // The answer may come before the question was sent.
        Err(client::ConnectError::Http(_)) => {}
        other => panic!("{:?}", other.err()),
    }
    drop(first);
    assert_eq!(node.urls.waiting(), 1);
    let Node { running, stop, .. } = node;
    drop(stop);
    running.await.unwrap();
}

#[tokio::test]
async fn headers_without_end_are_refused() {
    let node = Node::start().await;
    let url = node.exec(&["true"], all());
    let long = format!("X-Long: {}", "a".repeat(20_000));
    let answer = ask_rudely(&url, &long).await;
    assert!(answer.is_empty() || answer.starts_with("http/1.1 431 "), "{answer}");
    ask(&url, "GET", &[]).await;
    node.stop().await;
}

/// The server may close before it has read everything.
async fn ask_rudely(url: &str, header: &str) -> String {
    let (address, path) = parts(url);
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\n{header}\r\n\r\n");
    let mut answer = Vec::new();
    if tcp.write_all(head.as_bytes()).await.is_ok() {
        tcp.read_to_end(&mut answer).await.ok();
    }
    String::from_utf8_lossy(&answer).to_lowercase()
}
