//! Moves bytes between a connection and its streams.
//!
//! One future does both directions, and holds no buffer while nothing moves: it reads into a
//! buffer of its thread and hands the bytes on before it waits again.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::mux::Parting;
use super::{End, Mux, WireError};

/// While a connection is not read, its peer is looked after this often.
const LOOK: Duration = Duration::from_secs(1);
/// How long what a vanished peer has sent may still find takers.
const HUNG_UP: Duration = Duration::from_secs(10);
/// What one read may give.
const READ: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// Lends a thread's buffer for a read whose bytes are handed on at once. Not to be nested.
pub(crate) fn with_scratch<T>(read: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| read(scratch))
}

/// What is known of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    There,
    /// It has closed its side; what it sent before can still be read.
    Closed,
    /// The connection is dead.
    Gone,
}

/// A connection.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {
    /// Whether the peer is there, known without reading what it has sent.
    fn peer(&self) -> Peer;
}

/// How long a connection waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// For any byte in any direction.
    pub(crate) idle: Duration,
    /// For a peer that has everything to close first.
    pub(crate) peer_first: Duration,
    /// For the peer to close after us. Closing with unread bytes would destroy what it has not read.
    pub(crate) linger: Duration,
}

/// Looks after a TCP connection's peer.
pub(crate) fn tcp_peer(tcp: &TcpStream) -> Peer {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(tcp, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut fds, Some(&now)).is_err() {
        return Peer::There;
    }
    let seen = fds[0].revents();
    if seen.intersects(PollFlags::HUP | PollFlags::ERR) {
        Peer::Gone
    } else if seen.contains(PollFlags::RDHUP) {
        Peer::Closed
    } else {
        Peer::There
    }
}

impl Io for TcpStream {
    fn peer(&self) -> Peer {
        tcp_peer(self)
    }
}

/// Moves bytes until the connection is over. `early` came together with the handshake.
pub(crate) async fn drive(mux: &Mux, io: impl Io, early: Bytes, timeouts: Timeouts) -> End {
    let now = Instant::now();
    let mut driver = Driver {
        mux,
        io,
        timeouts,
        writing: BytesMut::new(),
        unflushed: false,
        phase: Phase::Running,
        broken: None,
        deaf: None,
        activity: now,
        hung_up: None,
        timer: Box::pin(sleep_until(now + timeouts.idle)),
    };
    if !early.is_empty() {
        driver.take(&mut Vec::from(early));
    }
    let end = poll_fn(|cx| driver.poll(cx)).await;
    mux.end();
    end
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// Everything was said on the streams; the peer may close.
    PeerFirst {
        until: Instant,
    },
    /// The goodbye goes out.
    Closing {
        until: Instant,
    },
    /// Our side is closed; what comes is thrown away.
    Lingering {
        until: Instant,
    },
}

struct Driver<'m, T> {
    mux: &'m Mux,
    io: T,
    timeouts: Timeouts,
    writing: BytesMut,
    unflushed: bool,
    phase: Phase,
    broken: Option<WireError>,
    /// The peer takes nothing more. What it said before is still to be heard.
    deaf: Option<io::Error>,
    activity: Instant,
    hung_up: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl<T: Io> Driver<'_, T> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let view = self.mux.set_driver(cx);
            self.advance(view.parting, view.peer_closed);
            let written = match self.poll_write(cx) {
                Poll::Ready(Err(error)) => {
                    self.deaf.get_or_insert(error);
                    continue;
                }
                Poll::Ready(Ok(())) => true,
                Poll::Pending => false,
            };
            if let (Phase::Closing { .. }, true) = (self.phase, written) {
                match Pin::new(&mut self.io).poll_shutdown(cx) {
                    Poll::Ready(Err(_)) => return Poll::Ready(self.ended(End::Parted)),
                    Poll::Ready(Ok(())) => {
                        let until = Instant::now() + self.timeouts.linger;
                        self.phase = Phase::Lingering { until };
                        self.arm(until);
                    }
                    Poll::Pending => {}
                }
            }
            let paused = view.paused && self.phase == Phase::Running;
            if !paused {
                self.hung_up = None;
                match self.poll_read(cx) {
                    Poll::Ready(Ok(0)) => {
                        let end = self.deaf.take().map_or(End::PeerClosed, End::Failed);
                        return Poll::Ready(self.ended(end));
                    }
                    Poll::Ready(Ok(_)) => continue,
                    Poll::Ready(Err(error)) => {
                        let first = self.deaf.take().unwrap_or(error);
                        return Poll::Ready(self.ended(End::Failed(first)));
                    }
                    Poll::Pending => {}
                }
            }
            if let Some(end) = ready!(self.poll_time(cx, paused)) {
                return Poll::Ready(self.ended(end));
            }
        }
    }

    /// Who parts is not told how the connection went afterwards.
    fn ended(&mut self, end: End) -> End {
        match (self.broken.take(), self.phase) {
            (Some(error), _) => End::Broken(error),
            (None, Phase::Running) => end,
            (None, Phase::PeerFirst { .. } | Phase::Closing { .. } | Phase::Lingering { .. }) => {
                End::Parted
            }
        }
    }

    fn advance(&mut self, parting: Option<Parting>, peer_closed: bool) {
        if self.phase != Phase::Running {
            return;
        }
        match parting {
            // WebSocket's closing was answered when it was read.
            _ if peer_closed || self.broken.is_some() => self.close(self.broken.is_some()),
            None => {}
            Some(Parting::Now) => self.close(false),
            Some(Parting::PeerFirst) => {
                let until = Instant::now() + self.timeouts.peer_first;
                self.phase = Phase::PeerFirst { until };
                self.arm(until);
            }
        }
    }

    fn close(&mut self, broken: bool) {
        self.mux.goodbye(broken);
        if self.phase == Phase::Running {
            // A session that did not part by itself learns it here.
            self.mux.end();
        }
        let until = Instant::now() + self.timeouts.linger;
        self.phase = Phase::Closing { until };
        self.arm(until);
    }

    fn arm(&mut self, at: Instant) {
        self.timer.as_mut().reset(at);
    }

    /// Ready once nothing is left to write. For a peer that takes nothing more there never is.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deaf.is_some() {
            self.writing = BytesMut::new();
            drop(self.mux.take_out());
            self.mux.written(0);
            return Poll::Ready(Ok(()));
        }
        loop {
            if self.writing.is_empty() {
                self.writing = self.mux.take_out();
            }
            if self.writing.is_empty() {
                if self.unflushed {
                    ready!(Pin::new(&mut self.io).poll_flush(cx))?;
                    self.unflushed = false;
                }
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.writing))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.writing.advance(n),
            }
            self.unflushed = true;
            self.activity = Instant::now();
            if self.writing.is_empty() {
                self.writing = BytesMut::new();
            }
            self.mux.written(self.writing.len());
        }
    }

    /// How much was read and handed on.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        with_scratch(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
            let read = buffer.filled_mut();
            let length = read.len();
            if length > 0 {
                self.activity = Instant::now();
                self.take(read);
            }
            Poll::Ready(Ok(length))
        })
    }

    fn take(&mut self, bytes: &mut [u8]) {
        if self.phase == Phase::Running
            && self.broken.is_none()
            && let Err(error) = self.mux.receive(bytes)
        {
            self.broken = Some(error);
        }
    }

    /// Ready when there is something to do about the time: the end, or another round.
    fn poll_time(&mut self, cx: &mut Context<'_>, paused: bool) -> Poll<Option<End>> {
        let now = Instant::now();
        if paused && self.timer.deadline() > now + LOOK {
            self.arm(now + LOOK);
        }
        ready!(self.timer.as_mut().poll(cx));
        let now = Instant::now();
        match self.phase {
            Phase::PeerFirst { until } if now >= until => self.close(false),
            Phase::Closing { until } | Phase::Lingering { until } if now >= until => {
                return Poll::Ready(Some(End::Parted));
            }
            Phase::PeerFirst { until } | Phase::Closing { until } | Phase::Lingering { until } => {
                self.arm(until)
            }
            Phase::Running if now >= self.activity + self.timeouts.idle => {
                return Poll::Ready(Some(End::Idle));
            }
            Phase::Running if paused => return Poll::Ready(self.look(now)),
            Phase::Running => self.arm(self.activity + self.timeouts.idle),
        }
        Poll::Ready(None)
    }

    /// The connection is not read: is its peer still there, and does it know that we are?
    ///
    /// What a peer sent before it closed, or crashed, may fill our socket, so that even its closing
    /// cannot arrive; but what is sent to it then is answered with a reset. WebSocket's clients need
    /// signs of life as well: their pings are not read.
    fn look(&mut self, now: Instant) -> Option<End> {
        self.arm(now + LOOK);
        self.mux.heartbeat();
        match self.io.peer() {
            Peer::There => {
                self.hung_up = None;
                None
            }
            Peer::Closed => {
                let since = *self.hung_up.get_or_insert(now);
                (now >= since + HUNG_UP).then_some(End::PeerClosed)
            }
            Peer::Gone => Some(End::PeerClosed),
        }
    }
}
