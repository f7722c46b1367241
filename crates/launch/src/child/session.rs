//! Session, standard streams, limits, signals.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, Gid, Uid};
use rustix::io::Errno;
use sys::{placement, priority};

use crate::error::{At, LaunchError, Step};
use crate::plan::{self, NumberRange, ProcessPlan, Rlimit};
use crate::report::Reporter;

/// Sets the OOM adjustment. Only `CAP_SYS_RESOURCE` may lower it: without it the inherited value
/// stays, with a warning.
pub(super) fn adjust_oom_score(
    process: &ProcessPlan,
    reporter: Reporter<'_>,
) -> Result<(), LaunchError> {
    const FILE: &str = "/proc/thread-self/oom_score_adj";
    let Some(wanted) = process.oom_score_adj else { return Ok(()) };
    let file = super::open_own("oom_score_adj").at(Step::OomScore, &wanted.to_string())?;
    match sys::fs::write_once(file.as_fd(), wanted.to_string().as_bytes()) {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            let kept = std::fs::read_to_string(FILE).unwrap_or_default();
            let why = format!("lowering it needs CAP_SYS_RESOURCE; it stays {}", kept.trim());
            reporter.warn(&format!("oom_score_adj {wanted}"), &why);
            Ok(())
        }
        result => result.at(Step::OomScore, &wanted.to_string()),
    }
}

/// Raises hard limits as far as the plan goes beyond the inherited ones; [`apply_limits`] sets what is
/// wanted, or says why it cannot. In a user namespace no limit can be raised any more.
pub(super) fn raise_limits(process: &ProcessPlan) -> Result<(), LaunchError> {
    for limit in &process.rlimits {
        let raise = || {
            let (soft, hard) = sys::process::limit(limit.resource)?;
            match sys::process::set_limit(limit.resource, soft, hard.max(limit.hard)) {
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(()),
                result => result,
            }
        };
        raise().at(Step::Rlimit, &limit.resource.to_string())?;
    }
    Ok(())
}

/// Processors before the process is in its cgroup. `None`: those it was born with.
pub(super) fn apply_initial_affinity(process: &ProcessPlan) -> Result<(), LaunchError> {
    let initial = process.affinity.as_ref().map(|affinity| affinity.initial.as_slice());
    match initial {
        None | Some([]) => Ok(()),
        Some(ranges) => run_on(ranges),
    }
}

/// Processors in its cgroup: what the launcher may not use itself is not lost to the container.
pub(super) fn apply_affinity(process: &ProcessPlan) -> Result<(), LaunchError> {
    match &process.affinity {
        Some(affinity) if !affinity.last.is_empty() => run_on(&affinity.last),
        // The kernel decides then, from what it has been so far.
        Some(affinity) if !affinity.initial.is_empty() => Ok(()),
        Some(_) | None => placement::run_anywhere().at(Step::Priority, "processor affinity"),
    }
}

fn run_on(ranges: &[NumberRange]) -> Result<(), LaunchError> {
    let run = || placement::run_on(&mask(ranges)?);
    run().at(Step::Priority, "processor affinity")
}

fn mask(ranges: &[NumberRange]) -> io::Result<placement::Mask> {
    placement::Mask::of(ranges.iter().map(|range| (range.first, range.last)))
}

/// Scheduling, disk priority, execution domain and where memory comes from.
pub(super) fn apply_priorities(process: &ProcessPlan) -> Result<(), LaunchError> {
    if let Some(policy) = &process.memory_policy {
        let set = || placement::take_memory(policy.mode, &mask(&policy.nodes)?);
        set().at(Step::Priority, "memory policy")?;
    }
    if let Some(plan) = process.scheduling {
        let plan::Scheduling { policy, flags, nice, priority, runtime, deadline, period } = plan;
        let how = priority::Scheduling { policy, flags, nice, priority, runtime, deadline, period };
        priority::schedule(how).at(Step::Priority, &format!("scheduling policy {policy}"))?;
    }
    if let Some(level) = process.io_priority {
        priority::set_io(level).at(Step::Priority, &format!("I/O priority {level:#x}"))?;
    }
    if let Some(domain) = process.personality {
        let shown = format!("{domain:#x}");
        sys::process::set_personality(domain).at(Step::Personality, &shown)?;
    }
    Ok(())
}

/// Sets resource limits. Only `CAP_SYS_RESOURCE` may raise a hard one: without it the limit is
/// what is allowed, with a warning.
pub(super) fn apply_limits(
    process: &ProcessPlan,
    reporter: Reporter<'_>,
) -> Result<(), LaunchError> {
    for limit in &process.rlimits {
        apply_limit(limit, reporter).at(Step::Rlimit, &limit.resource.to_string())?;
    }
    Ok(())
}

fn apply_limit(limit: &Rlimit, reporter: Reporter<'_>) -> io::Result<()> {
    let Rlimit { resource, soft, hard } = *limit;
    match sys::process::set_limit(resource, soft, hard) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            let (_, allowed) = sys::process::limit(resource)?;
            let hard_now = hard.min(allowed);
            let soft_now = soft.min(hard_now);
            sys::process::set_limit(resource, soft_now, hard_now)?;
            let what = format!("resource limit {resource} of {soft}:{hard}");
            let why =
                format!("raising it needs CAP_SYS_RESOURCE; it is {soft_now}:{hard_now} instead");
            reporter.warn(&what, &why);
            Ok(())
        }
        result => result,
    }
}

/// Leaves nothing of the launcher's to the program: signal dispositions and mask, and the keyring
/// unless that is wanted.
pub(super) fn clean_slate(keep_keyring: bool) -> Result<(), LaunchError> {
    sys::signal::reset_all().at(Step::Session, "signals")?;
    if keep_keyring {
        return Ok(());
    }
    sys::process::new_session_keyring().at(Step::Session, "keyring")
}

/// Whoever signals a process that waits means to end it. The first of a PID namespace would hear
/// nothing of that; exec gives its program the default dispositions back.
pub(super) fn end_on_signals() -> Result<(), LaunchError> {
    if rustix::process::getpid().is_init() {
        sys::signal::end_on_any().at(Step::Session, "signals")?;
    }
    Ok(())
}

/// Starts a session of its own, without a controlling terminal.
pub(super) fn begin() -> Result<(), LaunchError> {
    rustix::process::setsid().at(Step::Session, "setsid")?;
    Ok(())
}

/// Makes these the standard streams.
pub(super) fn use_files(files: [BorrowedFd<'_>; 3], uid: u32) -> Result<(), LaunchError> {
    // One of them may itself have a number below 3, so all are moved out of the way first.
    let copies = files.map(|file| rustix::io::fcntl_dupfd_cloexec(file, 3));
    let [stdin, stdout, stderr] = copies;
    let stdin = stdin.at(Step::Stdio, "stdin")?;
    let stdout = stdout.at(Step::Stdio, "stdout")?;
    let stderr = stderr.at(Step::Stdio, "stderr")?;
    rustix::stdio::dup2_stdin(&stdin).at(Step::Stdio, "stdin")?;
    rustix::stdio::dup2_stdout(&stdout).at(Step::Stdio, "stdout")?;
    rustix::stdio::dup2_stderr(&stderr).at(Step::Stdio, "stderr")?;
    give_pipes([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()], uid)
}

/// `/dev/stdout` opens the pipe anew, with the permissions of its inode: it has to belong to the
/// user the program runs as, `uid` in the user namespace of this process.
pub(super) fn give_pipes(files: [BorrowedFd<'_>; 3], uid: u32) -> Result<(), LaunchError> {
    for (file, name) in files.into_iter().zip(["stdin", "stdout", "stderr"]) {
        give_pipe(file, uid).at(Step::Stdio, name)?;
    }
    Ok(())
}

fn give_pipe(file: BorrowedFd<'_>, uid: u32) -> io::Result<()> {
    let stat = rustix::fs::fstat(file)?;
    if stat.st_uid == uid || !FileType::from_raw_mode(stat.st_mode).is_fifo() {
        return Ok(());
    }
    match rustix::fs::fchown(file, Some(Uid::from_raw(uid)), None::<Gid>) {
        // An ordinary user cannot give away what somebody else has made for it.
        Ok(()) | Err(Errno::PERM) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
