//! Running the programs of the host that a plan names. The launcher waits for each: what they set up
//! has to be there before the next step.

use std::ffi::CString;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use sys::pidfd::Ended;
use sys::process::{Child, NewNamespaces};

use crate::error::{LaunchError, Step};
use crate::outliving::{DIES_WITHIN, has_ended};
use crate::plan::{HookPlan, HooksPlan};

/// What the hooks of one launch may take together: who asked for it gives the launcher up after a
/// minute, and would not know of a container that started after all.
const PATIENCE: Duration = Duration::from_secs(45);
/// Likewise at a container's end, when nothing depends on them.
const PATIENCE_AFTERWARDS: Duration = Duration::from_secs(15);

/// Until when programs may run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// For all hooks of a launch that begins now.
    pub(crate) fn of_launch() -> Self {
        Self(Instant::now() + PATIENCE)
    }

    /// For those of a container that has ended.
    pub(crate) fn afterwards() -> Self {
        Self(Instant::now() + PATIENCE_AFTERWARDS)
    }

    /// How long a program that is started now may run.
    fn left(self, wanted: Option<u32>) -> Duration {
        let left = self.0.saturating_duration_since(Instant::now());
        wanted.map_or(left, |seconds| left.min(Duration::from_secs(seconds.into())))
    }
}

/// How much of a failed program's output is reported.
const SHOWN: usize = 1024;

/// The status of a program that could not be executed, as shells have it.
const CANNOT_EXEC: i32 = 127;

/// What the state says of the container.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Status {
    Creating,
    Created,
    Running,
    Stopped,
}

impl Status {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

/// The container's state as JSON.
fn state(hooks: &HooksPlan, status: Status, pid: i32) -> String {
    let status = status.as_str();
    // A stopped container has no process.
    let pid = if pid > 0 { format!(",\"pid\":{pid}") } else { String::new() };
    format!("{},\"status\":\"{status}\"{pid}}}", hooks.state)
}

/// Runs programs of a kind one after another, in the caller's namespaces; the first failure ends it.
pub(crate) fn run(
    hooks: &HooksPlan,
    (kind, list): (&str, &[HookPlan]),
    status: Status,
    pid: i32,
    until: Deadline,
) -> Result<(), LaunchError> {
    let state = state(hooks, status, pid);
    numbered(list).try_for_each(|(number, hook)| one((kind, number), hook, &state, &[], until))
}

/// As [`run`], in a container that is about to execute its program: who is given no environment has
/// that of the program.
pub(crate) fn run_within(
    hooks: &HooksPlan,
    list: &[HookPlan],
    pid: i32,
    env: &[CString],
    until: Deadline,
) -> Result<(), LaunchError> {
    let state = state(hooks, Status::Created, pid);
    let kind = "startContainer";
    numbered(list).try_for_each(|(number, hook)| one((kind, number), hook, &state, env, until))
}

/// As [`run`], but each is run and the failures are returned.
pub(crate) fn run_all(
    hooks: &HooksPlan,
    (kind, list): (&str, &[HookPlan]),
    status: Status,
    pid: i32,
    until: Deadline,
) -> Vec<LaunchError> {
    let state = state(hooks, status, pid);
    let run = |(number, hook)| one((kind, number), hook, &state, &[], until).err();
    numbered(list).filter_map(run).collect()
}

/// From 0 on, as runc numbers them.
fn numbered(list: &[HookPlan]) -> impl Iterator<Item = (usize, &HookPlan)> {
    list.iter().enumerate()
}

fn one(
    (kind, number): (&str, usize),
    hook: &HookPlan,
    state: &str,
    default_env: &[CString],
    until: Deadline,
) -> Result<(), LaunchError> {
    let failed = |what: &str| LaunchError {
        step: Step::Hook,
        subject: format!("{kind} hook #{number}: {}: {what}", hook.path),
        cause: None,
    };
    let subject = format!("{kind} hook #{number}: {}", hook.path);
    let cannot = |error: io::Error| LaunchError::new(Step::Hook, &subject, error);
    let mut words = Words::of(hook).map_err(cannot)?;
    if words.env.is_empty() {
        words.env = default_env.to_vec();
    }
    let stdin = memory("hook-state").map_err(cannot)?;
    // A file, not a pipe: nobody has to read while it runs.
    let mut output = memory("hook-output").map_err(cannot)?;
    (&stdin).write_all(state.as_bytes()).map_err(cannot)?;
    (&stdin).rewind().map_err(cannot)?;
    let child = spawn(&words, stdin.as_fd(), output.as_fd()).map_err(cannot)?;
    let limit = until.left(hook.timeout_s);
    match wait(&child, limit).map_err(cannot)? {
        Some(Ended::Exited(0)) => Ok(()),
        Some(ended) => {
            let said = tail(&mut output).map_err(cannot)?;
            let how = match ended {
                Ended::Exited(status) => format!("exit status {status}"),
                // A filter's kill. The number alone tells nobody.
                Ended::Signaled(libc::SIGSYS) => {
                    format!("signal {}: bad system call", libc::SIGSYS)
                }
                Ended::Signaled(signal) => format!("signal {signal}"),
            };
            Err(failed(&if said.is_empty() { how } else { format!("{how}: {said}") }))
        }
        None => Err(failed(&format!("it was killed after {} s", limit.as_secs()))),
    }
}

struct Words {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Words {
    fn of(hook: &HookPlan) -> io::Result<Self> {
        let word = |text: &String| {
            CString::new(text.as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
        };
        let words = |list: &[String]| list.iter().map(word).collect::<io::Result<Vec<_>>>();
        let path = word(&hook.path)?;
        let mut args = words(&hook.args)?;
        if args.is_empty() {
            args.push(path.clone());
        }
        Ok(Self { path, args, env: words(&hook.env)? })
    }
}

fn memory(name: &str) -> io::Result<std::fs::File> {
    Ok(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?.into())
}

/// Only a process with one thread may be cloned to go on with code of its own.
pub(crate) fn ensure_one_thread() -> io::Result<()> {
    match sys::process::thread_count() {
        Ok(1) => Ok(()),
        // In a container that has no /proc: a child of ours, which never has a second thread.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => {
            let why = "the launcher has other threads";
            Err(io::Error::new(io::ErrorKind::Unsupported, why))
        }
        Err(error) => Err(error),
    }
}

fn spawn(words: &Words, stdin: BorrowedFd<'_>, output: BorrowedFd<'_>) -> io::Result<Child> {
    ensure_one_thread()?;
    let body = || {
        let error = execute(words, stdin, output);
        // It goes to where the program's own words would go.
        rustix::io::write(rustix::stdio::stderr(), error.to_string().as_bytes()).ok();
        CANNOT_EXEC
    };
    // SAFETY: this is the only thread, as was just seen, and only it could make another.
    unsafe { sys::process::clone_child(NewNamespaces::default(), None, body) }
}

/// Returns only on failure.
fn execute(words: &Words, stdin: BorrowedFd<'_>, output: BorrowedFd<'_>) -> io::Error {
    let ready = || {
        rustix::stdio::dup2_stdin(stdin)?;
        rustix::stdio::dup2_stdout(output)?;
        rustix::stdio::dup2_stderr(output)?;
        // A group of its own, so that all it starts can be killed with it.
        rustix::process::setsid()?;
        sys::signal::reset_all()?;
        sys::process::close_on_exec_from(3)
    };
    match ready() {
        Ok(()) => sys::process::execve(&words.path, &words.args, &words.env),
        Err(error) => error,
    }
}

/// `None` when the time was up and it had to be killed. One that even then does not end, because a file system
/// does not answer it, is left to whoever reaps the launcher's children.
fn wait(child: &Child, limit: Duration) -> io::Result<Option<Ended>> {
    let limit = Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    };
    let mut ended = [PollFd::new(&child.pidfd, PollFlags::IN)];
    let count = rustix::io::retry_on_intr(|| rustix::event::poll(&mut ended, Some(&limit)))?;
    if count == 0 {
        // The group is there unless the child has not come that far.
        rustix::process::kill_process_group(child.pid, rustix::process::Signal::KILL).ok();
        sys::pidfd::kill(child.pidfd.as_fd())?;
        if !has_ended(child, DIES_WITHIN) {
            return Ok(None);
        }
    }
    let how = sys::pidfd::wait(child.pidfd.as_fd())?;
    Ok((count != 0).then_some(how))
}

/// The end of what was written.
fn tail(output: &mut std::fs::File) -> io::Result<String> {
    let mut bytes = Vec::new();
    output.rewind()?;
    output.read_to_end(&mut bytes)?;
    let from = bytes.len().saturating_sub(SHOWN);
    let text = String::from_utf8_lossy(bytes.get(from..).unwrap_or_default());
    Ok(text.trim().replace('\n', "; "))
}
