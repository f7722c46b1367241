//! Who comes first: threads whose work can wait, processes that are scheduled in a way of their own.

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

/// How a thread is scheduled: `struct sched_attr` without its size.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scheduling {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For the ordinary policies.
    pub nice: i32,
    /// For the real-time policies.
    pub priority: u32,
    /// Nanoseconds, as the next two: for deadlines.
    pub runtime: u64,
    /// Until when `runtime` is to be had.
    pub deadline: u64,
    /// How often.
    pub period: u64,
}

/// The kernel's first form of it.
#[repr(C)]
#[derive(Debug)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Schedules the calling thread, and those it makes, in this way.
///
/// # Errors
/// What `sched_setattr(2)` refuses with: `EPERM` without `CAP_SYS_NICE`, `EINVAL` for what does not
/// go together.
pub fn schedule(how: Scheduling) -> io::Result<()> {
    let Scheduling { policy, flags, nice, priority, runtime, deadline, period } = how;
    let attr = SchedAttr { size: 48, policy, flags, nice, priority, runtime, deadline, period };
    // SAFETY: 0 is the calling thread, and `attr` has the size it says and outlives the call.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives the disk accesses of the calling thread, and of those it makes, a class and a level
/// (`ioprio_set(2)`: the class from bit 13 on, the level below).
///
/// # Errors
/// What `ioprio_set(2)` refuses with: `EPERM` for the real-time class without `CAP_SYS_NICE`.
pub fn set_io(priority: u16) -> io::Result<()> {
    let priority = libc::c_int::from(priority);
    // SAFETY: takes numbers only; 0 is the calling thread.
    let set = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, priority) };
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
    fn a_thread_is_scheduled_as_asked_and_nonsense_is_refused() {
        std::thread::spawn(|| {
            let policy = u32::try_from(libc::SCHED_BATCH).unwrap();
            schedule(Scheduling { policy, nice: 3, ..Scheduling::default() }).unwrap();
            // SAFETY: 0 is the calling thread.
            assert_eq!(unsafe { libc::sched_getscheduler(0) }, libc::SCHED_BATCH);
            assert!(schedule(Scheduling { policy: 99, ..Scheduling::default() }).is_err());
            set_io((2 << 13) | 5).unwrap();
            assert!(set_io(7 << 13).is_err());
        })
        .join()
        .unwrap();
    }

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
