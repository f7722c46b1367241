//! Loading a compiled seccomp filter.

use std::io;

use crate::process::checked;

/// Size of one `struct sock_filter`.
const INSTRUCTION: usize = 8;
/// `SECCOMP_FILTER_FLAG_*` that do not make the call return a descriptor or act on other threads
/// in ways a launcher cannot handle: TSYNC, LOG, SPEC_ALLOW.
const KNOWN_FLAGS: u32 = 0b111;

/// Filters the system calls of the calling thread, for good. Without `no_new_privs` this needs
/// `CAP_SYS_ADMIN`.
///
/// # Errors
/// `InvalidInput` for a program that is empty, too long or not a whole number of instructions, and
/// for flags not known here; otherwise what `seccomp(2)` refuses with.
pub fn load(program: &[u8], flags: u32) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    if program.is_empty() || !program.len().is_multiple_of(INSTRUCTION) || flags & !KNOWN_FLAGS != 0
    {
        return Err(invalid());
    }
    let mut filter: Vec<libc::sock_filter> = program
        .chunks_exact(INSTRUCTION)
        .map(|i| libc::sock_filter {
            code: u16::from_ne_bytes([i[0], i[1]]),
            jt: i[2],
            jf: i[3],
            k: u32::from_ne_bytes([i[4], i[5], i[6], i[7]]),
        })
        .collect();
    let len = u16::try_from(filter.len()).map_err(|_| invalid())?;
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    // SAFETY: `program` names `len` instructions that outlive the call; the kernel copies and
    // checks them.
    checked(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::from_ref(&program),
        )
    })
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
        const NEW_LISTENER: u32 = 8;
        assert_eq!(load(&[0; 8], NEW_LISTENER).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
