//! Clients attached to a container. Each gets a copy of what the container writes from then on;
//! what they send goes to its stdin in the order it arrives.
//!
//! A client never slows the container or its log: what it does not read is kept for it up to a
//! bound, then it is given up. A container that does not read its stdin slows the clients that
//! feed it, by their own pipes, and nobody else.

mod client;
mod feed;
mod requests;

use shim_protocol::AttachEnd;

use crate::log::Stream;
use crate::peers::PeerNumber;
use crate::poll::Poller;

pub(crate) use client::Client;

/// More clients of one container at once are refused.
const MAX_CLIENTS: usize = 64;

/// The most that is kept for all clients of one container together.
const MAX_KEPT: usize = 16 << 20;

/// One container's clients.
#[derive(Debug, Default)]
pub(crate) struct Audience(Vec<Client>);

impl Audience {
    /// Hands out what was read of an output.
    pub(crate) fn hear(&mut self, stream: Stream, bytes: &[u8], poller: &Poller) {
        if self.0.is_empty() {
            return;
        }
        let mut kept = self.kept();
        for client in self.0.iter_mut().filter(|client| client.end.is_none()) {
            let found = client.feeds.iter().position(|feed| feed.stream() == stream);
            let Some(index) = found else { continue };
            client.with_feed(index, poller, |feed| {
                let before = feed.lag();
                let result = feed.push(bytes, MAX_KEPT.saturating_sub(kept), poller);
                kept += feed.lag() - before;
                result.map(|()| false)
            });
        }
    }

    fn kept(&self) -> usize {
        self.0.iter().flat_map(|client| &client.feeds).map(feed::Feed::lag).sum()
    }

    /// An output has ended.
    pub(crate) fn stream_ended(&mut self, stream: Stream, poller: &Poller) {
        for client in &mut self.0 {
            let found = client.feeds.iter().position(|feed| feed.stream() == stream);
            let Some(index) = found else { continue };
            client.with_feed(index, poller, |feed| Ok(feed.end()));
        }
    }

    /// The container has ended, and all its output has been handed out.
    pub(crate) fn container_ended(&mut self, poller: &Poller) {
        self.close_inputs(poller);
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.stream_ended(stream, poller);
        }
        for client in &mut self.0 {
            client.last = true;
            client.settle();
        }
    }

    /// A client takes more.
    pub(crate) fn flush(&mut self, number: u64, poller: &Poller) {
        for client in &mut self.0 {
            let found = client.feeds.iter().position(|feed| feed.number() == number);
            let Some(index) = found else { continue };
            client.with_feed(index, poller, |feed| feed.flush(poller));
        }
    }

    /// Reads no client's input for now.
    pub(crate) fn pause(&mut self, poller: &Poller) {
        self.watch(false, poller);
    }

    /// Reads the clients' inputs again.
    pub(crate) fn resume(&mut self, poller: &Poller) {
        self.watch(true, poller);
    }

    fn watch(&mut self, want: bool, poller: &Poller) {
        for client in &mut self.0 {
            if client.watch(want, poller).is_err() {
                // No memory in the kernel: it cannot be served any more.
                client.end = Some(AttachEnd::Detached);
            }
        }
    }

    /// Nobody's input is wanted any more.
    pub(crate) fn close_inputs(&mut self, poller: &Poller) {
        for client in &mut self.0 {
            client.close_input(poller);
        }
    }

    /// The clients of a connection that was lost have gone with it.
    pub(crate) fn forget_peer(&mut self, peer: PeerNumber) {
        for client in self.0.iter_mut().filter(|client| client.peer == peer) {
            client.end = Some(AttachEnd::Detached);
        }
    }

    /// Gives up those that have not taken everything.
    pub(crate) fn give_up(&mut self) {
        for client in self.0.iter_mut().filter(|client| client.end.is_none()) {
            client.end = Some(AttachEnd::TooSlow);
        }
    }

    /// Takes in those of another.
    pub(crate) fn append(&mut self, other: &mut Self) {
        self.0.append(&mut other.0);
    }

    /// Takes out those that are done, each with the reason.
    pub(crate) fn take_ended(&mut self) -> Vec<(Client, AttachEnd)> {
        if self.0.iter().all(|client| client.end.is_none()) {
            return Vec::new();
        }
        let (ended, going_on) =
            std::mem::take(&mut self.0).into_iter().partition(|client| client.end.is_some());
        self.0 = going_on;
        let with_reason = |client: Client| client.end.map(|end| (client, end));
        Vec::into_iter(ended).filter_map(with_reason).collect()
    }

    fn by_input(&mut self, number: u64) -> Option<&mut Client> {
        self.0.iter_mut().find(|client| client.has_input(number))
    }

    fn by_number(&mut self, attach: u64) -> Option<&mut Client> {
        self.0.iter_mut().find(|client| client.number == attach)
    }
}
