//! One forwarded connection: a data stream and an error stream, and a connection in the pod.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::SandboxId;
use tokio::net::TcpStream;

use super::chain;
use crate::backend::Backend;
use crate::wire::{Received, Stream, with_scratch};

/// What is read at once: what goes into one frame.
const PIECE: usize = 32 * 1024;

/// Both streams of a forwarded connection and where it goes.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) port: u16,
    pub(crate) data: Stream,
    pub(crate) error: Stream,
    /// Whether the client can end one direction alone. WebSocket channels cannot.
    pub(crate) half_closes: bool,
}

/// How one direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// In order.
    Cleanly,
    /// The connection or the stream broke.
    Broken,
}

impl Pair {
    /// Connects and moves bytes until both directions have ended.
    ///
    /// A connection that cannot be made is told on the error stream, and clients may end their
    /// whole session for that; one that breaks later only resets its stream.
    pub(crate) async fn forward(
        self,
        backend: &dyn Backend,
        sandbox: &SandboxId,
        half_open: Duration,
    ) {
        self.error.discard();
        let connection = match backend.connect(sandbox.clone(), self.port).await {
            Ok(connection) => connection,
            Err(error) => {
                let port = self.port;
                let cause = chain(&error);
                return self
                    .refuse(&format!(
                        "error forwarding port {port} to pod {sandbox}, uid : {cause}"
                    ))
                    .await;
            }
        };
        if exchange(&self.data, &connection, self.half_closes, half_open).await {
            self.data.finish();
        } else {
            // Whoever is at the other end must not take this for an orderly end.
            if let Err(error) = connection.set_zero_linger() {
                tracing::debug!(%error, "cannot reset a forwarded connection");
            }
            self.data.reset();
        }
        self.error.finish();
    }

    /// Tells why there is no connection.
    pub(crate) async fn refuse(&self, why: &str) {
        if self.error.send_all(why.as_bytes()).await.is_err() {
            tracing::debug!(why, "a client was not told why a connection is not forwarded");
        }
        self.error.finish();
        self.data.reset();
    }
}

/// Moves bytes both ways until both directions have ended; whether that was in order.
pub(crate) async fn exchange(
    data: &Stream,
    connection: &TcpStream,
    half_closes: bool,
    half_open: Duration,
) -> bool {
    let moved = AtomicU64::new(0);
    let up = upwards(data, connection, &moved);
    let down = downwards(data, connection, &moved);
    tokio::pin!(up, down);
    let (first, up_is_left) = tokio::select! {
        ended = &mut up => (ended, false),
        ended = &mut down => (ended, true),
    };
    let last = match (first, up_is_left, half_closes) {
        (Ended::Broken, ..) => Ended::Broken,
        (Ended::Cleanly, true, false) => Ended::Cleanly,
        (Ended::Cleanly, true, true) => until_idle(up, &moved, half_open).await,
        (Ended::Cleanly, false, _) => until_idle(down, &moved, half_open).await,
    };
    last == Ended::Cleanly
}

/// Gives a direction up that moves nothing for too long.
async fn until_idle(
    direction: impl Future<Output = Ended>,
    moved: &AtomicU64,
    bound: Duration,
) -> Ended {
    tokio::pin!(direction);
    let mut before = moved.load(Ordering::Relaxed);
    loop {
        tokio::select! {
            ended = &mut direction => return ended,
            () = tokio::time::sleep(bound) => {
                let now = moved.load(Ordering::Relaxed);
                if now == before {
                    return Ended::Broken;
                }
                before = now;
            }
        }
    }
}

/// Client to pod.
async fn upwards(data: &Stream, connection: &TcpStream, moved: &AtomicU64) -> Ended {
    loop {
        match data.receive().await {
            Received::Data(bytes) => {
                if write_all(connection, &bytes, moved).await.is_err() {
                    // The pod may have closed only this direction; what it says is still wanted.
                    data.discard();
                    return Ended::Cleanly;
                }
            }
            Received::End => {
                let closed = rustix::net::shutdown(connection, rustix::net::Shutdown::Write);
                return match closed {
                    Ok(()) => Ended::Cleanly,
                    // Closed by the other end already.
                    Err(rustix::io::Errno::NOTCONN) => Ended::Cleanly,
                    Err(_) => Ended::Broken,
                };
            }
            Received::Reset => return Ended::Broken,
        }
    }
}

async fn write_all(connection: &TcpStream, mut bytes: &[u8], moved: &AtomicU64) -> io::Result<()> {
    while !bytes.is_empty() {
        connection.writable().await?;
        match connection.try_write(bytes) {
            Ok(n) => {
                bytes = &bytes[n..];
                moved.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Pod to client.
async fn downwards(data: &Stream, connection: &TcpStream, moved: &AtomicU64) -> Ended {
    loop {
        if connection.readable().await.is_err() || data.room().await.is_err() {
            return Ended::Broken;
        }
        let read = with_scratch(|scratch| {
            let piece = &mut scratch[..PIECE];
            let n = connection.try_read(piece)?;
            if n > 0 {
                data.send(&piece[..n]);
            }
            io::Result::Ok(n)
        });
        match read {
            Ok(0) => {
                data.finish();
                return Ended::Cleanly;
            }
            Ok(_) => {
                moved.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Ended::Broken,
        }
    }
}
