//! Connections of real bytes in memory and over sockets, with the peer played by hand.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;
use crate::spdy::Endpoint;

impl Io for DuplexStream {
    fn peer(&self) -> super::Peer {
        super::Peer::There
    }
}

const LIMITS: Limits =
    Limits { stream_buffer: 1000, total_buffer: 10_000, streams: 3, outlives_reset: false };
const TIMEOUTS: Timeouts = Timeouts {
    idle: Duration::from_secs(3600),
    peer_first: Duration::from_secs(3),
    linger: Duration::from_secs(10),
};

use std::time::Duration;

fn server() -> Mux {
    Mux::new(Wire::Spdy(Endpoint::new(Role::Server)), LIMITS)
}

/// A peer that speaks SPDY by hand.
struct Peer {
    io: DuplexStream,
    spdy: Endpoint,
}

impl Peer {
    fn new() -> (Self, DuplexStream) {
        let (io, ours) = duplex(64 * 1024);
        (Self { io, spdy: Endpoint::new(Role::Client) }, ours)
    }

    async fn open(&mut self) -> StreamId {
        let mut out = BytesMut::new();
        let id = self.spdy.open(&Headers::default(), &mut out).unwrap();
        self.io.write_all(&out).await.unwrap();
        id
    }

    async fn send(&mut self, id: StreamId, bytes: &[u8]) {
        let mut out = BytesMut::new();
        Endpoint::data(id, bytes, &mut out);
        self.io.write_all(&out).await.unwrap();
    }

    /// The next events, at least one.
    async fn events(&mut self) -> Vec<String> {
        let mut events = Vec::new();
        while events.is_empty() {
            let mut piece = [0; 4096];
            let n = self.io.read(&mut piece).await.unwrap();
            assert_ne!(n, 0, "the connection was closed");
            let mut out = BytesMut::new();
            self.spdy
                .receive(&piece[..n], &mut out, &mut |event| events.push(format!("{event:?}")))
                .unwrap();
        }
        events
    }
}

#[tokio::test]
async fn a_stalled_stream_holds_up_the_others_only_beyond_its_buffer() {
    let (mut peer, io) = Peer::new();
    let mux = server();
    let work = async {
        let (slow, quick) = (peer.open().await, peer.open().await);
        let (slow_stream, _) = mux.accept().await.unwrap();
        let (quick_stream, _) = mux.accept().await.unwrap();
        peer.send(slow, &[1; 1000]).await;
        peer.send(quick, b"passes").await;
        assert_eq!(quick_stream.receive().await, Received::Data("passes".into()));
        // One byte more than the limit: nothing is read until somebody takes it.
        peer.send(slow, &[2]).await;
        peer.send(quick, b"waits").await;
        while mux.held().0 < 1001 {
            tokio::task::yield_now().await;
        }
        assert_eq!(mux.held().0, 1001 + if mux.held().0 > 1001 { 5 } else { 0 });
        assert!(matches!(slow_stream.receive().await, Received::Data(all) if all.len() == 1001));
        assert_eq!(quick_stream.receive().await, Received::Data("waits".into()));
        assert_eq!(mux.held().0, 0);
    };
    tokio::select! {
        () = work => {}
        end = drive(&mux, io, Bytes::new(), TIMEOUTS) => panic!("{end:?}"),
    }
}

use bytes::Bytes;

#[tokio::test]
async fn a_writer_waits_for_a_peer_that_does_not_read() {
    let (mut peer, io) = Peer::new();
    let mux = server();
    let work = async {
        let id = peer.open().await;
        let (stream, _) = mux.accept().await.unwrap();
        stream.reply();
        let sent = async {
            stream.send_all(&[7; 1_000_000]).await.unwrap();
            stream.finish();
        };
        let read = async {
            // The peer sleeps while the writer fills what there is.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert!(mux.held().1 < 200_000, "{}", mux.held().1);
            let mut total = 0;
            let mut out = BytesMut::new();
            let mut ended = false;
            while !ended {
                let mut piece = vec![0; 4096];
                let n = peer.io.read(&mut piece).await.unwrap();
                peer.spdy
                    .receive(&piece[..n], &mut out, &mut |event| match event {
                        Event::Data { bytes, .. } => total += bytes.len(),
                        Event::Ended { id: ended_id } => ended = ended_id == id,
                        _ => {}
                    })
                    .unwrap();
            }
            assert_eq!(total, 1_000_000);
        };
        tokio::join!(sent, read);
        assert_eq!(mux.held(), (0, 0));
    };
    tokio::select! {
        () = work => {}
        end = drive(&mux, io, Bytes::new(), TIMEOUTS) => panic!("{end:?}"),
    }
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_and_a_dropped_one_is_reset() {
    let (mut peer, io) = Peer::new();
    let mux = server();
    let work = async {
        let mut held = Vec::new();
        for _ in 0..3 {
            peer.open().await;
            held.push(mux.accept().await.unwrap().0);
        }
        peer.open().await;
        assert_eq!(peer.events().await, ["Reset { id: StreamId(7) }"]);
        held.remove(1);
        assert_eq!(peer.events().await, ["Reset { id: StreamId(3) }"]);
        peer.open().await;
        assert_eq!(mux.accept().await.unwrap().0.id(), StreamId(9));
    };
    tokio::select! {
        () = work => {}
        end = drive(&mux, io, Bytes::new(), TIMEOUTS) => panic!("{end:?}"),
    }
}

#[tokio::test]
async fn what_came_with_the_handshake_is_read_first() {
    let (mut peer, io) = Peer::new();
    let mut early = BytesMut::new();
    let id = peer.spdy.open(&Headers::default(), &mut early).unwrap();
    Endpoint::data(id, b"at once", &mut early);
    let mux = server();
    let work = async {
        let (stream, _) = mux.accept().await.unwrap();
        assert_eq!(stream.receive().await, Received::Data("at once".into()));
    };
    tokio::select! {
        () = work => {}
        end = drive(&mux, io, early.freeze(), TIMEOUTS) => panic!("{end:?}"),
    }
}

#[tokio::test]
async fn a_peer_that_talks_nonsense_is_told_to_go_away() {
    let (mut peer, io) = Peer::new();
    let mux = server();
    peer.io.write_all(&[0x80, 9, 0, 1, 0, 0, 0, 0]).await.unwrap();
    let play = async {
        assert_eq!(peer.events().await, ["GoingAway"]);
        let mut rest = Vec::new();
        peer.io.read_to_end(&mut rest).await.unwrap();
        drop(peer);
    };
    let (end, ()) = tokio::join!(drive(&mux, io, Bytes::new(), TIMEOUTS), play);
    assert!(matches!(end, End::Broken(WireError::Version(9))), "{end:?}");
    assert!(mux.accept().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_byte_is_ended_after_the_idle_time() {
    let (_peer, io) = Peer::new();
    let begun = tokio::time::Instant::now();
    let end = drive(&server(), io, Bytes::new(), TIMEOUTS).await;
    assert!(matches!(end, End::Idle), "{end:?}");
    assert_eq!(begun.elapsed().as_secs(), 3600);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_closes_is_left_after_the_goodbye() {
    let (mut peer, io) = Peer::new();
    let mux = server();
    mux.part(Parting::PeerFirst);
    let play = async {
        assert_eq!(peer.events().await, ["GoingAway"]);
    };
    let (end, ()) = tokio::join!(drive(&mux, io, Bytes::new(), TIMEOUTS), play);
    assert!(matches!(end, End::Parted), "{end:?}");
}

#[tokio::test]
async fn what_came_before_the_end_is_delivered_after_it() {
    let (mut peer, io) = Peer::new();
    let mux = server();
    let id = peer.open().await;
    peer.send(id, b"last words").await;
    let mut out = BytesMut::new();
    Endpoint::finish(id, &mut out);
    Endpoint::reset(id, &mut out);
    peer.io.write_all(&out).await.unwrap();
    drop(peer);
    let end = drive(&mux, io, Bytes::new(), TIMEOUTS).await;
    assert!(matches!(end, End::PeerClosed), "{end:?}");
    let (stream, _) = mux.accept().await.unwrap();
    assert_eq!(stream.receive().await, Received::Data("last words".into()));
    assert_eq!(stream.receive().await, Received::End);
    assert!(mux.accept().await.is_none());
}

#[tokio::test]
async fn a_peer_that_floods_pings_and_does_not_read_is_not_read_either() {
    let (peer, io) = Peer::new();
    let mux = server();
    let flood = async {
        let (_read, mut write) = tokio::io::split(peer.io);
        let mut pings = BytesMut::new();
        for _ in 0..100_000 {
            crate::spdy::frame::ping(1, &mut pings);
        }
        write.write_all(&pings).await.unwrap();
        panic!("1.2 MB of pings were taken and 1.2 MB of answers held");
    };
    let bounded = async {
        while mux.held().1 < 256 * 1024 {
            tokio::task::yield_now().await;
        }
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert!(mux.held().1 < 400 * 1024, "{}", mux.held().1);
    };
    tokio::select! {
        () = bounded => {}
        () = flood => {}
        end = drive(&mux, io, Bytes::new(), TIMEOUTS) => panic!("{end:?}"),
    }
}

#[tokio::test]
async fn what_a_server_says_before_it_resets_a_stream_is_heard() {
    let (io, mut theirs) = duplex(64 * 1024);
    let limits = Limits { outlives_reset: true, ..LIMITS };
    let mux = Mux::new(Wire::Spdy(Endpoint::new(Role::Client)), limits);
    let stream = mux.open(&Headers::default()).unwrap();
    let mut out = BytesMut::new();
    Endpoint::new(Role::Server).reply(stream.id(), &mut out);
    Endpoint::data(stream.id(), b"status", &mut out);
    Endpoint::reset(stream.id(), &mut out);
    theirs.write_all(&out).await.unwrap();
    let work = async {
        assert_eq!(stream.receive().await, Received::Data("status".into()));
        assert_eq!(stream.receive().await, Received::Reset);
    };
    tokio::select! {
        () = work => {}
        end = drive(&mux, io, Bytes::new(), TIMEOUTS) => panic!("{end:?}"),
    }
}

/// A connection whose peer has closed: what it said is there, and nothing can be said to it.
struct Deaf(DuplexStream);

impl tokio::io::AsyncRead for Deaf {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl tokio::io::AsyncWrite for Deaf {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::task::Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into()))
    }
}

impl Io for Deaf {
    fn peer(&self) -> super::Peer {
        super::Peer::Closed
    }
}

#[tokio::test]
async fn a_failed_write_does_not_lose_what_the_peer_said_before() {
    let (mut peer, io) = Peer::new();
    let mux = server();
    let id = peer.open().await;
    let work = async {
        let (stream, _) = mux.accept().await.unwrap();
        // The answer to the opening finds nobody, before the rest has been read.
        stream.reply();
        while mux.held().1 > 0 {
            tokio::task::yield_now().await;
        }
        peer.send(id, b"last words").await;
        drop(peer);
        stream.receive().await
    };
    let both = async { tokio::join!(drive(&mux, Deaf(io), Bytes::new(), TIMEOUTS), work) };
    let (end, heard) = tokio::time::timeout(Duration::from_secs(30), both).await.unwrap();
    assert_eq!(heard, Received::Data("last words".into()));
    assert!(matches!(end, End::Failed(_)), "{end:?}");
}
