//! Our standard input without blocking, and without changing it: others share the terminal.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::unix::AsyncFd;

const PIECE: usize = 16 * 1024;

/// Standard input.
#[derive(Debug)]
pub enum Input {
    /// A terminal, a pipe or a socket: waited for.
    Watched(AsyncFd<io::Stdin>),
    /// A file: epoll does not take it, and reading it does not wait.
    File(io::Stdin),
}

impl Input {
    /// Ours.
    ///
    /// # Errors
    /// It is closed, or cannot be watched.
    #[expect(deprecated, reason = "the unsafe successor is for types that are no honest owners")]
    pub fn open() -> io::Result<Self> {
        match AsyncFd::new(io::stdin()) {
            Ok(watched) => Ok(Self::Watched(watched)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Ok(Self::File(io::stdin()))
            }
            Err(error) => Err(error),
        }
    }

    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn next(&mut self) -> io::Result<Vec<u8>> {
        match self {
            Self::File(file) => read(file.as_fd()),
            Self::Watched(watched) => loop {
                let mut ready = watched.readable().await?;
                // It blocks, so it is read only if there is something right now.
                if has_something(ready.get_inner().as_fd())? {
                    return read(ready.get_inner().as_fd());
                }
                ready.clear_ready();
            },
        }
    }
}

fn has_something(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(poll(&mut fds, Some(&now))? > 0)
}

/// Not by way of [`io::Stdin`]: its buffer would hide what epoll does not see.
fn read(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; PIECE];
    loop {
        match rustix::io::read(fd, &mut bytes) {
            Ok(n) => {
                bytes.truncate(n);
                return Ok(bytes);
            }
            Err(rustix::io::Errno::INTR) => {}
            // A terminal that was hung up.
            Err(rustix::io::Errno::IO) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
    }
}
