//! The streams of a connection and their bounded buffers.
//!
//! Incoming: bytes wait with their stream until its session takes them. A stream that holds more
//! than its limit stops the whole connection from being read (SPDY and WebSocket channels have no
//! flow control of their own), so up to that limit one slow stream does not hold up the others.
//! Outgoing: all streams share one queue; who wants to add waits until it has room. Both are empty
//! and unallocated while nothing moves.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};

use super::{Event, StreamId, Wire, WireError};
use crate::spdy::headers::Headers;

/// Room in the outgoing queue: who finds more than this in it waits.
const OUT_ROOM: usize = 64 * 1024;
/// Answers to pings and the like do not wait. Beyond this nothing more is read that calls for them.
const OUT_FULL: usize = 4 * OUT_ROOM;

/// What one connection may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of one stream above which the connection is not read.
    pub(crate) stream_buffer: usize,
    /// Bytes of all streams above which the connection is not read.
    pub(crate) total_buffer: usize,
    /// Streams at a time; more are refused.
    pub(crate) streams: usize,
    /// Whether what came before a reset is still delivered. Servers end their streams by resetting
    /// them, the one with the status among them; clients mean that it is to be forgotten.
    pub(crate) outlives_reset: bool,
}

/// The connection or the stream is gone: nothing can be sent any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection is closed")]
pub(crate) struct Gone;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// We said goodbye.
    #[error("as planned")]
    Parted,
    /// The peer closed it.
    #[error("the peer closed the connection")]
    PeerClosed,
    /// Nothing was heard and nothing could be said for too long.
    #[error("nothing moved for too long")]
    Idle,
    /// What came makes no sense.
    #[error("{0}")]
    Broken(WireError),
    /// The connection failed.
    #[error("{0}")]
    Failed(std::io::Error),
}

/// What a stream gives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Data(Bytes),
    /// The peer sends nothing more here.
    End,
    /// The peer gave the stream up, or the connection is gone.
    Reset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Open,
    Ended,
    Reset,
}

#[derive(Debug)]
struct State {
    data: BytesMut,
    incoming: Direction,
    finished: bool,
    replied: bool,
    discard: bool,
    reader: Option<Waker>,
}

impl State {
    fn new(replied: bool) -> Self {
        Self {
            data: BytesMut::new(),
            incoming: Direction::Open,
            finished: false,
            replied,
            discard: false,
            reader: None,
        }
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// All streams and what they hold.
#[derive(Debug)]
struct Table {
    limits: Limits,
    streams: HashMap<StreamId, State>,
    /// Opened by the peer, not yet taken by the session.
    opened: VecDeque<(StreamId, Headers)>,
    acceptor: Option<Waker>,
    watcher: Option<Waker>,
    buffered: usize,
    /// Streams above their limit.
    over: usize,
    peer_closed: bool,
}

impl Table {
    /// The stream that is to be refused, if any.
    fn apply(&mut self, event: Event<'_>) -> Option<StreamId> {
        match event {
            Event::Opened { id, .. } if self.streams.len() >= self.limits.streams => {
                return Some(id);
            }
            Event::Opened { id, headers } => {
                self.streams.insert(id, State::new(true));
                self.opened.push_back((id, headers));
                wake(&mut self.acceptor);
            }
            Event::Replied { id } => self.with(id, |state| state.replied = true),
            Event::Data { id, bytes } => self.data(id, bytes),
            Event::Ended { id } => self.with(id, |state| {
                if state.incoming == Direction::Open {
                    state.incoming = Direction::Ended;
                }
            }),
            Event::Reset { id } => self.reset(id),
            Event::GoingAway => {}
            Event::Closed => self.peer_closed = true,
        }
        None
    }

    fn with(&mut self, id: StreamId, change: impl FnOnce(&mut State)) {
        if let Some(state) = self.streams.get_mut(&id) {
            change(state);
            wake(&mut state.reader);
        }
    }

    fn data(&mut self, id: StreamId, bytes: &[u8]) {
        let Some(state) = self.streams.get_mut(&id) else { return };
        if state.discard || state.incoming != Direction::Open {
            return;
        }
        let before = state.data.len();
        state.data.extend_from_slice(bytes);
        self.buffered += bytes.len();
        let limit = self.limits.stream_buffer;
        if before <= limit && state.data.len() > limit {
            self.over += 1;
        }
        wake(&mut state.reader);
    }

    /// What came before an orderly end is still delivered; see also [`Limits::outlives_reset`].
    fn reset(&mut self, id: StreamId) {
        let ended = self.streams.get(&id).is_some_and(|state| state.incoming == Direction::Ended);
        if !ended && !self.limits.outlives_reset {
            self.take(id);
        }
        self.with(id, |state| {
            state.finished = true;
            if !ended {
                state.incoming = Direction::Reset;
            }
        });
    }

    fn take(&mut self, id: StreamId) -> BytesMut {
        let Some(state) = self.streams.get_mut(&id) else { return BytesMut::new() };
        let data = std::mem::take(&mut state.data);
        self.buffered -= data.len();
        if data.len() > self.limits.stream_buffer {
            self.over -= 1;
        }
        data
    }

    fn is_full(&self) -> bool {
        self.over > 0 || self.buffered > self.limits.total_buffer
    }
}

#[derive(Debug)]
struct Inner {
    wire: Wire,
    table: Table,
    out: BytesMut,
    /// Taken from `out` by the driver, not yet taken by the connection.
    in_flight: usize,
    writers: Vec<Waker>,
    driver: Option<Waker>,
    /// Nothing more can be sent.
    parting: Option<Parting>,
    ended: bool,
}

/// How a session takes its leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parting {
    /// At once.
    Now,
    /// Everything was said on the streams: a SPDY client closes first, having read it all.
    PeerFirst,
}

impl Inner {
    fn has_room(&self) -> bool {
        self.out.len() + self.in_flight < OUT_ROOM
    }

    fn is_closed(&self) -> bool {
        self.ended || self.parting.is_some()
    }

    fn wake_driver(&mut self) {
        wake(&mut self.driver);
    }

    fn wake_writers(&mut self) {
        for waker in std::mem::take(&mut self.writers) {
            waker.wake();
        }
    }
}

/// The streams of one connection; clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Mux(Arc<Mutex<Inner>>);

impl Mux {
    pub(crate) fn new(wire: Wire, limits: Limits) -> Self {
        let table = Table {
            limits,
            streams: HashMap::new(),
            opened: VecDeque::new(),
            acceptor: None,
            watcher: None,
            buffered: 0,
            over: 0,
            peer_closed: false,
        };
        Self(Arc::new(Mutex::new(Inner {
            wire,
            table,
            out: BytesMut::new(),
            in_flight: 0,
            writers: Vec::new(),
            driver: None,
            parting: None,
            ended: false,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next stream that the peer opened; `None` once there will be none.
    pub(crate) async fn accept(&self) -> Option<(Stream, Headers)> {
        poll_fn(|cx| {
            let mut inner = self.lock();
            if let Some((id, headers)) = inner.table.opened.pop_front() {
                return Poll::Ready(Some((self.stream(id), headers)));
            }
            if inner.ended {
                return Poll::Ready(None);
            }
            inner.table.acceptor = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Waits until the connection is over, or the peer has closed its side.
    pub(crate) async fn ended(&self) {
        poll_fn(|cx| {
            let mut inner = self.lock();
            if inner.ended {
                return Poll::Ready(());
            }
            inner.table.watcher = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn stream(&self, id: StreamId) -> Stream {
        Stream { id, mux: self.clone() }
    }

    /// A stream that exists without being opened: a WebSocket channel.
    pub(crate) fn channel(&self, number: u32) -> Stream {
        let id = StreamId(number);
        self.lock().table.streams.insert(id, State::new(true));
        self.stream(id)
    }

    /// Opens a stream. Nothing may be sent on it until [`Stream::replied`].
    pub(crate) fn open(&self, headers: &Headers) -> Result<Stream, Gone> {
        let mut inner = self.lock();
        if inner.is_closed() {
            return Err(Gone);
        }
        let Inner { wire, out, .. } = &mut *inner;
        let id = wire.open(headers, out).ok_or(Gone)?;
        inner.table.streams.insert(id, State::new(false));
        inner.wake_driver();
        drop(inner);
        Ok(self.stream(id))
    }

    /// From now on every stream that the peer opens is refused.
    pub(crate) fn refuse_streams(&self) {
        self.lock().wire.refuse_streams();
    }

    /// Nothing more is sent; what is in the queue still goes out, then the connection is closed.
    pub(crate) fn part(&self, parting: Parting) {
        let mut inner = self.lock();
        let gentle = parting == Parting::PeerFirst && inner.wire.peer_closes_first();
        let parting = if gentle { Parting::PeerFirst } else { Parting::Now };
        inner.parting.get_or_insert(parting);
        inner.wake_writers();
        inner.wake_driver();
    }

    /// Bytes that wait with their streams, and those that wait to be sent.
    #[cfg(test)]
    pub(crate) fn held(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.table.buffered, inner.out.len() + inner.in_flight)
    }
}

/// The driver's side.
impl Mux {
    /// Takes what came.
    pub(super) fn receive(&self, input: &mut [u8]) -> Result<(), WireError> {
        let mut inner = self.lock();
        let Inner { wire, table, out, .. } = &mut *inner;
        let mut refused = Vec::new();
        let received = wire.receive(input, out, &mut |event| refused.extend(table.apply(event)));
        for id in refused {
            wire.reset(id, out);
        }
        received
    }

    pub(super) fn set_driver(&self, cx: &Context<'_>) -> DriverView {
        let mut inner = self.lock();
        match &inner.driver {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            Some(_) | None => inner.driver = Some(cx.waker().clone()),
        }
        DriverView {
            paused: inner.table.is_full() || inner.out.len() + inner.in_flight > OUT_FULL,
            parting: inner.parting,
            peer_closed: inner.table.peer_closed,
        }
    }

    pub(super) fn take_out(&self) -> BytesMut {
        let mut inner = self.lock();
        let out = std::mem::take(&mut inner.out);
        inner.in_flight = out.len();
        out
    }

    pub(super) fn written(&self, left: usize) {
        let mut inner = self.lock();
        inner.in_flight = left;
        if inner.has_room() {
            inner.wake_writers();
        }
    }

    pub(super) fn heartbeat(&self) {
        let mut inner = self.lock();
        let Inner { wire, out, .. } = &mut *inner;
        // One that cannot be sent is not followed by another.
        if out.is_empty() {
            wire.heartbeat(out);
        }
    }

    pub(super) fn goodbye(&self, broken: bool) {
        let mut inner = self.lock();
        let Inner { wire, out, .. } = &mut *inner;
        wire.goodbye(broken, out);
    }

    /// The connection is over: whoever waits is told.
    pub(super) fn end(&self) {
        let mut inner = self.lock();
        inner.ended = true;
        wake(&mut inner.table.acceptor);
        wake(&mut inner.table.watcher);
        inner.wake_writers();
        for state in inner.table.streams.values_mut() {
            state.finished = true;
            wake(&mut state.reader);
        }
    }
}

/// What the driver acts on.
#[derive(Debug, Clone, Copy)]
pub(super) struct DriverView {
    pub(super) paused: bool,
    pub(super) parting: Option<Parting>,
    pub(super) peer_closed: bool,
}

/// One stream. Dropping it before both directions have ended gives it up. Reading and writing may
/// go on at the same time, each by one at a time.
#[derive(Debug)]
pub(crate) struct Stream {
    id: StreamId,
    mux: Mux,
}

impl Stream {
    pub(crate) fn id(&self) -> StreamId {
        self.id
    }

    /// Accepts a stream that the peer opened.
    pub(crate) fn reply(&self) {
        self.act(|wire, id, out| wire.reply(id, out));
    }

    fn act(&self, act: impl FnOnce(&mut Wire, StreamId, &mut BytesMut)) {
        let mut inner = self.mux.lock();
        if inner.is_closed() {
            return;
        }
        let Inner { wire, out, .. } = &mut *inner;
        act(wire, self.id, out);
        inner.wake_driver();
    }

    /// Waits until the peer has accepted the stream.
    pub(crate) async fn replied(&self) -> Result<(), Gone> {
        poll_fn(|cx| {
            let mut inner = self.mux.lock();
            let ended = inner.ended;
            let Some(state) = inner.table.streams.get_mut(&self.id) else {
                return Poll::Ready(Err(Gone));
            };
            if state.replied {
                return Poll::Ready(Ok(()));
            }
            if ended || state.incoming == Direction::Reset {
                return Poll::Ready(Err(Gone));
            }
            state.reader = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// What came next. Losing the future loses nothing.
    pub(crate) async fn receive(&self) -> Received {
        poll_fn(|cx| self.poll_receive(cx)).await
    }

    fn poll_receive(&self, cx: &Context<'_>) -> Poll<Received> {
        let mut inner = self.mux.lock();
        let was_full = inner.table.is_full();
        let data = inner.table.take(self.id);
        if !data.is_empty() {
            if was_full {
                inner.wake_driver();
            }
            return Poll::Ready(Received::Data(data.freeze()));
        }
        let ended = inner.ended;
        let Some(state) = inner.table.streams.get_mut(&self.id) else {
            return Poll::Ready(Received::Reset);
        };
        match state.incoming {
            Direction::Ended => Poll::Ready(Received::End),
            Direction::Reset => Poll::Ready(Received::Reset),
            Direction::Open if ended => Poll::Ready(Received::Reset),
            Direction::Open => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Whatever comes from now on is thrown away: its reader is gone, but others share the
    /// connection.
    pub(crate) fn discard(&self) {
        let mut inner = self.mux.lock();
        inner.table.take(self.id);
        inner.table.with(self.id, |state| state.discard = true);
        inner.wake_driver();
    }

    /// Waits until something may be sent.
    pub(crate) async fn room(&self) -> Result<(), Gone> {
        poll_fn(|cx| self.poll_room(cx)).await
    }

    pub(crate) fn poll_room(&self, cx: &Context<'_>) -> Poll<Result<(), Gone>> {
        let mut inner = self.mux.lock();
        let finished = inner.table.streams.get(&self.id).is_none_or(|state| state.finished);
        if inner.is_closed() || finished {
            return Poll::Ready(Err(Gone));
        }
        if inner.has_room() {
            return Poll::Ready(Ok(()));
        }
        if !inner.writers.iter().any(|waker| waker.will_wake(cx.waker())) {
            inner.writers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Sends without waiting for room; at most what one read gives.
    pub(crate) fn send(&self, bytes: &[u8]) {
        self.act(|wire, id, out| wire.data(id, bytes, out));
    }

    /// Sends all of `bytes`, waiting for room.
    pub(crate) async fn send_all(&self, bytes: &[u8]) -> Result<(), Gone> {
        for piece in bytes.chunks(OUT_ROOM / 2) {
            self.room().await?;
            self.send(piece);
        }
        Ok(())
    }

    /// Ends our direction.
    pub(crate) fn finish(&self) {
        if self.close_outgoing() {
            self.act(|wire, id, out| wire.finish(id, out));
        }
    }

    /// Gives the stream up.
    pub(crate) fn reset(&self) {
        let mut inner = self.mux.lock();
        inner.table.take(self.id);
        inner.table.reset(self.id);
        drop(inner);
        self.act(|wire, id, out| wire.reset(id, out));
    }

    /// Whether it was open.
    fn close_outgoing(&self) -> bool {
        let mut inner = self.mux.lock();
        match inner.table.streams.get_mut(&self.id) {
            Some(state) => !std::mem::replace(&mut state.finished, true),
            None => false,
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut inner = self.mux.lock();
        inner.table.take(self.id);
        let Some(state) = inner.table.streams.remove(&self.id) else { return };
        inner.wake_driver();
        drop(inner);
        let over = match state.incoming {
            Direction::Reset => true,
            Direction::Ended => state.finished,
            Direction::Open => false,
        };
        if !over {
            self.act(|wire, id, out| wire.reset(id, out));
        }
    }
}
