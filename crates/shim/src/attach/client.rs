//! One client that is attached to a container: what it sends and what it gets.

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use shim_protocol::AttachEnd;

use super::feed::{Feed, Lost};
use crate::peers::PeerNumber;
use crate::poll::{Poller, Token};

/// What one read of an input brought.
pub(super) enum Read {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// It has ended.
    End,
}

/// Where a client's input comes from.
#[derive(Debug)]
struct Input {
    number: u64,
    file: OwnedFd,
    /// It is in the poller's set.
    watched: bool,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    /// The daemon's number for it.
    pub(crate) number: u64,
    /// The connection it came by.
    pub(crate) peer: PeerNumber,
    input: Option<Input>,
    pub(super) feeds: Vec<Feed>,
    /// It has an input, or had one.
    pub(super) feeds_stdin: bool,
    /// It has said that what is in its input is all it will send.
    pub(super) sent_all: bool,
    /// The container has ended.
    pub(super) last: bool,
    pub(super) end: Option<AttachEnd>,
}

impl Client {
    pub(super) fn new(number: u64, peer: PeerNumber) -> Self {
        Self {
            number,
            peer,
            input: None,
            feeds: Vec::new(),
            feeds_stdin: false,
            sent_all: false,
            last: false,
            end: None,
        }
    }

    /// Gives it an input, watched at once or when [`Self::watch`] is called.
    pub(super) fn set_input(&mut self, number: u64, file: OwnedFd) {
        self.feeds_stdin = true;
        self.input = Some(Input { number, file, watched: false });
    }

    pub(super) fn has_input(&self, number: u64) -> bool {
        self.input.as_ref().is_some_and(|input| input.number == number)
    }

    pub(super) fn input_is_open(&self) -> bool {
        self.input.is_some()
    }

    /// Waits for its input, or no more.
    pub(super) fn watch(&mut self, want: bool, poller: &Poller) -> rustix::io::Result<()> {
        let Some(input) = &mut self.input else { return Ok(()) };
        if want && !input.watched {
            poller.add(&input.file, Token::Input(input.number))?;
        } else if !want && input.watched {
            poller.remove(&input.file);
        }
        input.watched = want;
        Ok(())
    }

    /// Reads its input once.
    pub(super) fn read(&self, buffer: &mut [u8]) -> Read {
        let Some(input) = &self.input else { return Read::End };
        match rustix::io::read(&input.file, buffer) {
            Ok(0) => Read::End,
            Ok(count) => Read::Bytes(count),
            Err(Errno::AGAIN | Errno::INTR) => Read::Nothing,
            Err(_) => Read::End,
        }
    }

    pub(super) fn close_input(&mut self, poller: &Poller) {
        if let Some(input) = self.input.take() {
            poller.close(input.file);
        }
    }

    /// Works on one of its copies and draws the conclusions.
    pub(super) fn with_feed(
        &mut self,
        index: usize,
        poller: &Poller,
        work: impl FnOnce(&mut Feed) -> Result<bool, Lost>,
    ) {
        match work(&mut self.feeds[index]) {
            Ok(false) => {}
            Ok(true) => self.feeds.remove(index).close(poller),
            Err(Lost::TooSlow) => self.end = Some(AttachEnd::TooSlow),
            Err(Lost::Gone) => {
                self.feeds.remove(index).close(poller);
                if self.feeds.is_empty() && self.input.is_none() {
                    self.end = Some(AttachEnd::Detached);
                }
            }
        }
        self.settle();
    }

    /// It is done when the container has ended and everything has been handed over.
    pub(super) fn settle(&mut self) {
        if self.last && self.feeds.is_empty() && self.end.is_none() {
            self.end = Some(AttachEnd::ContainerEnded);
        }
    }

    /// Closes all its files.
    pub(crate) fn close(mut self, poller: &Poller) {
        self.close_input(poller);
        for feed in self.feeds {
            feed.close(poller);
        }
    }
}
