//! Forgetting every signal disposition before exec.

use std::io;
use std::mem::MaybeUninit;

/// Gives every signal its default disposition and unblocks all, as a new program expects. Rust
/// programs ignore SIGPIPE, and ignored signals stay ignored over exec.
///
/// # Errors
/// What `sigprocmask(2)` refuses with.
pub fn reset_all() -> io::Result<()> {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: setting the default runs no code of ours. SIGKILL, SIGSTOP and the C library's
        // own two refuse with an error that changes nothing.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
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
