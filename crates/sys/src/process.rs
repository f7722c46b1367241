//! Making, replacing and looking at processes.

use std::ffi::{CStr, CString, c_char, c_int, c_long};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::Pid;

/// Fields of `struct clone_args` up to `cgroup` (kernel 5.7).
#[repr(C)]
#[derive(Debug, Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A child made by [`clone_child`].
#[derive(Debug)]
pub struct Child {
    /// Its process id in the caller's PID namespace.
    pub pid: Pid,
    /// A handle that cannot come to mean another process.
    pub pidfd: OwnedFd,
}

/// Namespace flags of `clone3` for [`clone_child`]: `CLONE_NEW*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NewNamespaces(u64);

impl NewNamespaces {
    /// Time namespace; only `clone3` knows it.
    pub const TIME: Self = Self(0x80);
    /// Mount namespace.
    pub const MOUNT: Self = Self(0x0002_0000);
    /// Cgroup namespace.
    pub const CGROUP: Self = Self(0x0200_0000);
    /// UTS namespace.
    pub const UTS: Self = Self(0x0400_0000);
    /// IPC namespace.
    pub const IPC: Self = Self(0x0800_0000);
    /// PID namespace.
    pub const PID: Self = Self(0x2000_0000);
    /// User namespace; the others made in the same call belong to it.
    pub const USER: Self = Self(0x1000_0000);
    /// Network namespace.
    pub const NET: Self = Self(0x4000_0000);

    /// Both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Ends the process when dropped, so that a panic in a cloned child cannot unwind into frames that
/// belong to the parent.
struct EndOnUnwind;

impl Drop for EndOnUnwind {
    fn drop(&mut self) {
        exit_now(EXIT_PANICKED);
    }
}

/// Exit status of a child whose code panicked.
pub const EXIT_PANICKED: i32 = 254;

/// Makes a child as `fork` does, in new namespaces and, when given, directly in a cgroup of the
/// unified hierarchy. The child runs `body` and
/// ends with the status it returns, if it returns: it never comes back to the caller's code.
///
/// # Errors
/// What `clone3(2)` refuses with; no child exists then.
///
/// # Safety
/// The calling process has one thread: the child gets a copy of memory as it is at this instant,
/// and a lock that another thread held would stay locked in it.
pub unsafe fn clone_child(
    namespaces: NewNamespaces,
    cgroup: Option<BorrowedFd<'_>>,
    body: impl FnOnce() -> i32,
) -> io::Result<Child> {
    let args = CloneArgs {
        flags: namespaces.0,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        ..CloneArgs::default()
    };
    // SAFETY: the caller vouches that no other thread exists.
    unsafe { clone(args, cgroup, body) }
}

/// As [`clone_child`], but the new process is a child of the caller's parent, which is to reap it.
///
/// # Errors
/// What `clone3(2)` refuses with; no process exists then.
///
/// # Safety
/// As for [`clone_child`].
pub unsafe fn clone_sibling(
    namespaces: NewNamespaces,
    cgroup: Option<BorrowedFd<'_>>,
    body: impl FnOnce() -> i32,
) -> io::Result<Child> {
    // With CLONE_PARENT the caller's own exit signal is inherited, and none may be given.
    let args = CloneArgs { flags: namespaces.0 | CLONE_PARENT, ..CloneArgs::default() };
    // SAFETY: the caller vouches that no other thread exists.
    unsafe { clone(args, cgroup, body) }
}

/// # Safety
/// Unless `body` does nothing but system calls, the calling process has one thread.
unsafe fn clone(
    mut args: CloneArgs,
    cgroup: Option<BorrowedFd<'_>>,
    body: impl FnOnce() -> i32,
) -> io::Result<Child> {
    let mut pidfd: RawFd = -1;
    args.flags |= CLONE_PIDFD;
    args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    // SAFETY: `args` is a valid `clone_args` of the size given and `pidfd` outlives the call; no
    // stack is given and no memory is shared, so the child continues on its own copy of this
    // stack. The caller vouches for what `body` may rely on.
    let returned = unsafe {
        libc::syscall(libc::SYS_clone3, std::ptr::from_mut(&mut args), size_of::<CloneArgs>())
    };
    match returned {
        -1 => Err(io::Error::last_os_error()),
        0 => run_child(body),
        pid => {
            // SAFETY: CLONE_PIDFD made the kernel store a new descriptor there, owned by nobody
            // else.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid = i32::try_from(pid)
                .ok()
                .and_then(Pid::from_raw)
                .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
            Ok(Child { pid, pidfd })
        }
    }
}

/// Makes a child that only waits to be killed, in new namespaces: what it is in can be opened, and
/// lives on by that. It ends with its parent. Unlike [`clone_child`] it may be made by a process
/// with several threads.
///
/// # Errors
/// What `clone3(2)` refuses with; no child exists then.
pub(crate) fn clone_holder(namespaces: NewNamespaces) -> io::Result<Child> {
    let args = CloneArgs {
        flags: namespaces.0,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        ..CloneArgs::default()
    };
    // SAFETY: the body does nothing but two system calls: no lock of another thread matters to it.
    unsafe { clone(args, None, hold) }
}

/// A process that does nothing but be somewhere: in a cgroup that would go without it. It ends with
/// this, and with the thread that made it.
#[derive(Debug)]
pub struct Holder(Child);

impl Holder {
    /// Makes one.
    ///
    /// # Errors
    /// What `clone3(2)` refuses with.
    pub fn start() -> io::Result<Self> {
        clone_holder(NewNamespaces::default()).map(Self)
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.0.pid
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Neither fails for a child that is not reaped yet.
        crate::pidfd::kill(self.0.pidfd.as_fd()).ok();
        crate::pidfd::wait(self.0.pidfd.as_fd()).ok();
    }
}

fn hold() -> i32 {
    // SAFETY: numbers only.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
    loop {
        // SAFETY: no arguments.
        unsafe { libc::pause() };
    }
}

fn run_child(body: impl FnOnce() -> i32) -> ! {
    let _guard = EndOnUnwind;
    exit_now(body())
}

/// Ends the process at once: no destructors, no buffers flushed, as a cloned child must.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` has no precondition and does not return.
    unsafe { libc::_exit(status) }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
}

/// Replaces the program. Returns only on failure.
pub fn execve(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let args = pointers(args);
    let env = pointers(env);
    // SAFETY: `path` and every element are NUL-terminated strings that outlive the call, and both
    // arrays end with a null pointer.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Replaces the program with the one in an open file. Returns only on failure.
pub fn execve_file(file: BorrowedFd<'_>, args: &[CString], env: &[CString]) -> io::Error {
    let args = pointers(args);
    let env = pointers(env);
    // SAFETY: the path is an empty NUL-terminated string, every element is a NUL-terminated string
    // that outlives the call, and both arrays end with a null pointer.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Marks every descriptor from `first` on close-on-exec.
///
/// # Errors
/// What `close_range(2)` refuses with.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed; only a flag of descriptors changes.
    let returned =
        unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    checked(returned)
}

/// Closes every file from number `first` on but those of `keep`.
///
/// # Errors
/// What `close_range(2)` refuses with.
///
/// # Safety
/// Nothing may use the others any more, whoever owns them: the caller never returns to frames that do.
pub unsafe fn close_all_but(first: u32, keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<u32> =
        keep.iter().filter_map(|file| u32::try_from(file.as_raw_fd()).ok()).collect();
    kept.sort_unstable();
    let mut from = first;
    for number in kept.into_iter().filter(|number| *number >= first).chain([u32::MAX]) {
        if number > from {
            // SAFETY: the caller's promise.
            let closed = unsafe { libc::syscall(libc::SYS_close_range, from, number - 1, 0) };
            if closed < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        from = number.saturating_add(1);
    }
    Ok(())
}

/// Gives the process a new anonymous session keyring. A kernel without keys has none to leak.
///
/// # Errors
/// What `keyctl(2)` refuses with.
pub fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring; no memory is passed.
    let returned = unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<c_char>())
    };
    match checked(returned) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        result => result,
    }
}

/// The calling process's soft and hard limit; `u64::MAX` is none.
///
/// # Errors
/// `EINVAL` for a resource this kernel does not know.
pub fn limit(resource: u32) -> io::Result<(u64, u64)> {
    let mut now = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: no new limit is given, and `now` outlives the call.
    checked(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            std::ptr::null::<libc::rlimit64>(),
            std::ptr::from_mut(&mut now),
        )
    })?;
    Ok((now.rlim_cur, now.rlim_max))
}

/// Sets the calling process's soft and hard limit; `u64::MAX` is none.
///
/// # Errors
/// `EPERM` for raising the hard limit without `CAP_SYS_RESOURCE`, `EINVAL` for a resource this
/// kernel does not know or a soft limit above the hard one.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let new = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `new` outlives the call, and the old limit is not asked for.
    checked(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            std::ptr::from_ref(&new),
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    })
}

/// Sets the execution domain of the calling process, and of what it executes.
///
/// # Errors
/// What `personality(2)` refuses with.
pub fn set_personality(domain: u32) -> io::Result<()> {
    // SAFETY: takes a number only.
    checked(unsafe { libc::syscall(libc::SYS_personality, libc::c_ulong::from(domain)) })
}

/// How many threads the calling process has. Reads `/proc`.
///
/// # Errors
/// What `stat(2)` refuses with.
pub fn thread_count() -> io::Result<u64> {
    // The task directory has one link per thread, besides the usual two.
    let stat = rustix::fs::stat(c"/proc/self/task")?;
    #[allow(clippy::useless_conversion, reason = "the link count's type differs by architecture")]
    Ok(u64::from(stat.st_nlink).saturating_sub(2))
}

/// When a process started, in clock ticks after boot: with the pid, a name that is never reused.
///
/// Reads `/proc`, which must show the caller's PID namespace.
///
/// # Errors
/// `NotFound` when there is no such process, `InvalidData` for a line that is not as documented.
pub fn start_time(pid: Pid) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
    parse_start_time(&stat).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Whether a process is on its way out: killed and not yet aware of it, ending, or ended.
///
/// Reads `/proc`, which must show the caller's PID namespace. One that is not there has ended.
pub fn is_dying(pid: Pid) -> bool {
    let read = |file: &str| {
        let path = format!("/proc/{}/{file}", pid.as_raw_nonzero());
        crate::fs::read_value(rustix::fs::CWD, path)
    };
    let (Ok(stat), Ok(status)) = (read("stat"), read("status")) else { return true };
    is_exiting(&stat) || has_fatal_signal(&status)
}

/// Field 9 of `/proc/<pid>/stat` has the flag `PF_EXITING`, or field 3 a state after that.
fn is_exiting(stat: &str) -> bool {
    const PF_EXITING: u32 = 4;
    let Some((_, after_name)) = stat.rsplit_once(')') else { return false };
    let flags = after_name.split_ascii_whitespace().nth(6);
    let flags = flags.and_then(|flags| flags.parse::<u32>().ok()).unwrap_or_default();
    // Those of its first thread alone, where others go on.
    (flags & PF_EXITING != 0 && threads(after_name).is_none_or(|count| count <= 1))
        || has_ended(stat)
}

/// What the text of `/proc/<pid>/stat` says: all of its threads are dead, and it waits to be reaped. A first thread
/// that has ended is a zombie for as long as others run.
pub fn has_ended(stat: &str) -> bool {
    let Some((_, after_name)) = stat.rsplit_once(')') else { return false };
    let dead = matches!(after_name.split_ascii_whitespace().next(), Some("Z" | "X"));
    dead && threads(after_name).is_none_or(|count| count <= 1)
}

/// Field 20; the fields that come are from the third on.
fn threads(after_name: &str) -> Option<u32> {
    after_name.split_ascii_whitespace().nth(17)?.parse().ok()
}

/// SIGKILL waits for it, to itself or to all of its threads.
fn has_fatal_signal(status: &str) -> bool {
    const SIGKILL: u64 = 1 << (libc::SIGKILL - 1);
    ["SigPnd:", "ShdPnd:"].iter().any(|name| {
        let mask = status.lines().find_map(|line| line.strip_prefix(name));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask & SIGKILL != 0)
    })
}

/// What [`start_time`] reads in the text of `/proc/<pid>/stat`: field 22. The second is a name in
/// parentheses that may hold anything.
pub fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

pub(crate) fn checked(returned: c_long) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_on_its_way_out_is_told_from_one_that_lives() {
        let stat = |state: &str, flags: u32| format!("12 (a) b) {state} 1 12 12 0 -1 {flags} 1 2");
        assert!(!is_exiting(&stat("S", 0x40_0140)));
        assert!(is_exiting(&stat("R", 0x40_0144)));
        assert!(is_exiting(&stat("Z", 0)));
        assert!(!has_fatal_signal("SigPnd:\t0000000000000000\nShdPnd:\t0000000000004000\n"));
        assert!(has_fatal_signal("SigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n"));
        assert!(!is_dying(rustix::process::getpid()));
    }

    #[test]
    fn the_start_time_is_found_behind_a_hostile_name() {
        let stat = "12 (a) b (c) S 1 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 200";
        assert_eq!(parse_start_time(stat), Some(98765));
    }

    #[test]
    fn a_short_line_has_no_start_time() {
        assert_eq!(parse_start_time("12 (a) S 1"), None);
    }

    #[test]
    fn our_own_start_time_is_known() {
        let pid = rustix::process::getpid();
        assert!(start_time(pid).unwrap() > 0);
    }
}
