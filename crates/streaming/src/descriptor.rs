//! A process's stream without blocking and without a buffer of its own.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use crate::wire::{Gone, Stream, with_scratch};

/// What is read at once: what goes into one frame.
const PIECE: usize = 32 * 1024;
/// More than a pipe holds, unless somebody with privileges made it larger.
const PIPE: usize = 1024 * 1024;

/// A pipe's end, a socket or a terminal.
#[derive(Debug)]
pub(crate) struct Descriptor(AsyncFd<OwnedFd>);

/// What one read gave.
enum Step {
    Moved(usize),
    Ended,
}

impl Descriptor {
    /// Makes it non-blocking and waits for it by epoll.
    #[expect(deprecated, reason = "the unsafe successor is for types that are no honest owners")]
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = fcntl_getfl(&fd)?;
        fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(Self(AsyncFd::new(fd)?))
    }

    /// Writes everything.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
                Ok(Ok(n)) => bytes = &bytes[n..],
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
        Ok(())
    }

    /// Sends what comes out of it, to its end. It is read only when what was read can be sent, so
    /// losing the future loses nothing.
    pub(crate) async fn deliver(&self, stream: &Stream) -> Result<(), Gone> {
        loop {
            let Ok(mut ready) = self.0.readable().await else { return Ok(()) };
            stream.room().await?;
            match ready.try_io(|fd| read(fd.as_fd(), |bytes| stream.send(bytes))) {
                Ok(Ok(Step::Ended)) => return Ok(()),
                Ok(Ok(Step::Moved(_))) => {}
                // A terminal without a process gives EIO; no other error says more than the end.
                Ok(Err(_)) => return Ok(()),
                Err(_would_block) => {}
            }
        }
    }

    /// Reads it to its end for nobody.
    pub(crate) async fn skip(&self) {
        loop {
            let Ok(mut ready) = self.0.readable().await else { return };
            match ready.try_io(|fd| read(fd.as_fd(), |_| {})) {
                Ok(Ok(Step::Moved(_))) | Err(_) => {}
                Ok(Ok(Step::Ended) | Err(_)) => return,
            }
        }
    }

    /// Sends what is in it now, without waiting for more.
    pub(crate) async fn deliver_rest(&self, stream: &Stream) -> Result<(), Gone> {
        let mut total = 0;
        while total < PIPE {
            stream.room().await?;
            match read(self.0.as_fd(), |bytes| stream.send(bytes)) {
                Ok(Step::Moved(n)) => total += n,
                Ok(Step::Ended) | Err(_) => break,
            }
        }
        Ok(())
    }
}

fn read(fd: std::os::fd::BorrowedFd<'_>, take: impl FnOnce(&[u8])) -> io::Result<Step> {
    with_scratch(|scratch| {
        let piece = &mut scratch[..PIECE];
        match rustix::io::read(fd, &mut *piece) {
            Ok(0) => Ok(Step::Ended),
            Ok(n) => {
                take(&piece[..n]);
                Ok(Step::Moved(n))
            }
            Err(Errno::INTR) => Ok(Step::Moved(0)),
            Err(error) => Err(error.into()),
        }
    })
}
