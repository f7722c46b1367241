//! Port-forward: many connections into a pod over one connection of the client.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until, timeout};

use super::Context;
use super::pair::Pair;
use crate::backend::PortForwardRequest;
use crate::spdy::headers::Headers;
use crate::wire::{Mux, Parting, Stream};

/// When the client is gone: for what it has sent to reach the pod.
const LAST_BYTES: Duration = Duration::from_secs(10);

/// Clients count their requests; a longer name for one would only be kept.
const LONGEST_REQUEST: usize = 64;

/// How the client's streams come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The client opens a pair for each connection.
    Opened,
    /// WebSocket: two channels for each port of the request.
    Channels,
}

/// A port-forward, agreed with the client.
#[derive(Debug)]
pub(crate) struct Forwarding {
    request: PortForwardRequest,
    arrival: Arrival,
    /// Of [`Arrival::Channels`], once it has begun.
    pairs: Vec<Pair>,
}

impl Forwarding {
    pub(crate) fn new(request: PortForwardRequest, arrival: Arrival) -> Self {
        Self { request, arrival, pairs: Vec::new() }
    }

    /// Call before anything is read from the client: what comes for a channel that is not there yet
    /// is lost, and a client may send along with the handshake.
    pub(crate) fn begin(&mut self, mux: &Mux) {
        match self.arrival {
            Arrival::Channels => self.pairs = channels(mux, &self.request.ports),
            Arrival::Opened => {}
        }
    }

    /// Forwards connections until the client goes away, or the server stops.
    pub(crate) async fn run(self, mux: &Mux, context: &Context) {
        match self.arrival {
            Arrival::Opened => self.opened(mux, context).await,
            Arrival::Channels => self.channels(mux, context).await,
        }
    }

    async fn opened(&self, mux: &Mux, context: &Context) {
        let mut waiting = Waiting::default();
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                opened = mux.accept() => {
                    let Some((stream, headers)) = opened else { break };
                    let deadline = Instant::now() + context.patience.streams;
                    if let Some(pair) = waiting.add(stream, &headers, deadline) {
                        running.push(self.forward(pair, context));
                    }
                }
                _done = running.next(), if !running.is_empty() => {}
                () = waiting.overdue() => {}
                () = context.stopped() => break,
            }
        }
        drop(waiting);
        let last = async { while running.next().await.is_some() {} };
        if *context.stopping.borrow() {
            mux.part(Parting::Now);
        }
        if timeout(LAST_BYTES, last).await.is_err() {
            tracing::debug!(sandbox = %self.request.sandbox, "forwarded connections were cut");
        }
        mux.part(Parting::Now);
    }

    async fn forward(&self, pair: Pair, context: &Context) {
        let half_open = context.patience.half_open;
        pair.forward(&*context.backend, &self.request.sandbox, half_open).await;
    }

    async fn channels(mut self, mux: &Mux, context: &Context) {
        let pairs = std::mem::take(&mut self.pairs);
        let mut running: FuturesUnordered<_> =
            pairs.into_iter().map(|pair| self.forward(pair, context)).collect();
        let all = async { while running.next().await.is_some() {} };
        tokio::select! {
            () = all => {}
            () = mux.ended() => {}
            () = context.stopped() => {}
        }
        mux.part(Parting::Now);
    }
}

/// Two WebSocket channels for each port; each begins with its port.
fn channels(mux: &Mux, ports: &[u16]) -> Vec<Pair> {
    let pair = |(number, port): (u32, &u16)| {
        let (data, error) = (mux.channel(2 * number), mux.channel(2 * number + 1));
        data.send(&port.to_le_bytes());
        error.send(&port.to_le_bytes());
        Pair { port: *port, data, error, half_closes: false }
    };
    (0..).zip(ports).map(pair).collect()
}

/// Which of a pair's streams this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Error,
}

#[derive(Debug)]
struct Half {
    kind: Kind,
    port: u16,
    stream: Stream,
    deadline: Instant,
}

/// Streams whose other half has not come yet, by request.
#[derive(Debug, Default)]
struct Waiting(HashMap<String, Half>);

impl Waiting {
    /// The pair that is complete with this stream, if it is. A stream that makes no sense is given
    /// up, by being dropped.
    fn add(&mut self, stream: Stream, headers: &Headers, deadline: Instant) -> Option<Pair> {
        let kind = match headers.get("streamtype")?.to_ascii_lowercase().as_str() {
            "data" => Kind::Data,
            "error" => Kind::Error,
            _ => return None,
        };
        let port = headers.get("port")?.parse().ok().filter(|port| *port > 0)?;
        let key = match (headers.get("requestid"), kind) {
            (Some(id), _) if id.len() <= LONGEST_REQUEST => id.to_owned(),
            (Some(_), _) => return None,
            // Clients before Kubernetes 1.1 open the error stream, then the data stream.
            (None, Kind::Error) => format!("#{}", stream.id().0),
            (None, Kind::Data) => format!("#{}", stream.id().0.checked_sub(2)?),
        };
        match self.0.get(&key) {
            Some(first) if first.kind == kind || first.port != port => None,
            Some(_) => {
                stream.reply();
                let first = self.0.remove(&key)?.stream;
                let (data, error) =
                    if kind == Kind::Data { (stream, first) } else { (first, stream) };
                Some(Pair { port, data, error, half_closes: true })
            }
            None => {
                stream.reply();
                self.0.insert(key, Half { kind, port, stream, deadline });
                None
            }
        }
    }

    /// Waits for the next half that stays alone for too long, and drops it with a word.
    async fn overdue(&mut self) {
        let Some(next) = self.0.values().map(|half| half.deadline).min() else {
            return std::future::pending().await;
        };
        sleep_until(next).await;
        self.0.retain(|request, half| {
            let overdue = half.deadline <= next;
            if overdue && half.kind == Kind::Error {
                let why = format!("request {request}: its data stream was not opened in time");
                half.stream.send(why.as_bytes());
                half.stream.finish();
            }
            !overdue
        });
    }
}
