//! Running the programs of the host that a plan names. What they set up has to be there before the next
//! step, so a launch waits for each. The launcher need not: a [`Round`] goes on whenever one has ended.

use std::collections::VecDeque;
use std::ffi::CString;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;
use rustix::process::Pid;
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
    let run = |(number, hook)| Hook::start((kind, number), hook, &state, &[], until)?.finish();
    numbered(list).try_for_each(run)
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
    let run = |(number, hook)| Hook::start((kind, number), hook, &state, env, until)?.finish();
    numbered(list).try_for_each(run)
}

/// From 0 on, as runc numbers them.
fn numbered(list: &[HookPlan]) -> impl Iterator<Item = (usize, &HookPlan)> {
    list.iter().enumerate()
}

/// Programs that are to be run one after another, and the one that runs. Dropping it kills that one.
#[derive(Debug)]
pub(crate) struct Round {
    state: String,
    queue: VecDeque<(&'static str, usize, HookPlan)>,
    now: Option<Hook>,
    until: Deadline,
}

/// How far a round has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// One of them runs.
    Waits,
    /// All have ended.
    Done,
}

impl Round {
    /// What is run in the launcher's namespaces before a container's program; none is started yet.
    pub(crate) fn before(hooks: &HooksPlan, pid: Pid, until: Deadline) -> Self {
        let older = usize::try_from(hooks.prestart).unwrap_or(usize::MAX);
        let (older, newer) = hooks.create_runtime.split_at(older.min(hooks.create_runtime.len()));
        let kinds = [("prestart", older), ("createRuntime", newer)];
        Self::of(hooks, &kinds, Status::Creating, Some(pid), until)
    }

    /// What is run once its program runs.
    pub(crate) fn after(hooks: &HooksPlan, pid: Pid, until: Deadline) -> Self {
        let kinds = [("poststart", hooks.poststart.as_slice())];
        Self::of(hooks, &kinds, Status::Running, Some(pid), until)
    }

    /// What is run once it is gone.
    pub(crate) fn at_the_end(hooks: &HooksPlan) -> Self {
        let kinds = [("poststop", hooks.poststop.as_slice())];
        Self::of(hooks, &kinds, Status::Stopped, None, Deadline::afterwards())
    }

    fn of(
        hooks: &HooksPlan,
        kinds: &[(&'static str, &[HookPlan])],
        status: Status,
        pid: Option<Pid>,
        until: Deadline,
    ) -> Self {
        let of_kind = |(kind, list): &(&'static str, &[HookPlan])| {
            let kind = *kind;
            let named = move |(number, hook): (usize, &HookPlan)| (kind, number, hook.clone());
            numbered(list).map(named).collect::<Vec<_>>()
        };
        let queue = kinds.iter().flat_map(of_kind).collect();
        let pid = pid.map_or(0, |pid| pid.as_raw_nonzero().get());
        Self { state: state(hooks, status, pid), queue, now: None, until }
    }

    /// Goes on without waiting for one to end: to be called in the namespaces where they are to run, again when
    /// [`Self::awaited`] can be read, and at [`Self::due`].
    ///
    /// # Errors
    /// One has failed, or has had its time. Called again, it goes on with the next.
    pub(crate) fn advance(&mut self) -> Result<Turn, LaunchError> {
        loop {
            if let Some(hook) = self.now.take() {
                if has_ended(&hook.child, Duration::ZERO) {
                    hook.outcome()?;
                } else if hook.due > Instant::now() {
                    self.now = Some(hook);
                    return Ok(Turn::Waits);
                } else {
                    return Err(hook.give_up());
                }
            }
            let Some((kind, number, hook)) = self.queue.pop_front() else { return Ok(Turn::Done) };
            self.now = Some(Hook::start((kind, number), &hook, &self.state, &[], self.until)?);
        }
    }

    /// Waits until [`Self::advance`] is to be called.
    pub(crate) fn wait(&self) {
        if let Some(hook) = &self.now {
            has_ended(&hook.child, hook.due.saturating_duration_since(Instant::now()));
        }
    }

    /// Whether nothing runs and nothing is to run.
    pub(crate) fn is_over(&self) -> bool {
        self.now.is_none() && self.queue.is_empty()
    }

    /// Becomes readable when there is something for [`Self::advance`].
    pub(crate) fn awaited(&self) -> Option<BorrowedFd<'_>> {
        self.now.as_ref().map(|hook| hook.child.pidfd.as_fd())
    }

    /// The process of the one that runs.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.now.as_ref().map(|hook| hook.child.pid)
    }

    /// When the one that runs has had its time.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.now.as_ref().map(|hook| hook.due)
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        if let Some(hook) = self.now.take() {
            // Whoever drops it knows why.
            drop(hook.give_up());
        }
    }
}

/// A program that runs.
#[derive(Debug)]
struct Hook {
    subject: String,
    child: Child,
    /// A file, not a pipe: nobody has to read while it runs.
    output: std::fs::File,
    limit: Duration,
    due: Instant,
}

impl Hook {
    fn start(
        (kind, number): (&str, usize),
        hook: &HookPlan,
        state: &str,
        default_env: &[CString],
        until: Deadline,
    ) -> Result<Self, LaunchError> {
        let subject = format!("{kind} hook #{number}: {}", hook.path);
        let start = || {
            let mut words = Words::of(hook)?;
            if words.env.is_empty() {
                words.env = default_env.to_vec();
            }
            let (stdin, output) = (memory("hook-state")?, memory("hook-output")?);
            (&stdin).write_all(state.as_bytes())?;
            (&stdin).rewind()?;
            Ok((spawn(&words, stdin.as_fd(), output.as_fd())?, output))
        };
        let (child, output) =
            start().map_err(|error| LaunchError::new(Step::Hook, &subject, error))?;
        let limit = until.left(hook.timeout_s);
        Ok(Self { subject, child, output, limit, due: Instant::now() + limit })
    }

    /// Waits until it has ended, or has had its time.
    fn finish(self) -> Result<(), LaunchError> {
        if has_ended(&self.child, self.limit) { self.outcome() } else { Err(self.give_up()) }
    }

    /// How it has ended.
    fn outcome(mut self) -> Result<(), LaunchError> {
        let cannot = |error: io::Error| LaunchError::new(Step::Hook, &self.subject, error);
        let how = match sys::pidfd::wait(self.child.pidfd.as_fd()).map_err(cannot)? {
            Ended::Exited(0) => return Ok(()),
            Ended::Exited(status) => format!("exit status {status}"),
            // A filter's kill. The number alone tells nobody.
            Ended::Signaled(libc::SIGSYS) => format!("signal {}: bad system call", libc::SIGSYS),
            Ended::Signaled(signal) => format!("signal {signal}"),
        };
        let said = tail(&mut self.output).map_err(cannot)?;
        Err(self.failed(&if said.is_empty() { how } else { format!("{how}: {said}") }))
    }

    /// Kills it. One that even then does not end, because a file system does not answer it, is left to
    /// whoever reaps the launcher's children.
    fn give_up(self) -> LaunchError {
        // The group is there unless the child has not come that far. It is not reaped: its number is its own.
        rustix::process::kill_process_group(self.child.pid, rustix::process::Signal::KILL).ok();
        sys::pidfd::kill(self.child.pidfd.as_fd()).ok();
        if has_ended(&self.child, DIES_WITHIN) {
            sys::pidfd::wait(self.child.pidfd.as_fd()).ok();
        }
        self.failed(&format!("it was killed after {} s", self.limit.as_secs()))
    }

    fn failed(&self, what: &str) -> LaunchError {
        LaunchError { step: Step::Hook, subject: format!("{}: {what}", self.subject), cause: None }
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

/// The end of what was written.
fn tail(output: &mut std::fs::File) -> io::Result<String> {
    let mut bytes = Vec::new();
    output.rewind()?;
    output.read_to_end(&mut bytes)?;
    let from = bytes.len().saturating_sub(SHOWN);
    let text = String::from_utf8_lossy(bytes.get(from..).unwrap_or_default());
    Ok(text.trim().replace('\n', "; "))
}
