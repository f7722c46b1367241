//! Giving way: threads whose work can wait.

use std::io;

/// The calling thread, and those it starts from now on, get processor and disk after whatever
/// else wants them. There is no way back without privileges, so it is for threads that end with
/// their work.
///
/// # Errors
/// The first refusal; what was set before it stays.
pub fn give_way() -> io::Result<()> {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread, and `none` outlives the call.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const none) })?;
    // SAFETY: takes numbers only; 0 is the calling thread.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) })?;
    // SAFETY: takes numbers only; 0 is the calling thread.
    let set = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, BEST_EFFORT_LAST) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const NICE: libc::c_int = 10;
const WHO_PROCESS: libc::c_int = 1;
/// Class 2, level 7: `ioprio_set(2)`. Idle (class 3) could wait for ever on a busy disk.
const BEST_EFFORT_LAST: libc::c_int = (2 << 13) | 7;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_thread_that_asks_gives_way_and_those_it_starts() {
        let policy = || {
            // SAFETY: 0 is the calling thread.
            unsafe { libc::sched_getscheduler(0) }
        };
        let before = policy();
        let (own, child) = std::thread::spawn(move || {
            give_way().unwrap();
            (policy(), std::thread::spawn(policy).join().unwrap())
        })
        .join()
        .unwrap();
        assert_eq!((own, child), (libc::SCHED_BATCH, libc::SCHED_BATCH));
        assert_eq!(policy(), before);
    }
}
