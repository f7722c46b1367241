//! Where a thread runs and where its memory lies.

use std::io;

/// A set of numbers, as the kernel takes masks: the lowest is bit 0 of the first word.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mask(Vec<libc::c_ulong>);

impl Mask {
    /// The numbers of these ranges, both ends included.
    ///
    /// # Errors
    /// `InvalidInput` for a number no kernel has (8192 and above).
    pub fn of(ranges: impl IntoIterator<Item = (u32, u32)>) -> io::Result<Self> {
        const MOST: u32 = 8192;
        let mut words = Vec::new();
        for (first, last) in ranges {
            if last >= MOST {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            for number in first..=last {
                let at = usize::try_from(number / libc::c_ulong::BITS).unwrap_or_default();
                if words.len() <= at {
                    words.resize(at + 1, 0);
                }
                if let Some(word) = words.get_mut(at) {
                    *word |= 1 << (number % libc::c_ulong::BITS);
                }
            }
        }
        Ok(Self(words))
    }

    /// Every number.
    fn all() -> Self {
        Self(vec![libc::c_ulong::MAX; 128])
    }
}

/// The calling thread runs on these processors only, as far as its cgroup lets it.
///
/// # Errors
/// `InvalidInput` when none of them is there or allowed.
pub fn run_on(processors: &Mask) -> io::Result<()> {
    let Mask(words) = processors;
    let bytes = size_of_val(words.as_slice());
    // SAFETY: 0 is the calling thread; `bytes` bytes are read.
    let set = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, bytes, words.as_ptr()) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The calling thread runs wherever its cgroup lets it, also when whoever made it may not.
///
/// # Errors
/// What `sched_setaffinity(2)` refuses with.
pub fn run_anywhere() -> io::Result<()> {
    run_on(&Mask::all())
}

/// Memory of the calling thread, and of what it executes, comes from `nodes` as `mode` says:
/// `MPOL_*` with its flags (`set_mempolicy(2)`).
///
/// # Errors
/// What `set_mempolicy(2)` refuses with: `EINVAL` for nodes that are not there and for what does not
/// go together, `ENOSYS` from a kernel without NUMA.
pub fn take_memory(mode: i32, nodes: &Mask) -> io::Result<()> {
    let Mask(words) = nodes;
    // The kernel takes one bit less than it is told.
    let bits = if words.is_empty() { 0 } else { words.len() * libc::c_ulong::BITS as usize + 1 };
    let pointer = if words.is_empty() { std::ptr::null() } else { words.as_ptr() };
    // SAFETY: as many bits as said are read, and rounded up to words they are all there.
    let set = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_become_bits() {
        let mask = Mask::of([(0, 1), (64, 64), (3, 3)]).unwrap();
        assert_eq!(mask, Mask(vec![0b1011, 1]));
        assert_eq!(Mask::of([]).unwrap(), Mask::default());
        assert!(Mask::of([(0, 8192)]).is_err());
    }

    #[test]
    fn a_thread_is_kept_to_a_processor_and_let_go() {
        let count = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("Cpus_allowed:")).unwrap();
            let bits = line.chars().skip(13).filter_map(|c| c.to_digit(16));
            bits.map(u32::count_ones).sum::<u32>()
        };
        std::thread::spawn(move || {
            let before = count();
            run_on(&Mask::of([(0, 0)]).unwrap()).unwrap();
            assert_eq!(count(), 1);
            run_anywhere().unwrap();
            assert!(count() >= before);
            assert!(run_on(&Mask::of([(8000, 8000)]).unwrap()).is_err(), "nobody has so many");
        })
        .join()
        .unwrap();
    }
}
