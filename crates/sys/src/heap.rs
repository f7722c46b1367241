//! What the allocator and the program's own file hold of the machine's memory, and giving it back.
//!
//! glibc's allocator makes an arena for every thread that collides with another, up to eight per
//! processor, and keeps what was freed in the middle of each for good.

use std::io;

/// At most so many arenas from now on. Call it before the process has threads.
///
/// # Errors
/// The allocator refuses.
pub fn limit_arenas(most: i32) -> io::Result<()> {
    set(libc::M_ARENA_MAX, most)
}

/// Freed memory at the end of an arena beyond so many bytes goes back at once. Setting it also
/// keeps the allocator from raising its limits by what it sees.
///
/// # Errors
/// The allocator refuses.
pub fn limit_slack(bytes: i32) -> io::Result<()> {
    set(libc::M_TRIM_THRESHOLD, bytes)
}

/// Pieces below so many bytes come from an arena, where the next of their kind finds the pages mapped;
/// larger ones are mapped alone and given back at once.
///
/// # Errors
/// The allocator refuses.
pub fn map_alone_from(bytes: i32) -> io::Result<()> {
    set(libc::M_MMAP_THRESHOLD, bytes)
}

fn set(parameter: i32, value: i32) -> io::Result<()> {
    // SAFETY: takes two numbers, and the allocator's own lock.
    let done = unsafe { libc::mallopt(parameter, value) };
    // It sets no errno.
    if done == 1 { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// Bytes that were freed and are kept by the allocator.
pub fn kept() -> usize {
    // SAFETY: returns numbers by value; arenas are locked one by one meanwhile.
    let info = unsafe { libc::mallinfo2() };
    info.fordblks
}

/// Gives back every whole page of freed memory. Takes the arenas' locks one by one, for about a
/// millisecond per 10 MiB given back.
pub fn give_back() {
    // SAFETY: nothing that is in use is touched; the result says only whether there was something.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_freed_is_given_back() {
        limit_slack(128 << 10).unwrap();
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
            line.split_whitespace().next().unwrap().parse::<usize>().unwrap()
        };
        // Pieces too small to be mapped alone, of which every hundredth stays.
        let mut pieces: Vec<Vec<u8>> = (0..8000).map(|_| vec![1; 4000]).collect();
        let full = resident();
        let mut number = 0;
        pieces.retain(|_| {
            number += 1;
            number % 100 == 0
        });
        assert!(kept() > 20 << 20, "{}", kept());
        give_back();
        let after = resident();
        assert!(after + (20 << 10) < full, "{full} KiB before, {after} KiB after");
        assert_eq!(pieces.len(), 80);
    }
}
