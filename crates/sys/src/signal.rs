//! Signal dispositions before exec: forgetting them all, and ending all the same as the first process of
//! a PID namespace.

use std::io;
use std::mem::MaybeUninit;

/// The highest signal number.
const LAST: libc::c_int = 64;

/// `struct sigaction` as the kernel has it; all zero is the default disposition.
#[repr(C)]
#[derive(Debug, Default)]
struct KernelAction {
    handler: usize,
    flags: usize,
    restorer: usize,
    mask: u64,
}

/// Gives every signal its default disposition and unblocks all, as a new program expects. Rust
/// programs ignore SIGPIPE, and ignored signals stay ignored over exec.
///
/// # Errors
/// What `sigprocmask(2)` refuses with.
pub fn reset_all() -> io::Result<()> {
    let default = KernelAction::default();
    for signal in 1..=LAST {
        // Past the C library, which keeps two signals to itself and would leave them as inherited.
        // SAFETY: setting the default runs no code of ours, and `default` outlives the call.
        // SIGKILL and SIGSTOP refuse with an error that changes nothing.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                std::ptr::from_ref(&default),
                std::ptr::null_mut::<KernelAction>(),
                size_of::<u64>(),
            )
        };
    }
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set it is given.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: the set was initialised just above; the previous mask is not asked for.
    if unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes every signal that by default ends a process end this one with 128 and the signal's number, until
/// it executes a program. The kernel does not do that by itself for the first process of a PID
/// namespace: what has no handler is lost there. SIGKILL does, and faults do; a broken pipe stays an error.
///
/// # Errors
/// What `sigaction(2)` refuses with.
pub fn end_on_any() -> io::Result<()> {
    const OTHERS: [libc::c_int; 17] = [
        // Not for us to say.
        libc::SIGKILL,
        libc::SIGSTOP,
        // By default they stop or wake, or nothing happens.
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
        libc::SIGCONT,
        libc::SIGCHLD,
        libc::SIGURG,
        libc::SIGWINCH,
        // Faults: the kernel ends whoever has them.
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGTRAP,
        libc::SIGSYS,
        libc::SIGABRT,
        libc::SIGPIPE,
    ];
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: `sigaction` is plain data, for which all zero is valid: no flags, no handler.
    let action = unsafe { action.assume_init_mut() };
    action.sa_sigaction = end as extern "C" fn(libc::c_int) as usize;
    // Two belong to the C library, which refuses to have them handled.
    let own = |signal: &libc::c_int| (32..libc::SIGRTMIN()).contains(signal);
    for signal in (1..=LAST).filter(|signal| !OTHERS.contains(signal) && !own(signal)) {
        // SAFETY: `end` only calls `_exit`, which any moment allows; `action` outlives the call.
        if unsafe { libc::sigaction(signal, action, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

extern "C" fn end(signal: libc::c_int) {
    // SAFETY: `_exit` is safe in a signal handler and does not return.
    unsafe { libc::_exit(128 + signal) }
}
