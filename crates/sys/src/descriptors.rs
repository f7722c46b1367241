//! How many more files this process may open. The last of them are kept for what must always be
//! possible: ending and removing what there is, and being asked to.

use rustix::event::EventfdFlags;
use rustix::fd::AsRawFd;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// So many are kept, or an eighth of all where that is less.
const KEPT: u64 = 128;

/// There are too few left for something new.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Scarce {
    /// This process has nearly as many as it may have.
    #[error(
        "Too many open files: this process may have {limit}, and the last {kept} are kept for \
         ending what there is; raise LimitNOFILE of knarr's unit, or run fewer pods"
    )]
    Process {
        /// `RLIMIT_NOFILE`.
        limit: u64,
        /// Of these.
        kept: u64,
    },
    /// There cannot be even one.
    #[error("cannot have another file descriptor")]
    None(#[from] Errno),
}

/// Whether something new may take descriptors. Two system calls.
///
/// # Errors
/// [`Scarce`].
pub fn room() -> Result<(), Scarce> {
    let limit = getrlimit(Resource::Nofile).current;
    // The kernel gives out the lowest number that is free: those below it are all taken.
    let next = match rustix::event::eventfd(0, EventfdFlags::CLOEXEC) {
        Ok(file) => u64::try_from(file.as_raw_fd()).unwrap_or_default(),
        Err(Errno::MFILE) => u64::MAX,
        Err(error) => return Err(error.into()),
    };
    limit.map_or(Ok(()), |limit| before_the_last(next, limit))
}

fn before_the_last(next: u64, limit: u64) -> Result<(), Scarce> {
    let kept = KEPT.min(limit / 8);
    if next < limit - kept { Ok(()) } else { Err(Scarce::Process { limit, kept }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_descriptors_are_not_for_what_is_new() {
        for (next, limit, enough) in [
            (3, 1024, true),
            (895, 1024, true),
            (896, 1024, false),
            (u64::MAX, 1024, false),
            (1_048_447, 1_048_576, true),
            (1_048_448, 1_048_576, false),
            (14, 16, false),
            (0, 0, false),
        ] {
            assert_eq!(before_the_last(next, limit).is_ok(), enough, "{next} of {limit}");
        }
        assert_eq!(room(), Ok(()));
        let text = before_the_last(9, 9).unwrap_err().to_string();
        assert!(text.starts_with("Too many open files") && text.contains("LimitNOFILE"), "{text}");
    }
}
