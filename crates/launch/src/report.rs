//! What child and parent say to each other while a launch goes on.
//!
//! One packet per message over a socket pair. The child's end closes at exec, so the end of the
//! stream means that the program runs (or that the child died without a word, which its status
//! tells).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::Pid;
use sys::process::Child;

use crate::error::{LaunchError, Step, Warning};

const WARNING: u8 = 0;
const FAILED: u8 = 1;
const READY: u8 = 2;
const CONSOLE: u8 = 3;
const GO: u8 = 4;
const HOOKS: u8 = 5;
const BORN: u8 = 6;
const LISTENER: u8 = 7;

/// Subjects are paths: a longer one is cut.
const MAX_TEXT: usize = 8192;
const MAX_PACKET: usize = MAX_TEXT * 2 + 16;

/// From child to parent.
#[derive(Debug)]
pub(crate) enum Message {
    /// Something was narrowed.
    Warning(Warning),
    /// It is over; the child exits.
    Failed(LaunchError),
    /// Everything is set up; the child waits for [`go`].
    Ready,
    /// The root is put together; the child waits for [`go`] until hooks have been run.
    Hooks,
    /// The master of the new terminal.
    Console(OwnedFd),
    /// Who answers for the seccomp filter of the child is to be given this.
    Listener(OwnedFd),
    /// A process that makes another one in its place has made it.
    Born(Child),
    /// The stream has ended.
    End,
}

/// The child's end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reporter<'a>(pub(crate) BorrowedFd<'a>);

impl Reporter<'_> {
    /// A parent that does not listen any more cannot be told, and nothing else is to be done.
    fn send(self, packet: &[u8]) {
        sys::fdpass::send(self.0, packet, None).ok();
    }

    pub(crate) fn warn(self, what: &str, why: &str) {
        let mut packet = vec![WARNING];
        packet.extend_from_slice(cut(what));
        packet.push(0);
        packet.extend_from_slice(cut(why));
        self.send(&packet);
    }

    pub(crate) fn failed(self, error: &LaunchError) {
        let errno =
            error.cause.as_ref().map_or(0, |cause| cause.raw_os_error().unwrap_or(libc::EIO));
        let mut packet = vec![FAILED, error.step.number()];
        packet.extend_from_slice(&errno.to_ne_bytes());
        packet.extend_from_slice(cut(&error.subject));
        self.send(&packet);
    }

    pub(crate) fn console(self, master: BorrowedFd<'_>) -> io::Result<()> {
        sys::fdpass::send(self.0, &[CONSOLE], Some(master))
    }

    /// For a thread of the child's that outlives this borrow.
    pub(crate) fn to_owned(self) -> io::Result<OwnedFd> {
        self.0.try_clone_to_owned()
    }

    /// Hands over the listener; waits until the agent has it, and says whether it has.
    pub(crate) fn listener(self, listener: BorrowedFd<'_>) -> bool {
        let sent = sys::fdpass::send(self.0, &[LISTENER], Some(listener));
        let answer = sent.and_then(|()| sys::fdpass::receive(self.0, 1));
        answer.is_ok_and(|packet| packet.bytes == [GO])
    }

    /// Hands over a process that was made for the parent.
    pub(crate) fn born(self, child: &Child) -> io::Result<()> {
        let mut packet = vec![BORN];
        packet.extend(child.pid.as_raw_nonzero().get().to_ne_bytes());
        sys::fdpass::send(self.0, &packet, Some(child.pidfd.as_fd()))
    }

    /// Says that all is set up and waits for the word to go on.
    pub(crate) fn wait_for_go(self) -> io::Result<()> {
        self.wait_after(READY)
    }

    /// Says that all is set up and waits for somebody to connect to `gate` and give the word; that
    /// connection is to be reported to from then on.
    pub(crate) fn wait_for_caller(self, gate: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        sys::fdpass::send(self.0, &[READY], None)?;
        loop {
            let caller = sys::fdpass::accept(gate)?;
            // One who goes away without a word has changed its mind, or was killed.
            if sys::fdpass::receive(&caller, 1).is_ok_and(|packet| packet.bytes == [GO]) {
                return Ok(caller);
            }
        }
    }

    /// Says that the hooks of the launcher's namespaces may run and waits until they have.
    pub(crate) fn wait_for_hooks(self) -> io::Result<()> {
        self.wait_after(HOOKS)
    }

    fn wait_after(self, message: u8) -> io::Result<()> {
        sys::fdpass::send(self.0, &[message], None)?;
        let packet = sys::fdpass::receive(self.0, 1)?;
        if packet.bytes == [GO] { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }
}

fn cut(text: &str) -> &[u8] {
    let bytes = text.as_bytes();
    bytes.get(..MAX_TEXT).unwrap_or(bytes)
}

/// Lets a child that is ready go on.
pub(crate) fn go(channel: impl AsFd) -> io::Result<()> {
    sys::fdpass::send(channel.as_fd(), &[GO], None)
}

/// Whether [`receive`] would not wait.
pub(crate) fn has_something(channel: impl AsFd) -> io::Result<bool> {
    has_something_by(channel, Some(Instant::now()))
}

/// Whether [`receive`] would not wait, now or at that time.
pub(crate) fn has_something_by(channel: impl AsFd, until: Option<Instant>) -> io::Result<bool> {
    let mut one = [PollFd::new(&channel, PollFlags::IN)];
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        match rustix::event::poll(&mut one, left.as_ref()) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Waits for the child's next message.
pub(crate) fn receive(channel: impl AsFd) -> io::Result<Message> {
    let packet = sys::fdpass::receive(channel, MAX_PACKET)?;
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    match (packet.bytes.as_slice(), packet.file) {
        ([], _) => Ok(Message::End),
        ([READY], _) => Ok(Message::Ready),
        ([HOOKS], _) => Ok(Message::Hooks),
        ([CONSOLE], Some(master)) => Ok(Message::Console(master)),
        ([LISTENER], Some(listener)) => Ok(Message::Listener(listener)),
        ([BORN, a, b, c, d], Some(pidfd)) => {
            let pid = Pid::from_raw(i32::from_ne_bytes([*a, *b, *c, *d])).ok_or_else(malformed)?;
            Ok(Message::Born(Child { pid, pidfd }))
        }
        ([WARNING, text @ ..], _) => {
            let text = String::from_utf8_lossy(text);
            let (what, why) = text.split_once('\0').ok_or_else(malformed)?;
            Ok(Message::Warning(Warning { what: what.to_owned(), why: why.to_owned() }))
        }
        ([FAILED, step, a, b, c, d, subject @ ..], _) => {
            let errno = i32::from_ne_bytes([*a, *b, *c, *d]);
            Ok(Message::Failed(LaunchError {
                step: Step::from_number(*step).ok_or_else(malformed)?,
                subject: String::from_utf8_lossy(subject).into_owned(),
                cause: (errno != 0).then(|| io::Error::from_raw_os_error(errno)),
            }))
        }
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_arrives_as_it_was_sent() {
        let (here, there) = sys::fdpass::packet_pair().unwrap();
        let sent = LaunchError::new(Step::Exec, "/x", io::Error::from_raw_os_error(libc::ENOENT));
        Reporter(here.as_fd()).failed(&sent);
        let Message::Failed(got) = receive(&there).unwrap() else { panic!("not a failure") };
        assert_eq!(got.sentence(), sent.sentence());
    }

    #[test]
    fn a_failure_without_a_cause_stays_without() {
        let (here, there) = sys::fdpass::packet_pair().unwrap();
        let sent = LaunchError { step: Step::NotInPath, subject: "sh".to_owned(), cause: None };
        Reporter(here.as_fd()).failed(&sent);
        let Message::Failed(got) = receive(&there).unwrap() else { panic!("not a failure") };
        assert_eq!(got.sentence(), "exec: \"sh\": executable file not found in $PATH");
    }

    #[test]
    fn warnings_and_the_end_arrive() {
        let (here, there) = sys::fdpass::packet_pair().unwrap();
        Reporter(here.as_fd()).warn("RLIMIT_NOFILE 9", &"x".repeat(MAX_TEXT * 2));
        drop(here);
        let Message::Warning(got) = receive(&there).unwrap() else { panic!("not a warning") };
        assert_eq!((got.what.as_str(), got.why.len()), ("RLIMIT_NOFILE 9", MAX_TEXT));
        assert!(matches!(receive(&there).unwrap(), Message::End));
    }
}
