//! Terminals: handing a master over, and standing between one and our own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use launch::plan::{ProcessPlan, TerminalSize};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::termios::{OptionalActions, OutputModes, Termios};

use crate::error::{At as _, OciError, text};

/// What goes with the master: callers show it.
const NAME: &[u8] = b"/dev/ptmx";

/// Sends a terminal's master to who listens on a socket.
pub(crate) fn hand_over(socket: &Path, master: BorrowedFd<'_>) -> Result<(), OciError> {
    sys::fdpass::send_to_path(text(socket)?, NAME, master).at("send the terminal to", socket)
}

/// Our own terminal, raw; as it was when this is dropped.
#[derive(Debug)]
struct Raw {
    before: Termios,
}

impl Raw {
    /// `None` when standard input is no terminal.
    fn enter() -> Option<Self> {
        let stdin = rustix::stdio::stdin();
        let before = rustix::termios::tcgetattr(stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        // What is shown has the line ends of the program, which are ours to complete.
        raw.output_modes |= before.output_modes & OutputModes::OPOST;
        rustix::termios::tcsetattr(stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let stdin = rustix::stdio::stdin();
        // A terminal that is gone needs nothing any more.
        rustix::termios::tcsetattr(stdin, OptionalActions::Now, &self.before).ok();
    }
}

/// Passes on what is typed to a container's terminal, and what that shows to our standard output.
#[derive(Debug)]
pub(crate) struct Relay {
    master: OwnedFd,
    /// Read and not yet taken by the terminal.
    typed: Vec<u8>,
    typing: bool,
    showing: bool,
    _raw: Option<Raw>,
}

impl Relay {
    pub(crate) fn new(master: OwnedFd) -> Result<Self, OciError> {
        let flags = rustix::fs::fcntl_getfl(&master).step("relay the terminal")?;
        rustix::fs::fcntl_setfl(&master, flags | OFlags::NONBLOCK).step("relay the terminal")?;
        Ok(Self { master, typed: Vec::new(), typing: true, showing: true, _raw: Raw::enter() })
    }

    /// Gives the terminal the size of ours, if we have one.
    pub(crate) fn resize(&self) {
        if let Ok(size) = rustix::termios::tcgetwinsize(rustix::stdio::stdin()) {
            // A terminal that has ended has no size.
            rustix::termios::tcsetwinsize(&self.master, size).ok();
        }
    }

    /// What to wait for: our input, the terminal.
    pub(crate) fn interests(&self) -> [Option<PollFd<'_>>; 2] {
        let reading = self.typing && self.typed.is_empty();
        let stdin =
            reading.then(|| PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN));
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, self.showing);
        wanted.set(PollFlags::OUT, !self.typed.is_empty());
        let master = (!wanted.is_empty()).then(|| PollFd::new(&self.master, wanted));
        [stdin, master]
    }

    /// Passes on what can be without waiting for it. `input`: ours has something.
    pub(crate) fn pump(&mut self, input: bool) -> Result<(), OciError> {
        if input {
            let mut bytes = [0; 4096];
            match rustix::io::read(rustix::stdio::stdin(), &mut bytes) {
                Ok(0) | Err(Errno::IO) => self.typing = false,
                Ok(len) => self.typed.extend_from_slice(bytes.get(..len).unwrap_or_default()),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno).step("read standard input"),
            }
        }
        while !self.typed.is_empty() {
            match rustix::io::write(&self.master, &self.typed) {
                Ok(len) => drop(self.typed.drain(..len)),
                Err(Errno::AGAIN | Errno::INTR) => break,
                // Nobody has the other end open.
                Err(_) => self.typed.clear(),
            }
        }
        self.show()
    }

    /// Shows what the terminal has.
    pub(crate) fn show(&mut self) -> Result<(), OciError> {
        let mut bytes = [0; 16 << 10];
        // As much as there is now, so that an endless writer does not keep us from signals.
        for _ in 0..16 {
            match rustix::io::read(&self.master, &mut bytes) {
                Ok(0) | Err(Errno::IO) => {
                    self.showing = false;
                    break;
                }
                Ok(len) => write_all(bytes.get(..len).unwrap_or_default())
                    .step("write to standard output")?,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).step("read the terminal"),
            }
        }
        Ok(())
    }

    /// Shows what the terminal still has once its process has ended.
    pub(crate) fn finish(mut self) -> Result<(), OciError> {
        while self.showing {
            let mut ready = [PollFd::new(&self.master, PollFlags::IN)];
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            let count = rustix::event::poll(&mut ready, Some(&now)).step("wait")?;
            if count == 0 {
                break;
            }
            self.show()?;
        }
        Ok(())
    }
}

fn write_all(mut bytes: &[u8]) -> io::Result<()> {
    let stdout = rustix::stdio::stdout();
    while !bytes.is_empty() {
        match rustix::io::write(stdout, bytes) {
            Ok(len) => bytes = bytes.get(len..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut ready = [PollFd::from_borrowed_fd(stdout, PollFlags::OUT)];
                rustix::event::poll(&mut ready, None)?;
            }
            // Nobody looks any more: the process goes on all the same.
            Err(Errno::PIPE) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// The size of the terminal we are on, for a process that has none of its own.
pub(crate) fn give_own_size(process: &mut ProcessPlan) {
    if process.terminal && process.terminal_size.is_none() {
        let size = rustix::termios::tcgetwinsize(rustix::stdio::stdin());
        process.terminal_size =
            size.ok().map(|size| TerminalSize { rows: size.ws_row, columns: size.ws_col });
    }
}

/// The three standard streams, as a launch takes them.
pub(crate) fn own_streams() -> launch::Io<'static> {
    launch::Io::Files {
        stdin: rustix::stdio::stdin(),
        stdout: rustix::stdio::stdout(),
        stderr: rustix::stdio::stderr(),
    }
}

/// Whether there is somebody to give a terminal to.
pub(crate) fn io_of(terminal: bool) -> launch::Io<'static> {
    if terminal { launch::Io::Terminal } else { own_streams() }
}

/// As a borrowed file, for those who poll.
impl AsFd for Relay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}
