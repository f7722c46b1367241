use client::{ForwardError, Forwarder};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// Two connected sockets: what a user's program has, and what is forwarded.
async fn local() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let user = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (forwarded, _) = listener.accept().await.unwrap();
    (user, forwarded)
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Runs `work` with a port-forward over each transport.
async fn with_forwarder<F>(node: &Node, work: impl Fn(Arc<Forwarder>) -> F)
where
    F: Future<Output = ()>,
{
    for transport in TRANSPORTS {
        let (forwarder, driver) =
            Forwarder::connect(&node.port_forward(&[]), transport).await.unwrap();
        let forwarder = Arc::new(forwarder);
        let work = async {
            work(Arc::clone(&forwarder)).await;
            forwarder.close();
        };
        tokio::join!(work, driver);
    }
}

#[tokio::test]
async fn many_connections_at_once_carry_their_bytes_to_the_end() {
    let node = Node::start().await;
    let (listener, port) = listen().await;
    // Answers only when the whole input has come: half-closing works.
    let echo = async {
        let mut serving = tokio::task::JoinSet::new();
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            serving.spawn(async move {
                let mut all = Vec::new();
                tcp.read_to_end(&mut all).await.unwrap();
                tcp.write_all(&all).await.unwrap();
            });
        }
    };
    let work = with_forwarder(&node, async |forwarder: Arc<Forwarder>| {
        let each = async |n: usize| {
            let (mut user, forwarded) = local().await;
            let sent = pattern(100_000 + n);
            let talk = async {
                user.write_all(&sent).await.unwrap();
                user.shutdown().await.unwrap();
                let mut got = Vec::new();
                user.read_to_end(&mut got).await.unwrap();
                assert!(got == sent, "connection {n}: {} bytes", got.len());
            };
            let (forwarded, ()) = tokio::join!(forwarder.forward(port, forwarded), talk);
            forwarded.unwrap();
        };
        futures_util::future::join_all((0..20).map(each)).await;
    });
    tokio::select! {
        () = work => {}
        () = echo => {}
    }
    node.stop().await;
}

#[tokio::test]
async fn a_port_without_a_listener_is_told_and_the_session_goes_on() {
    let node = Node::start().await;
    let (listener, port) = listen().await;
    let (gone, dead) = listen().await;
    drop(gone);
    with_forwarder(&node, async |forwarder: Arc<Forwarder>| {
        let (_user, forwarded) = local().await;
        let refused = forwarder.forward(dead, forwarded).await;
        let Err(ForwardError::Refused(text)) = refused else { panic!("{refused:?}") };
        let want = format!("error forwarding port {dead} to pod {}, uid : ", sandbox());
        assert!(text.starts_with(&want) && text.contains("refused"), "{text}");
        // A connection that the pod resets.
        let mut byte = [0];
        let (mut user, forwarded) = local().await;
        let reset = async {
            let (tcp, _) = listener.accept().await.unwrap();
            tcp.set_zero_linger().unwrap();
        };
        let (_, (), read) =
            tokio::join!(forwarder.forward(port, forwarded), reset, user.read(&mut byte));
        assert!(matches!(read, Ok(0) | Err(_)));
        // And one that works.
        let (mut user, forwarded) = local().await;
        let served = async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tcp.write_all(b"still here").await.unwrap();
        };
        let read = async {
            let mut got = String::new();
            user.read_to_string(&mut got).await.unwrap();
            drop(user);
            got
        };
        let (forwarded, (), got) = tokio::join!(forwarder.forward(port, forwarded), served, read);
        forwarded.unwrap();
        assert_eq!(got, "still here");
    })
    .await;
    node.stop().await;
}

/// Ports of the request by channels, in little endian first.
#[tokio::test]
async fn websocket_channels_carry_each_port_of_the_request() {
    use crate::websocket::{Channels, Encoding};
    use crate::wire::{Event, Role, StreamId};
    let node = Node::start().await;
    let (listener, port) = listen().await;
    let (gone, dead) = listen().await;
    drop(gone);
    let url = node.port_forward(&[port, dead]);
    let rest = url.strip_prefix("http://").unwrap();
    let (address, path) = rest.split_at(rest.find('/').unwrap());
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
    );
    let mut channels = Channels::new(Role::Client, Encoding::Binary, false);
    // The first bytes for the pod come with the handshake.
    let mut out = bytes::BytesMut::from(head.as_bytes());
    channels.data(StreamId(0), b"ping", &mut out);
    tcp.write_all(&out).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await.unwrap());
    }
    let served = async {
        let (mut pod, _) = listener.accept().await.unwrap();
        let mut got = [0; 4];
        pod.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ping");
        pod.write_all(b"pong").await.unwrap();
    };
    served.await;
    let mut got: [Vec<u8>; 4] = Default::default();
    let mut closed = false;
    while !closed {
        let mut piece = [0; 512];
        let n = tcp.read(&mut piece).await.unwrap();
        channels
            .receive(&mut piece[..n], &mut out, &mut |event| match event {
                Event::Data { id, bytes } => got[id.0 as usize].extend_from_slice(bytes),
                Event::Closed => closed = true,
                _ => {}
            })
            .unwrap();
    }
    assert_eq!(got[0], [&port.to_le_bytes()[..], b"pong"].concat());
    assert_eq!(got[1], port.to_le_bytes());
    assert_eq!(got[2], dead.to_le_bytes());
    assert!(String::from_utf8_lossy(&got[3][2..]).contains("error forwarding port"));
    drop(tcp);
    node.stop().await;
}

#[tokio::test]
async fn a_client_that_disappears_closes_its_connections() {
    let node = Node::start().await;
    let (listener, port) = listen().await;
    let (forwarder, driver) =
        Forwarder::connect(&node.port_forward(&[]), client::Transport::Spdy).await.unwrap();
    let (_user, forwarded) = local().await;
    let mut pod = tokio::select! {
        _ = forwarder.forward(port, forwarded) => panic!("ended by itself"),
        () = driver => panic!("the connection ended"),
        accepted = listener.accept() => accepted.unwrap().0,
    };
    drop(forwarder);
    assert!(matches!(pod.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    node.stop().await;
}
