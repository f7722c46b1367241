//! Having written pages on their way to the device before somebody waits for them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Starts to write out what is dirty in a part of a file, and does not wait for it; only a device
/// with a full queue makes the caller wait until it takes more. Promises nothing about durability:
/// that takes `fsync` or `syncfs`, which then have less to do.
///
/// # Errors
/// What `sync_file_range(2)` refuses with; a range beyond the kernel's numbers is `EINVAL`.
pub fn start(file: BorrowedFd<'_>, from: u64, length: u64) -> io::Result<()> {
    let number =
        |value| i64::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let (from, length) = (number(from)?, number(length)?);
    let flags = libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: takes numbers only, and the descriptor is open for as long as it is borrowed.
    let done = unsafe { libc::sync_file_range(file.as_raw_fd(), from, length, flags) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_file_is_written_out_and_a_pipe_is_refused() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 10_000]).unwrap();
        start(file.as_fd(), 4096, 4096).unwrap();
        let (_reader, writer) = std::io::pipe().unwrap();
        let refused = start(writer.as_fd(), 0, 1).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ESPIPE));
        let refused = start(file.as_fd(), u64::MAX, 1).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
}
