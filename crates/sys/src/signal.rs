//! Forgetting every signal disposition before exec.

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
