//! Namespaces of the calling thread. All of them change process-wide state that other threads may
//! rely on, so single-threaded processes are the only sensible callers.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags};

/// `ioctl_nsfs(2)`: which `CLONE_NEW*` made it.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// One kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Mounts.
    Mount,
    /// Process ids; entering one takes effect for children only.
    Pid,
    /// Network.
    Net,
    /// System V IPC and message queues.
    Ipc,
    /// Host name.
    Uts,
    /// Cgroup root.
    Cgroup,
    /// Clocks: monotonic time and time since boot.
    Time,
    /// Users and capabilities. The caller gets every capability in one it enters, and loses those
    /// it had: there is no way back.
    User,
}

impl Kind {
    fn link(self) -> LinkNameSpaceType {
        match self {
            Self::Mount => LinkNameSpaceType::Mount,
            Self::Pid => LinkNameSpaceType::ProcessID,
            Self::Net => LinkNameSpaceType::Network,
            Self::Ipc => LinkNameSpaceType::InterProcessCommunication,
            Self::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
            Self::Cgroup => LinkNameSpaceType::ControlGroup,
            Self::Time => LinkNameSpaceType::Time,
            Self::User => LinkNameSpaceType::User,
        }
    }

    fn flag(self) -> u32 {
        // Both flag types are transparent over the same CLONE_NEW* bits.
        match self {
            Self::Mount => ThreadNameSpaceType::MOUNT.bits(),
            Self::Pid => ThreadNameSpaceType::PROCESS_ID.bits(),
            Self::Net => ThreadNameSpaceType::NETWORK.bits(),
            Self::Ipc => ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION.bits(),
            Self::Uts => ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME.bits(),
            Self::Cgroup => ThreadNameSpaceType::CONTROL_GROUP.bits(),
            Self::Time => ThreadNameSpaceType::TIME.bits(),
            Self::User => ThreadNameSpaceType::USER.bits(),
        }
    }

    /// Its file below `/proc/<pid>/ns`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mount => "mnt",
            Self::Pid => "pid",
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
            Self::Time => "time",
            Self::User => "user",
        }
    }
}

fn bits(kinds: &[Kind]) -> u32 {
    kinds.iter().fold(0, |bits, kind| bits | kind.flag())
}

/// Opens the caller's own namespace, through `/proc`.
///
/// # Errors
/// What `open(2)` refuses with.
pub fn own(kind: Kind) -> io::Result<OwnedFd> {
    open_link(&format!("/proc/thread-self/ns/{}", kind.name()))
}

/// Opens the namespace of a process, through `/proc`.
///
/// # Errors
/// What `open(2)` refuses with.
pub fn of_process(pid: rustix::process::Pid, kind: Kind) -> io::Result<OwnedFd> {
    open_link(&format!("/proc/{}/ns/{}", pid.as_raw_nonzero(), kind.name()))
}

/// Whether the caller is in the same namespace as a process; not where that cannot be seen.
pub fn is_own(pid: rustix::process::Pid, kind: Kind) -> bool {
    let link = |process: &str| {
        rustix::fs::readlink(format!("/proc/{process}/ns/{}", kind.name()), Vec::new()).ok()
    };
    let own = link("thread-self");
    own.is_some() && own == link(&pid.as_raw_nonzero().to_string())
}

fn open_link(path: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens a file that stands for a namespace of a kind.
///
/// # Errors
/// What `open(2)` refuses with; `EINVAL` for any other file.
pub fn open(path: &str, kind: Kind) -> io::Result<OwnedFd> {
    // Without waiting for the other end of what may be a pipe.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    // SAFETY: the request takes no argument and gives a number; files of other kinds refuse it.
    let found = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    if u32::try_from(found).is_ok_and(|found| found == kind.flag()) {
        Ok(file)
    } else {
        Err(io::Error::from_raw_os_error(libc::EINVAL))
    }
}

/// Enters the namespace a file stands for; `EINVAL` when it is of another kind.
///
/// # Errors
/// What `setns(2)` refuses with.
pub fn enter(namespace: BorrowedFd<'_>, kind: Kind) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(namespace, Some(kind.link()))?)
}

/// Enters namespaces of another process, all or none.
///
/// # Errors
/// What `setns(2)` refuses with.
pub fn enter_of(process: BorrowedFd<'_>, kinds: &[Kind]) -> io::Result<()> {
    let kinds = ThreadNameSpaceType::from_bits_retain(bits(kinds));
    Ok(rustix::thread::move_into_thread_name_spaces(process, kinds)?)
}

/// Leaves the time namespace for a new one, whose clocks are ahead of the host's by `offsets`: lines of
/// a clock's name, seconds and nanoseconds. By way of the caller's `/proc`.
///
/// # Errors
/// What the calls refuse with: `EINVAL` for a clock that is not known, `ERANGE` for one that would be
/// negative, `EPERM` without `CAP_SYS_TIME`.
pub fn unshare_time(offsets: &[String]) -> io::Result<()> {
    unshare(&[Kind::Time])?;
    for line in offsets {
        let file = "/proc/self/timens_offsets";
        crate::fs::write_value(rustix::fs::CWD, file, line.as_bytes())?;
    }
    // So far it is that of the caller's children only.
    enter(std::os::fd::AsFd::as_fd(&open_link("/proc/self/ns/time_for_children")?), Kind::Time)
}

/// Leaves namespaces for new ones.
///
/// # Errors
/// What `unshare(2)` refuses with.
pub fn unshare(kinds: &[Kind]) -> io::Result<()> {
    let flags = UnshareFlags::from_bits_retain(bits(kinds));
    // SAFETY: only namespace flags can be named by `Kind`, never FILES, whose descriptor-table
    // split is what makes the call unsafe.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    Ok(())
}
