//! A container's stdin as the shim holds it: a pipe or the terminal, and what it has not taken.

use rustix::fd::OwnedFd;
use rustix::io::Errno;

use crate::poll::{Poller, Token};

/// What became of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// The container has it.
    All,
    /// It has not read enough: some is kept, and no more may be given before it is gone.
    Part,
    /// Nobody reads it any more, or nothing may follow.
    Closed,
}

/// The writing end. It never blocks.
#[derive(Debug)]
pub(crate) struct Stdin {
    number: u64,
    file: OwnedFd,
    /// It closes with the first client that feeds it.
    once: bool,
    unwritten: Vec<u8>,
    /// Nothing comes after what is unwritten.
    last: bool,
}

impl Stdin {
    /// `file` does not block.
    pub(crate) fn new(number: u64, file: OwnedFd, once: bool) -> Self {
        Self { number, file, once, unwritten: Vec::new(), last: false }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whether the end of a client's input is its own.
    pub(crate) fn is_once(&self) -> bool {
        self.once
    }

    /// Whether more may be given.
    pub(crate) fn is_free(&self) -> bool {
        self.unwritten.is_empty() && !self.last
    }

    /// Hands over input, once it is free.
    pub(crate) fn write(&mut self, bytes: &[u8], poller: &Poller) -> Taken {
        match self.try_write(bytes) {
            Err(_) => Taken::Closed,
            Ok(written) if written == bytes.len() => Taken::All,
            Ok(written) => {
                if poller.add_writer(&self.file, Token::Stdin(self.number)).is_err() {
                    return Taken::Closed;
                }
                self.unwritten = bytes[written..].to_vec();
                Taken::Part
            }
        }
    }

    /// It takes more of what is kept.
    pub(crate) fn flush(&mut self, poller: &Poller) -> Taken {
        match self.try_write(&self.unwritten) {
            Err(_) => Taken::Closed,
            Ok(written) if written < self.unwritten.len() => {
                self.unwritten.drain(..written);
                Taken::Part
            }
            Ok(_) => {
                poller.remove(&self.file);
                self.unwritten = Vec::new();
                if self.last { Taken::Closed } else { Taken::All }
            }
        }
    }

    /// Nothing more comes: [`Taken::Closed`] when it can be closed at once.
    pub(crate) fn end(&mut self) -> Taken {
        self.last = true;
        if self.unwritten.is_empty() { Taken::Closed } else { Taken::Part }
    }

    pub(crate) fn close(self, poller: &Poller) {
        poller.close(self.file);
    }

    fn try_write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while done < bytes.len() {
            match rustix::io::write(&self.file, &bytes[done..]) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                // EPIPE: the reader is gone. EIO: the terminal is hung up.
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    #[test]
    fn what_is_not_read_is_kept_and_then_the_end_comes() {
        let poller = Poller::new().unwrap();
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let mut stdin = Stdin::new(1, write, true);
        let chunk = [7; 16 << 10];
        let mut given = 0;
        while stdin.write(&chunk, &poller) == Taken::All {
            given += chunk.len();
        }
        given += chunk.len();
        assert!(!stdin.is_free());
        assert_eq!(stdin.end(), Taken::Part);
        let (mut got, mut buffer) = (0, [0; 4096]);
        loop {
            while let Ok(count @ 1..) = rustix::io::read(&read, &mut buffer) {
                got += count;
            }
            match stdin.flush(&poller) {
                Taken::Part => {}
                Taken::Closed => break,
                Taken::All => panic!("more may follow"),
            }
        }
        while let Ok(count @ 1..) = rustix::io::read(&read, &mut buffer) {
            got += count;
        }
        assert_eq!(got, given);
    }

    #[test]
    fn a_container_that_closed_its_stdin_takes_nothing() {
        let poller = Poller::new().unwrap();
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        drop(read);
        assert_eq!(Stdin::new(1, write, false).write(b"x", &poller), Taken::Closed);
    }
}
