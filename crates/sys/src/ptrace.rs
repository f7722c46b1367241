//! Looking on while other processes run, stopped at what the kernel tells of: what `cargo xtask order` needs
//! of ptrace(2). On x86-64, whose registers it knows.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// Every thread and process that one which is traced makes is traced too, and all die with the tracer.
const FOLLOWED: i32 = libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACEEXEC
    | libc::PTRACE_O_EXITKILL;

/// What became of a thread; `pid` is its thread id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It has ended.
    Exited { pid: i32, code: i32 },
    /// It was ended by a signal.
    Killed { pid: i32, signal: i32 },
    /// Stopped: it has become another program.
    Exec { pid: i32 },
    /// Stopped, and there is nothing to do but to let it go on.
    Other { pid: i32 },
    /// Stopped before it takes a signal.
    Signal { pid: i32, signal: i32 },
}

/// Traces a process that runs, and whatever it makes from now on.
///
/// # Errors
/// The kernel's: it is gone, or is not ours to trace.
pub fn seize(pid: i32) -> io::Result<()> {
    let options: *mut libc::c_void =
        ptr::without_provenance_mut(usize::try_from(FOLLOWED).unwrap_or(0));
    let no_address: *mut libc::c_void = ptr::null_mut();
    // SAFETY: takes numbers; memory of ours is not touched.
    check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, no_address, options) })
}

/// Lets a thread that is stopped run; with `signal`, if that is not 0.
///
/// # Errors
/// The kernel's: `ESRCH` if somebody killed it meanwhile.
pub fn go_on(pid: i32, signal: i32) -> io::Result<()> {
    resume(libc::PTRACE_CONT, pid, signal)
}

/// Lets a thread that is stopped run, and looks at it no more.
///
/// # Errors
/// As for [`go_on`].
pub fn let_go(pid: i32) -> io::Result<()> {
    resume(libc::PTRACE_DETACH, pid, 0)
}

fn resume(request: libc::c_uint, pid: i32, signal: i32) -> io::Result<()> {
    let signal: *mut libc::c_void =
        ptr::without_provenance_mut(usize::try_from(signal).unwrap_or(0));
    let no_address: *mut libc::c_void = ptr::null_mut();
    // SAFETY: takes numbers; memory of ours is not touched.
    check(unsafe { libc::ptrace(request, pid, no_address, signal) })
}

/// Where a stopped thread goes on.
///
/// # Errors
/// As for [`go_on`].
pub fn instruction(pid: i32) -> io::Result<u64> {
    Ok(registers(pid)?.rip)
}

/// Has a stopped thread go on elsewhere.
///
/// # Errors
/// As for [`go_on`].
pub fn set_instruction(pid: i32, address: u64) -> io::Result<()> {
    let mut registers = registers(pid)?;
    registers.rip = address;
    let no_address: *mut libc::c_void = ptr::null_mut();
    let from = &raw const registers;
    // SAFETY: the kernel reads one structure of this size from `from`, which lives until it returns.
    check(unsafe { libc::ptrace(libc::PTRACE_SETREGS, pid, no_address, from) })
}

fn registers(pid: i32) -> io::Result<libc::user_regs_struct> {
    let mut registers = MaybeUninit::<libc::user_regs_struct>::uninit();
    let no_address: *mut libc::c_void = ptr::null_mut();
    // SAFETY: the kernel writes at most one structure of this size, which lives until it returns.
    check(unsafe { libc::ptrace(libc::PTRACE_GETREGS, pid, no_address, registers.as_mut_ptr()) })?;
    // SAFETY: the kernel has said that it has written all of it.
    Ok(unsafe { registers.assume_init() })
}

/// Waits until something becomes of any child or of anybody who is traced. Blocks; `None` when there is
/// nobody left.
///
/// # Errors
/// The kernel's.
pub fn wait() -> io::Result<Option<Change>> {
    let mut status = 0;
    loop {
        // SAFETY: the kernel writes one number to `status`, which lives until it returns.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) };
        if pid >= 0 {
            return Ok(Some(change(pid, status)));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::ECHILD) => return Ok(None),
            _ => return Err(error),
        }
    }
}

fn change(pid: i32, status: i32) -> Change {
    if libc::WIFEXITED(status) {
        return Change::Exited { pid, code: libc::WEXITSTATUS(status) };
    }
    if libc::WIFSIGNALED(status) {
        return Change::Killed { pid, signal: libc::WTERMSIG(status) };
    }
    match status >> 16 {
        0 => Change::Signal { pid, signal: libc::WSTOPSIG(status) },
        libc::PTRACE_EVENT_EXEC => Change::Exec { pid },
        _ => Change::Other { pid },
    }
}

fn check(returned: libc::c_long) -> io::Result<()> {
    if returned == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_stop_is_told_apart() {
        let exec = libc::SIGTRAP << 8 | 0x7f | libc::PTRACE_EVENT_EXEC << 16;
        let clone = libc::SIGTRAP << 8 | 0x7f | libc::PTRACE_EVENT_CLONE << 16;
        assert_eq!(change(7, 3 << 8), Change::Exited { pid: 7, code: 3 });
        assert_eq!(change(7, libc::SIGKILL), Change::Killed { pid: 7, signal: libc::SIGKILL });
        assert_eq!(change(7, exec), Change::Exec { pid: 7 });
        assert_eq!(change(7, clone), Change::Other { pid: 7 });
        let trap = libc::SIGTRAP << 8 | 0x7f;
        assert_eq!(change(7, trap), Change::Signal { pid: 7, signal: libc::SIGTRAP });
    }

    #[test]
    fn nobody_can_be_traced_who_is_not_there() {
        let error = seize(i32::MAX).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }
}
