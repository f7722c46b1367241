//! One client's copy of one output: written as it comes, kept while the client does not read.

use std::collections::VecDeque;

use rustix::fd::OwnedFd;
use rustix::io::Errno;

use crate::log::Stream;
use crate::poll::{Poller, Token};

/// The most one client may leave unread of one output, beyond what its pipe holds.
const MAX_LAG: usize = 4 << 20;

/// Why a client gets nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// It does not read any more.
    Gone,
    /// It reads too slowly.
    TooSlow,
}

/// The copy. Holds memory only while the client lags.
#[derive(Debug)]
pub(super) struct Feed {
    stream: Stream,
    number: u64,
    file: OwnedFd,
    unwritten: VecDeque<u8>,
    /// Nothing is to come after what is unwritten.
    last: bool,
}

impl Feed {
    /// `file` does not block, and is not watched until it is needed.
    pub(super) fn new(stream: Stream, number: u64, file: OwnedFd) -> Self {
        Self { stream, number, file, unwritten: VecDeque::new(), last: false }
    }

    pub(super) fn stream(&self) -> Stream {
        self.stream
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// How much the client has not taken.
    pub(super) fn lag(&self) -> usize {
        self.unwritten.len()
    }

    /// Hands over more. At most `room` bytes may be kept for later.
    pub(super) fn push(
        &mut self,
        mut bytes: &[u8],
        room: usize,
        poller: &Poller,
    ) -> Result<(), Lost> {
        if self.unwritten.is_empty() {
            let written = write(&self.file, bytes)?;
            bytes = &bytes[written..];
            if bytes.is_empty() {
                return Ok(());
            }
            poller.add_writer(&self.file, Token::Feed(self.number)).map_err(|_| Lost::Gone)?;
        }
        if bytes.len() > room || self.unwritten.len() + bytes.len() > MAX_LAG {
            return Err(Lost::TooSlow);
        }
        self.unwritten.extend(bytes);
        Ok(())
    }

    /// The client takes more; true when it has taken everything there will be.
    pub(super) fn flush(&mut self, poller: &Poller) -> Result<bool, Lost> {
        while !self.unwritten.is_empty() {
            let written = write(&self.file, self.unwritten.as_slices().0)?;
            if written == 0 {
                return Ok(false);
            }
            self.unwritten.drain(..written);
        }
        poller.remove(&self.file);
        self.unwritten = VecDeque::new();
        Ok(self.last)
    }

    /// The output has ended; true when the client has taken all of it.
    pub(super) fn end(&mut self) -> bool {
        self.last = true;
        self.unwritten.is_empty()
    }

    pub(super) fn close(self, poller: &Poller) {
        poller.close(self.file);
    }
}

/// Writes what the pipe takes now.
fn write(file: &OwnedFd, bytes: &[u8]) -> Result<usize, Lost> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::write(file, &bytes[done..]) {
            Ok(0) | Err(Errno::AGAIN) => break,
            Ok(written) => done += written,
            Err(Errno::INTR) => {}
            Err(_) => return Err(Lost::Gone),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdio::set_nonblocking;
    use rustix::pipe::{PipeFlags, pipe_with};

    fn feed() -> (OwnedFd, Feed, Poller) {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        set_nonblocking(&write).unwrap();
        (read, Feed::new(Stream::Stdout, 1, write), Poller::new().unwrap())
    }

    fn read_all(read: &OwnedFd) -> Vec<u8> {
        let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = rustix::io::read(read, &mut buffer) {
            all.extend_from_slice(&buffer[..count]);
        }
        all
    }

    #[test]
    fn what_the_pipe_does_not_take_comes_later_in_order() {
        let (read, mut feed, poller) = feed();
        let sent: Vec<u8> = (0..=u8::MAX).cycle().take(300_000).collect();
        for chunk in sent.chunks(30_000) {
            feed.push(chunk, usize::MAX, &poller).unwrap();
        }
        assert!(feed.lag() > 0 && !feed.end());
        let mut got = read_all(&read);
        while !feed.flush(&poller).unwrap() {
            got.extend(read_all(&read));
        }
        got.extend(read_all(&read));
        assert!(got == sent);
        assert_eq!((feed.lag(), feed.unwritten.capacity()), (0, 0));
    }

    #[test]
    fn a_client_that_never_reads_is_given_up_at_the_bound() {
        let (_read, mut feed, poller) = feed();
        let chunk = [0; 32 << 10];
        let mut pushed = 0;
        let lost = loop {
            match feed.push(&chunk, usize::MAX, &poller) {
                Ok(()) => pushed += chunk.len(),
                Err(lost) => break lost,
            }
        };
        assert_eq!(lost, Lost::TooSlow);
        assert!(pushed >= MAX_LAG && feed.lag() <= MAX_LAG);
    }

    #[test]
    fn a_client_that_has_gone_is_noticed() {
        let (read, mut feed, poller) = feed();
        drop(read);
        assert_eq!(feed.push(b"x", usize::MAX, &poller), Err(Lost::Gone));
    }
}
