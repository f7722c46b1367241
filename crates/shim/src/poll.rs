//! epoll, with tokens that name what became ready. Level-triggered: each ready file gets a
//! bounded piece of work per turn, so that one busy container cannot starve the others.

use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, Result};

/// What a file in the set stands for. Numbers are never used twice, so an event for something
/// that ended earlier in the same turn finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    Listener,
    Children,
    /// The shim is asked to end.
    Terminations,
    Connection(u64),
    Output(u64),
    /// A container's stdin that takes more.
    Stdin(u64),
    /// The input of a client that is attached.
    Input(u64),
    /// A client's copy of output, when it takes more.
    Feed(u64),
    /// The OOM killer comes to a container.
    Oom(u64),
    /// A process on its way into a container has something to say.
    Entering(u64),
    /// A container's first process has something to say before its program runs.
    Launching(u64),
    /// A hook of a container that is gone has ended.
    Parting(u64),
}

impl Token {
    fn to_data(self) -> EventData {
        EventData::new_u64(match self {
            Self::Listener => 0,
            Self::Children => 1,
            Self::Terminations => 9,
            Self::Connection(number) => number << 4 | 2,
            Self::Output(number) => number << 4 | 3,
            Self::Stdin(number) => number << 4 | 4,
            Self::Input(number) => number << 4 | 5,
            Self::Feed(number) => number << 4 | 6,
            Self::Oom(number) => number << 4 | 7,
            Self::Entering(number) => number << 4 | 8,
            Self::Launching(number) => number << 4 | 10,
            Self::Parting(number) => number << 4 | 11,
        })
    }

    fn from_data(data: EventData) -> Self {
        let (number, kind) = (data.u64() >> 4, data.u64() & 15);
        match kind {
            0 => Self::Listener,
            1 => Self::Children,
            2 => Self::Connection(number),
            3 => Self::Output(number),
            4 => Self::Stdin(number),
            5 => Self::Input(number),
            6 => Self::Feed(number),
            7 => Self::Oom(number),
            9 => Self::Terminations,
            10 => Self::Launching(number),
            11 => Self::Parting(number),
            _ => Self::Entering(number),
        }
    }
}

/// One file that can be worked on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) token: Token,
    /// It can be read, or has ended.
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

/// The epoll set.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
    last_number: u64,
}

impl Poller {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, last_number: 0 })
    }

    /// A number no token has had.
    pub(crate) fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Waits for `file` to become readable.
    pub(crate) fn add(&self, file: impl AsFd, token: Token) -> Result<()> {
        epoll::add(&self.epoll, file, token.to_data(), EventFlags::IN)
    }

    /// Waits for `file` to become writable, or for nobody to be left to read it.
    pub(crate) fn add_writer(&self, file: impl AsFd, token: Token) -> Result<()> {
        epoll::add(&self.epoll, file, token.to_data(), EventFlags::OUT)
    }

    /// Waits for `file` to have something urgent.
    pub(crate) fn add_priority(&self, file: impl AsFd, token: Token) -> Result<()> {
        epoll::add(&self.epoll, file, token.to_data(), EventFlags::PRI)
    }

    /// Waits for `file` no more.
    pub(crate) fn remove(&self, file: impl AsFd) {
        // Failing means that it was not in the set.
        epoll::delete(&self.epoll, file).ok();
    }

    /// Waits for `file` to become writable too, or no more.
    pub(crate) fn want_write(&self, file: impl AsFd, token: Token, want: bool) -> Result<()> {
        let flags = if want { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        epoll::modify(&self.epoll, file, token.to_data(), flags)
    }

    /// Closes a file of the set. Taken out by hand first: a child between clone and exec may hold
    /// a copy for a moment, and then closing alone would leave it in the set.
    pub(crate) fn close(&self, file: OwnedFd) {
        self.remove(&file);
        drop(file);
    }

    /// Waits for something to do, at most `timeout`.
    pub(crate) fn wait(&self, timeout: Option<Duration>, ready: &mut Vec<Ready>) -> Result<()> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let unused = epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };
        let mut events = [unused; 32];
        let count = match epoll::wait(&self.epoll, &mut events[..], timeout.as_ref()) {
            Ok(count) => count,
            Err(Errno::INTR) => 0,
            Err(error) => return Err(error),
        };
        ready.clear();
        ready.extend(events[..count].iter().map(|event| {
            let flags = event.flags;
            let ended = flags.intersects(EventFlags::HUP | EventFlags::ERR);
            Ready {
                token: Token::from_data(event.data),
                readable: ended || flags.contains(EventFlags::IN),
                writable: flags.contains(EventFlags::OUT),
            }
        }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for token in [
            Token::Listener,
            Token::Children,
            Token::Terminations,
            Token::Connection(0),
            Token::Connection(7),
            Token::Output(1 << 40),
            Token::Stdin(1),
            Token::Input(2),
            Token::Feed(3),
            Token::Oom(2),
            Token::Entering(5),
            Token::Launching(6),
        ] {
            assert_eq!(Token::from_data(token.to_data()), token);
        }
    }
}
