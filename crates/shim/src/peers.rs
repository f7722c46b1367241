//! All daemon connections. Losing one never touches a container.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use shim_protocol::{Asked, Event, FromShim, Response};

use crate::connection::{Closed, Connection};
use crate::failure::chain;
use crate::journal::Journal;
use crate::poll::{Poller, Token};

/// More connections than this at once are refused: one daemon needs one or two.
const MAX_PEERS: usize = 16;

/// How soon it is tried again, when a connection could not be accepted.
const ACCEPTS_AGAIN: Duration = Duration::from_secs(1);

/// Names a connection for the life of the shim.
pub(crate) type PeerNumber = u64;

/// The connections.
#[derive(Debug)]
pub(crate) struct Peers {
    connections: BTreeMap<PeerNumber, Connection>,
    /// Lost since they were last asked for.
    lost: Vec<PeerNumber>,
    /// When connections are accepted again, after one could not be.
    accepts_at: Option<Instant>,
    journal: Journal,
}

impl Peers {
    pub(crate) fn new(journal: Journal) -> Self {
        Self { connections: BTreeMap::new(), lost: Vec::new(), accepts_at: None, journal }
    }

    /// Takes a waiting connection, if it is root's.
    pub(crate) fn accept(&mut self, listener: BorrowedFd<'_>, poller: &mut Poller) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(listener, flags) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return,
            // It waits still, and would be told again at once.
            Err(error) => {
                poller.remove(listener);
                self.accepts_at = Some(Instant::now() + ACCEPTS_AGAIN);
                return self.journal.say(format_args!("cannot accept a connection: {error}"));
            }
        };
        if let Err(refusal) = self.admit(socket, poller) {
            self.journal.say(format_args!("refused a connection: {refusal}"));
        }
    }

    /// When to go on even if nothing happens.
    pub(crate) fn accepts_at(&self) -> Option<Instant> {
        self.accepts_at
    }

    /// Waits for connections again, once it is time.
    pub(crate) fn accept_again(&mut self, listener: BorrowedFd<'_>, now: Instant, poller: &Poller) {
        if self.accepts_at.is_none_or(|at| at > now) {
            return;
        }
        self.accepts_at = match poller.add(listener, Token::Listener) {
            Ok(()) => None,
            Err(error) => {
                self.journal.say(format_args!("cannot wait for connections: {error}"));
                Some(now + ACCEPTS_AGAIN)
            }
        };
    }

    fn admit(&mut self, socket: OwnedFd, poller: &mut Poller) -> Result<(), String> {
        let peer = rustix::net::sockopt::socket_peercred(&socket)
            .map_err(|error| format!("its owner is unknown: {error}"))?;
        if !peer.uid.is_root() {
            let (pid, uid) = (peer.pid.as_raw_nonzero(), peer.uid.as_raw());
            return Err(format!("process {pid} runs as user {uid}, not root"));
        }
        if self.connections.len() >= MAX_PEERS {
            return Err(format!("{MAX_PEERS} are open already"));
        }
        let number = poller.number();
        poller
            .add(&socket, Token::Connection(number))
            .map_err(|error| format!("it cannot be watched: {error}"))?;
        self.connections.insert(number, Connection::new(socket));
        Ok(())
    }

    /// Reads once from a connection; it is dropped when it fails.
    pub(crate) fn receive(&mut self, number: PeerNumber, buffer: &mut [u8], poller: &Poller) {
        if let Some(connection) = self.connections.get_mut(&number)
            && let Err(closed) = connection.receive(buffer)
        {
            self.close(number, &closed, poller);
        }
    }

    /// The next whole request of a connection, and its files.
    pub(crate) fn next_request(
        &mut self,
        number: PeerNumber,
        poller: &Poller,
    ) -> Option<(Asked, Vec<OwnedFd>)> {
        match self.connections.get_mut(&number)?.next_request() {
            Ok(request) => request,
            Err(closed) => {
                self.close(number, &closed, poller);
                None
            }
        }
    }

    /// Whether the connection has said hello.
    pub(crate) fn has_greeted(&self, number: PeerNumber) -> bool {
        self.connections.get(&number).is_some_and(|connection| connection.greeted)
    }

    /// From now on it gets answers and events.
    pub(crate) fn greet(&mut self, number: PeerNumber) {
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.greeted = true;
        }
    }

    /// Answers a request, if its connection is still there.
    pub(crate) fn reply(
        &mut self,
        number: PeerNumber,
        id: u64,
        (response, file): (Response, Option<OwnedFd>),
        poller: &Poller,
    ) {
        self.send(number, &FromShim::Reply { id, response }, file, poller);
    }

    /// Tells every connection that has said hello.
    pub(crate) fn broadcast(&mut self, event: &Event, poller: &Poller) {
        let greeted = self.connections.iter().filter(|(_, connection)| connection.greeted);
        let numbers: Vec<PeerNumber> = greeted.map(|(number, _)| *number).collect();
        for number in numbers {
            self.send(number, &FromShim::Event(event.clone()), None, poller);
        }
    }

    /// Tells one connection, if it is still there.
    pub(crate) fn tell(&mut self, number: PeerNumber, event: Event, poller: &Poller) {
        self.send(number, &FromShim::Event(event), None, poller);
    }

    /// Connections that have ended since this was last called.
    pub(crate) fn take_lost(&mut self) -> Vec<PeerNumber> {
        std::mem::take(&mut self.lost)
    }

    /// The socket takes more.
    pub(crate) fn flush(&mut self, number: PeerNumber, poller: &Poller) {
        if let Some(connection) = self.connections.get_mut(&number) {
            let result = connection.flush();
            self.settle(number, result, poller);
        }
    }

    fn send(
        &mut self,
        number: PeerNumber,
        message: &FromShim,
        file: Option<OwnedFd>,
        poller: &Poller,
    ) {
        if let Some(connection) = self.connections.get_mut(&number) {
            let result = connection.send(message, file);
            self.settle(number, result, poller);
        }
    }

    /// Drops the connection after a failure; otherwise waits for writability if it is needed.
    fn settle(&mut self, number: PeerNumber, result: Result<(), Closed>, poller: &Poller) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let want = connection.has_unsent();
        let watched = result.and_then(|()| {
            if want == connection.waits_to_write {
                return Ok(());
            }
            connection.waits_to_write = want;
            poller
                .want_write(connection.socket(), Token::Connection(number), want)
                .map_err(Closed::Socket)
        });
        if let Err(closed) = watched {
            self.close(number, &closed, poller);
        }
    }

    fn close(&mut self, number: PeerNumber, closed: &Closed, poller: &Poller) {
        if let Some(connection) = self.connections.remove(&number) {
            poller.close(connection.into_socket());
            self.lost.push(number);
        }
        match closed {
            Closed::ByPeer => {}
            Closed::Socket(_) | Closed::Codec(_) | Closed::TooManyFiles(_) | Closed::Stuck => {
                self.journal.say(format_args!("closed a connection: {}", chain(closed)));
            }
        }
    }
}
