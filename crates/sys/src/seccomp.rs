//! Loading a compiled seccomp filter.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// Size of one `struct sock_filter`.
const INSTRUCTION: usize = 8;
/// `SECCOMP_FILTER_FLAG_*` that do not make the call return a descriptor or act on other threads
/// in ways a launcher cannot handle: TSYNC, LOG, SPEC_ALLOW.
const KNOWN_FLAGS: u32 = 0b111;
const TSYNC: u32 = 1;
const NEW_LISTENER: u32 = 8;
/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`, for filters with a listener.
const WAIT_KILLABLE: u32 = 32;

/// Filters the system calls of the calling thread, for good. Without `no_new_privs` this needs
/// `CAP_SYS_ADMIN`.
///
/// # Errors
/// `InvalidInput` for a program that is empty, too long or not a whole number of instructions, and
/// for flags not known here; otherwise what `seccomp(2)` refuses with.
pub fn load(program: &[u8], flags: u32) -> io::Result<()> {
    if flags & !KNOWN_FLAGS != 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    set(&instructions(program)?, flags).map(drop)
}

/// As [`load`], for a filter that asks a listener: `send` gets that, in a thread of its own which is
/// not filtered, and returns whether it was handed on. Until it has, the calling thread makes no system call:
/// any could be one that waits for the very listener. Blocks for as long as `send` does.
///
/// # Errors
/// As [`load`]; and `BrokenPipe` when `send` says that it failed: the caller is filtered then.
pub fn load_listening(
    program: &[u8],
    flags: u32,
    send: impl FnOnce(BorrowedFd<'_>) -> bool + Send + 'static,
) -> io::Result<()> {
    const WAITING: i32 = -1;
    const NONE: i32 = -2;
    const SENT: i32 = -3;
    const LOST: i32 = -4;
    if flags & !(KNOWN_FLAGS | WAIT_KILLABLE) != 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let filter = instructions(program)?;
    let slot = Arc::new(AtomicI32::new(WAITING));
    let theirs = Arc::clone(&slot);
    let thread = std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
        let number = loop {
            match theirs.load(Ordering::Acquire) {
                WAITING => std::thread::yield_now(),
                number => break number,
            }
        };
        if number >= 0 {
            // SAFETY: the loader's own, which lets go of it by storing it here.
            let listener = unsafe { OwnedFd::from_raw_fd(number) };
            let sent = send(listener.as_fd());
            theirs.store(if sent { SENT } else { LOST }, Ordering::Release);
        }
    })?;
    // Nobody waits for it: that would take a system call.
    drop(thread);
    // It has to stay unfiltered, and nobody else is there for TSYNC to reach.
    let listener = match set(&filter, flags & !TSYNC | NEW_LISTENER) {
        Ok(listener) => listener,
        Err(error) => {
            slot.store(NONE, Ordering::Release);
            return Err(error);
        }
    };
    slot.store(listener, Ordering::Release);
    loop {
        match slot.load(Ordering::Acquire) {
            SENT => return Ok(()),
            LOST => return Err(io::ErrorKind::BrokenPipe.into()),
            _ => std::hint::spin_loop(),
        }
    }
}

fn instructions(program: &[u8]) -> io::Result<Vec<libc::sock_filter>> {
    if program.is_empty() || !program.len().is_multiple_of(INSTRUCTION) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let one = |i: &[u8]| libc::sock_filter {
        code: u16::from_ne_bytes([i[0], i[1]]),
        jt: i[2],
        jf: i[3],
        k: u32::from_ne_bytes([i[4], i[5], i[6], i[7]]),
    };
    Ok(program.chunks_exact(INSTRUCTION).map(one).collect())
}

/// What the call returns: 0, or the number of a listener.
fn set(filter: &[libc::sock_filter], flags: u32) -> io::Result<i32> {
    let len = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // SAFETY: `program` names `len` instructions that outlive the call; the kernel copies and
    // checks them and writes nothing.
    let set = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::from_ref(&program),
        )
    };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(set).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_whole_instructions_is_refused_before_the_kernel_sees_it() {
        for program in [&[][..], &[0; 7], &[0; 9]] {
            assert_eq!(load(program, 0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_flag_that_returns_a_listener_is_refused() {
        assert_eq!(load(&[0; 8], NEW_LISTENER).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
