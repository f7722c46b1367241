//! What a single-threaded supervisor needs beyond `rustix`: child events and requests to end as
//! files, ignored signals, any signal through a pidfd.

use std::io;
use std::mem::MaybeUninit;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::process::Pid;

/// Readable whenever a child has changed state since [`ChildEvents::clear`]. SIGCHLD stays
/// blocked in the thread that made it, and in what that thread spawns unless unblocked there.
#[derive(Debug)]
pub struct ChildEvents(OwnedFd);

impl ChildEvents {
    /// Blocks SIGCHLD in the calling thread and watches for it. Does not block.
    ///
    /// # Errors
    /// The kernel's: no descriptor or memory left.
    pub fn watch() -> io::Result<Self> {
        watch_one(libc::SIGCHLD).map(Self)
    }

    /// Waits until something has happened, for at most `limit`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&self, limit: std::time::Duration) -> io::Result<()> {
        use rustix::event::{PollFd, PollFlags, Timespec};
        let limit = Timespec::try_from(limit).ok();
        let mut files = [PollFd::new(&self.0, PollFlags::IN)];
        match rustix::event::poll(&mut files, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Forgets what happened so far; reap after it, or an event in between is lost.
    ///
    /// # Errors
    /// The kernel's.
    pub fn clear(&self) -> io::Result<()> {
        // SIGCHLD is not queued: one pending instance at most.
        let mut one = [0u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.0, &mut one) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for ChildEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Requests to end (SIGTERM), as a file that is readable when there is one. The signal stays blocked
/// in the thread that made it, as SIGCHLD does by [`ChildEvents`].
#[derive(Debug)]
pub struct Terminations(OwnedFd);

impl Terminations {
    /// Blocks SIGTERM in the calling thread and watches for it. Does not block.
    ///
    /// # Errors
    /// The kernel's: no descriptor or memory left.
    pub fn watch() -> io::Result<Self> {
        watch_one(libc::SIGTERM).map(Self)
    }

    /// The process that has sent one, as this one's PID namespace numbers it; 0 for one it cannot see.
    ///
    /// # Errors
    /// The kernel's.
    pub fn next(&self) -> io::Result<Option<u32>> {
        let mut one = [0u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.0, &mut one) {
            // Before it stand the signal, an errno and a code, of four bytes each.
            Ok(_) => Ok(Some(u32::from_ne_bytes([one[12], one[13], one[14], one[15]]))),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Terminations {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn watch_one(signal: libc::c_int) -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `set` is a sigset_t to be initialised by this call.
    check(unsafe { libc::sigemptyset(set.as_mut_ptr()) })?;
    // SAFETY: sigemptyset initialised the set.
    check(unsafe { libc::sigaddset(set.as_mut_ptr(), signal) })?;
    // SAFETY: sigemptyset initialised all of it.
    let set = unsafe { set.assume_init() };
    block_and_watch(&set)
}

/// Blocks signals in the calling thread; they can be read from the file.
fn block_and_watch(set: &libc::sigset_t) -> io::Result<OwnedFd> {
    // SAFETY: both pointers are valid for the call; the old mask is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, set, std::ptr::null_mut()) })?;
    // SAFETY: the set is initialised and outlives the call; -1 asks for a new descriptor.
    let file = check(unsafe { libc::signalfd(-1, set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?;
    // SAFETY: signalfd returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(file) })
}

/// Every signal the calling thread gets, as a file to be read instead.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks every signal that can be blocked in the calling thread, and watches for them. What the
    /// thread executes has them blocked too unless it unblocks them.
    ///
    /// # Errors
    /// The kernel's: no descriptor or memory left.
    pub fn watch_all() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `set` is a sigset_t to be initialised by this call.
        check(unsafe { libc::sigfillset(set.as_mut_ptr()) })?;
        // SAFETY: sigfillset initialised all of it.
        let set = unsafe { set.assume_init() };
        block_and_watch(&set).map(Self)
    }

    /// The number of the next signal that waits, if one does.
    ///
    /// # Errors
    /// The kernel's.
    pub fn next(&self) -> io::Result<Option<i32>> {
        let mut one = [0u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.0, &mut one) {
            // The number is the structure's first field.
            Ok(_) => Ok(Some(i32::from_ne_bytes([one[0], one[1], one[2], one[3]]))),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A child that has ended, which is not reaped by this: until it is, nobody else gets its number.
/// Does not wait.
///
/// # Errors
/// `ECHILD`: there are no children.
pub fn next_ended() -> io::Result<Option<Pid>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is valid for the write of one siginfo_t.
    check(unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) })?;
    // SAFETY: all zeros is a valid siginfo_t, and the kernel has filled in another or none.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid fills in the fields of SIGCHLD, or leaves the zeros.
    Ok(Pid::from_raw(unsafe { info.si_pid() }))
}

/// Ignores a signal, in this process and (unless reset there) in what it executes.
///
/// # Errors
/// `EINVAL`: no such signal, or one that cannot be ignored.
pub fn ignore_signal(signal: i32) -> io::Result<()> {
    // SAFETY: SIG_IGN installs no handler, so no code of ours can run in signal context.
    if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sends any signal, real-time ones too, to the process behind `pidfd`: never to another that
/// got its number.
///
/// # Errors
/// `ESRCH` when it has ended and was reaped; `EINVAL` for no signal.
pub fn signal_by_pidfd(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo means "as kill(2) would fill it in"; the flags are none.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_info, 0)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_cannot_be_ignored_are_refused() {
        assert!(ignore_signal(libc::SIGKILL).is_err());
        assert!(ignore_signal(libc::SIGHUP).is_ok());
    }

    #[test]
    fn a_request_to_end_names_who_sent_it() {
        let asked = Terminations::watch().unwrap();
        assert_eq!(asked.next().unwrap(), None);
        let process = rustix::process::getpid().as_raw_nonzero().get();
        // The thread that has it blocked is the one that gets it.
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        // SAFETY: a system call on plain numbers; the signal is blocked there, so no handler runs.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGTERM) };
        assert_eq!(sent, 0);
        assert_eq!(asked.next().unwrap(), Some(std::process::id()));
        assert_eq!(asked.next().unwrap(), None);
    }

    #[test]
    fn signal_zero_probes_the_process_behind_a_pidfd() {
        let own = rustix::process::pidfd_open(
            rustix::process::getpid(),
            rustix::process::PidfdFlags::empty(),
        )
        .unwrap();
        assert!(signal_by_pidfd(own.as_fd(), 0).is_ok());
        assert!(signal_by_pidfd(own.as_fd(), 65).is_err());
    }
}
