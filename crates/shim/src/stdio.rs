//! A container's standard files as the shim holds them: pipes or a terminal, and the log they
//! are written to.

use std::io;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::attach::Audience;
use crate::clock;
use crate::log::{ContainerLog, Framer, Stream};
use crate::poll::Token;
use crate::tools::Tools;

/// When the first process has ended, this many reads per stream empty what it left behind; more
/// comes from somebody else who is still writing.
const FINAL_READS: usize = 64;

/// Where a process's standard files come from.
#[derive(Debug)]
pub(crate) enum Stdio {
    /// These three.
    Files {
        /// Read by the process.
        stdin: OwnedFd,
        /// Written by it.
        stdout: OwnedFd,
        /// Written by it.
        stderr: OwnedFd,
    },
    /// A new terminal.
    Terminal,
}

impl Stdio {
    /// As the launcher takes them.
    pub(crate) fn as_io(&self) -> launch::Io<'_> {
        match self {
            Self::Files { stdin, stdout, stderr } => launch::Io::Files {
                stdin: stdin.as_fd(),
                stdout: stdout.as_fd(),
                stderr: stderr.as_fd(),
            },
            Self::Terminal => launch::Io::Terminal,
        }
    }
}

/// The shim's ends of a container's pipes.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Makes the pipes. The process's ends belong to its user, so that it may open `/dev/stdout`
/// again.
///
/// # Errors
/// The kernel's: no descriptors left.
pub(crate) fn pipes(null: &OwnedFd, keep_stdin: bool, uid: u32) -> io::Result<(Ends, Stdio)> {
    let (stdout, their_stdout) = pipe(uid)?;
    let (stderr, their_stderr) = pipe(uid)?;
    set_nonblocking(&stdout)?;
    set_nonblocking(&stderr)?;
    let (stdin, their_stdin) = if keep_stdin {
        let (theirs, ours) = pipe(uid)?;
        set_nonblocking(&ours)?;
        (Some(ours), theirs)
    } else {
        (None, null.try_clone()?)
    };
    let theirs = Stdio::Files { stdin: their_stdin, stdout: their_stdout, stderr: their_stderr };
    Ok((Ends { stdin, stdout, stderr }, theirs))
}

/// Read end, write end.
fn pipe(uid: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    if uid != 0 {
        // Both ends are one inode.
        rustix::fs::fchown(&read, Some(rustix::fs::Uid::from_raw(uid)), None)?;
    }
    Ok((read, write))
}

/// Makes reads and writes of this end return at once. The other end is not affected.
///
/// # Errors
/// The kernel's.
pub(crate) fn set_nonblocking(file: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    Ok(rustix::fs::fcntl_setfl(file, flags | OFlags::NONBLOCK)?)
}

#[derive(Debug)]
struct Output {
    number: u64,
    stream: Stream,
    file: OwnedFd,
    framer: Framer,
}

enum Read {
    Bytes(usize),
    NothingNow,
    End,
}

impl Output {
    fn read(&self, buffer: &mut [u8]) -> Read {
        match rustix::io::read(&self.file, buffer) {
            Ok(0) => Read::End,
            Ok(count) => Read::Bytes(count),
            Err(Errno::AGAIN | Errno::INTR) => Read::NothingNow,
            // EIO: nobody holds the terminal any more. Anything else would repeat for ever.
            Err(_) => Read::End,
        }
    }

    fn close(mut self, log: Option<&mut ContainerLog>, audience: &mut Audience, tools: &mut Tools) {
        audience.stream_ended(self.stream, &tools.poller);
        if let Some(log) = log {
            let at = (self.stream, clock::now());
            log.finish(&mut self.framer, at, &mut tools.batch, &tools.journal);
        }
        tools.poller.close(self.file);
    }
}

/// What a container writes, and where it goes.
#[derive(Debug)]
pub(crate) struct Sink {
    outputs: Vec<Output>,
    log: Option<ContainerLog>,
    /// Whoever is attached.
    pub(crate) audience: Audience,
    /// Of a terminal, its other end: reading fails while nobody has that open, although the
    /// container may open it again.
    slave: Option<OwnedFd>,
}

impl Sink {
    /// Nothing is read until [`Self::attach`]; without a log what is read is dropped.
    pub(crate) fn new(log: Option<ContainerLog>) -> Self {
        Self { outputs: Vec::new(), log, audience: Audience::default(), slave: None }
    }

    /// Reads a terminal from now on.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn attach_terminal(&mut self, master: OwnedFd, tools: &mut Tools) -> io::Result<()> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        self.slave = Some(rustix::pty::ioctl_tiocgptpeer(&master, flags)?);
        self.attach(Stream::Stdout, master, tools)
    }

    /// Whether its output is a terminal's.
    pub(crate) fn is_terminal(&self) -> bool {
        self.slave.is_some()
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn resize(&self, size: Winsize) -> io::Result<()> {
        match &self.slave {
            Some(slave) => Ok(rustix::termios::tcsetwinsize(slave, size)?),
            None => Ok(()),
        }
    }

    /// Whether this output has not ended.
    pub(crate) fn has_stream(&self, stream: Stream) -> bool {
        self.outputs.iter().any(|output| output.stream == stream)
    }

    /// Reads `file` from now on.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn attach(
        &mut self,
        stream: Stream,
        file: OwnedFd,
        tools: &mut Tools,
    ) -> io::Result<()> {
        let number = tools.poller.number();
        tools.poller.add(&file, Token::Output(number))?;
        self.outputs.push(Output { number, stream, file, framer: Framer::default() });
        Ok(())
    }

    /// Whether `number` is one of its outputs.
    pub(crate) fn has(&self, number: u64) -> bool {
        self.outputs.iter().any(|output| output.number == number)
    }

    /// Whether every output has ended.
    pub(crate) fn is_complete(&self) -> bool {
        self.outputs.is_empty()
    }

    /// The log, unless output is dropped.
    pub(crate) fn log(&mut self) -> Option<&mut ContainerLog> {
        self.log.as_mut()
    }

    /// One read of a ready output.
    pub(crate) fn turn(&mut self, number: u64, tools: &mut Tools) {
        if let Some(index) = self.outputs.iter().position(|output| output.number == number) {
            self.read(index, tools);
        }
    }

    /// Reads all outputs empty, as far as they hold anything now. Nothing more is expected of the
    /// container's own process.
    pub(crate) fn drain(&mut self, tools: &mut Tools) {
        self.slave = None;
        for index in (0..self.outputs.len()).rev() {
            for _ in 0..FINAL_READS {
                if !self.read(index, tools) {
                    break;
                }
            }
        }
    }

    /// Ends with what has come so far; returns those who have not taken all of it.
    pub(crate) fn close(mut self, tools: &mut Tools) -> Audience {
        self.drain(tools);
        for output in std::mem::take(&mut self.outputs) {
            output.close(self.log.as_mut(), &mut self.audience, tools);
        }
        self.audience.container_ended(&tools.poller);
        self.audience
    }

    /// Reads once; whether reading on makes sense.
    fn read(&mut self, index: usize, tools: &mut Tools) -> bool {
        let output = &mut self.outputs[index];
        match output.read(&mut tools.buffer[..]) {
            Read::Bytes(count) => {
                let input = &tools.buffer[..count];
                if let Some(log) = &mut self.log {
                    let at = (output.stream, clock::now());
                    log.append(&mut output.framer, at, input, &mut tools.batch, &tools.journal);
                }
                self.audience.hear(output.stream, input, &tools.poller);
                true
            }
            Read::NothingNow => false,
            Read::End => {
                let output = self.outputs.remove(index);
                output.close(self.log.as_mut(), &mut self.audience, tools);
                false
            }
        }
    }
}
