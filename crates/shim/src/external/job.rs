//! Commands that run while the loop goes on, and what comes of them.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitStatus};
use shim_protocol::{Failure, FailureKind};
use sys::pidfd::Ended;
use sys::process::Child;

use super::birth::Birth;
use super::exec::Entry;
use super::strangers::Strangers;
use super::unwanted::Unnamed;
use super::{External, Outputs};
use crate::peers::PeerNumber;
use crate::supervisor::Supervisor;

/// What one command may take: who asked gives up after a minute, and would not know of what came of
/// it after all.
const LIMIT: Duration = Duration::from_secs(25);

const NO_TIME: &str = "those before it took too long, and the pod's other affairs wait";

/// How long a command that was killed is waited for.
const DIES_WITHIN: Duration = Duration::from_secs(5);

/// A command that runs, and who waits for it.
#[derive(Debug)]
pub(crate) struct Job {
    pub(super) child: Child,
    pub(super) outputs: Outputs,
    pub(super) asked: (PeerNumber, u64),
    since: Instant,
    pub(super) until: Instant,
    /// It was killed because its time was up.
    pub(super) late: bool,
    pub(super) step: Step,
}

/// What a command is for.
#[derive(Debug)]
pub(super) enum Step {
    Create(Box<Birth>),
    Start(Box<Birth>),
    Exec(Box<Entry>),
    /// Somebody waits for it and does nothing else.
    Alone(Box<External>, &'static str),
}

impl Step {
    fn verb(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Start(_) => "start",
            Self::Exec(_) => "exec",
            Self::Alone(_, verb) => verb,
        }
    }

    fn external(&self) -> &External {
        match self {
            Self::Create(birth) | Self::Start(birth) => &birth.external,
            Self::Exec(entry) => &entry.external,
            Self::Alone(external, _) => external,
        }
    }
}

/// The commands under way.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    jobs: Vec<Job>,
    strangers: Strangers,
    /// Processes that may be theirs.
    pub(super) unnamed: Vec<Unnamed>,
    /// What came of commands that somebody waits for.
    outcomes: Vec<(Pid, Result<String, Failure>)>,
}

impl Job {
    pub(super) fn new(
        child: Child,
        outputs: Outputs,
        asked: (PeerNumber, u64),
        step: Step,
    ) -> Self {
        let since = Instant::now();
        Self { child, outputs, asked, since, until: since + LIMIT, late: false, step }
    }

    pub(super) fn kill(&self) {
        // Those it has started in its group go with it. It is not reaped: its number is its own.
        rustix::process::kill_process_group(self.child.pid, rustix::process::Signal::KILL).ok();
        sys::pidfd::kill(self.child.pidfd.as_fd()).ok();
    }
}

impl Jobs {
    pub(super) fn push(&mut self, job: Job) {
        self.jobs.push(job);
    }

    fn take(&mut self, pid: Pid) -> Option<Job> {
        let index = self.jobs.iter().position(|job| job.child.pid == pid)?;
        Some(self.jobs.swap_remove(index))
    }

    /// Whether a container of this id is on its way.
    pub(crate) fn has_birth(&self, id: &str) -> bool {
        self.births().any(|birth| birth.external.id.as_str() == id)
    }

    /// Whether a container is on its way.
    pub(crate) fn has_births(&self) -> bool {
        self.births().next().is_some()
    }

    pub(super) fn births(&self) -> impl Iterator<Item = &Birth> {
        self.jobs.iter().filter_map(|job| match &job.step {
            Step::Create(birth) | Step::Start(birth) => Some(birth.as_ref()),
            Step::Exec(_) | Step::Alone(..) => None,
        })
    }

    /// The command that enters a container for this exec.
    pub(super) fn entry(&mut self, exec: u64) -> Option<&mut Job> {
        self.jobs.iter_mut().find(|job| match &job.step {
            Step::Exec(entry) => entry.number == exec,
            Step::Create(_) | Step::Start(_) | Step::Alone(..) => false,
        })
    }

    /// The execs that are on their way, by the daemon's numbers.
    pub(crate) fn entries(&self) -> impl Iterator<Item = u64> {
        self.execs().map(|(_, entry)| entry.number)
    }

    /// The commands that enter this container.
    pub(super) fn entering(&self, external: &External) -> Vec<Pid> {
        let into = self.execs().filter(|(_, entry)| entry.external.id == external.id);
        into.map(|(job, _)| job.child.pid).collect()
    }

    fn execs(&self) -> impl Iterator<Item = (&Job, &Entry)> {
        self.jobs.iter().filter_map(|job| match &job.step {
            Step::Exec(entry) => Some((job, entry.as_ref())),
            Step::Create(_) | Step::Start(_) | Step::Alone(..) => None,
        })
    }

    /// Whether this process is a command, or the first one of a container that a command makes.
    pub(super) fn has_pid(&self, pid: Pid) -> bool {
        self.jobs.iter().any(|job| job.child.pid == pid)
            || self.births().any(|birth| birth.first_pid() == Some(pid))
    }

    /// When the next one has taken too long.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.jobs.iter().filter(|job| !job.late).map(|job| job.until).min()
    }

    /// Kills those that have taken too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        for job in self.jobs.iter_mut().filter(|job| !job.late && job.until <= now) {
            job.late = true;
            job.cut_off();
        }
    }

    /// Kills all of them: the pod ends.
    pub(crate) fn kill_all(&self) {
        self.jobs.iter().for_each(Job::kill);
    }

    /// What is under way, in words.
    pub(crate) fn alive(&self) -> impl Iterator<Item = String> {
        self.jobs.iter().map(|job| {
            format!("{} {} does not end", job.step.external().program.path, job.step.verb())
        })
    }

    /// How this process ended, if it has while nobody knew it.
    pub(super) fn take_stranger(&mut self, pid: Pid) -> Option<WaitStatus> {
        self.strangers.take(pid)
    }

    /// Keeps the end of a child that is nobody's, as long as it may turn out to be somebody's.
    pub(crate) fn keep_stranger(&mut self, pid: Pid, status: WaitStatus) {
        self.unnamed.iter_mut().for_each(|unnamed| unnamed.forget(pid));
        if !self.jobs.is_empty() {
            self.strangers.keep(pid, status, Instant::now());
        }
    }
}

impl Supervisor {
    /// A child was reaped. Whether it was one of these.
    pub(crate) fn job_ended(&mut self, pid: Pid, status: WaitStatus) -> bool {
        let Some(Job { child: _, mut outputs, asked, late, step, .. }) = self.jobs.take(pid) else {
            return false;
        };
        let ended = match status.terminating_signal() {
            _ if late => None,
            Some(signal) => Some(Ended::Signaled(signal)),
            None => Some(Ended::Exited(status.exit_status().unwrap_or_default())),
        };
        if let (Step::Create(birth), false) = (&step, matches!(ended, Some(Ended::Exited(0)))) {
            outputs.add(&birth.printed());
        }
        let runtime = &self.parts.runtime;
        let outcome = step.external().outcome(step.verb(), ended, &mut outputs, runtime);
        outputs.discard(runtime);
        match step {
            Step::Create(birth) => self.created(birth, asked, outcome),
            Step::Start(birth) => self.started(birth, asked, outcome),
            Step::Exec(entry) => self.entered(*entry, asked, outcome),
            Step::Alone(..) => {
                let printed = outcome.map(|()| outputs.text());
                self.jobs.outcomes.push((pid, printed));
            }
        }
        self.settle_jobs();
        true
    }

    /// Runs a short command and waits for it: what it printed. Children that end meanwhile are reaped: the
    /// command may wait for that. One that does not even end when it is killed (it may hang in a file system
    /// that has stopped answering) is left behind: the pod's other affairs must not wait for it. It is killed
    /// at `until`, and not even begun later.
    ///
    /// # Errors
    /// In the runtime's own words.
    pub(super) fn run_external(
        &mut self,
        external: &External,
        verb: &'static str,
        words: &[&str],
        until: Instant,
    ) -> Result<String, Failure> {
        let cannot = |error| external.cannot_run(verb, &error);
        if Instant::now() >= until {
            return Err(cannot(std::io::Error::new(std::io::ErrorKind::TimedOut, NO_TIME)));
        }
        let (runtime, null) = (&self.parts.runtime, &self.parts.null);
        let log = external.file(&format!("{verb}.log"));
        let outputs = Outputs::new(runtime, null, log).map_err(cannot)?;
        let tool = external.tool(&outputs.log, verb, words);
        let child = runtime.spawn_tool(tool, outputs.io(), None).map_err(cannot)?;
        let pid = child.pid;
        let step = Step::Alone(Box::new(external.clone()), verb);
        let mut job = Job::new(child, outputs, (0, 0), step);
        job.until = until;
        let given_up = job.until + DIES_WITHIN;
        self.jobs.push(job);
        loop {
            self.reap();
            self.jobs.expire(Instant::now());
            let outcomes = &mut self.jobs.outcomes;
            if let Some(index) = outcomes.iter().position(|(ended, _)| *ended == pid) {
                return outcomes.swap_remove(index).1;
            }
            let now = Instant::now();
            if now >= given_up {
                return Err(self.give_up(pid, external, verb));
            }
            let until = self.jobs.next_deadline().map_or(given_up, |next| next.min(given_up));
            self.parts.children.wait(until.saturating_duration_since(now)).map_err(cannot)?;
        }
    }

    /// It is reaped like an orphan, whenever it ends.
    fn give_up(&mut self, pid: Pid, external: &External, verb: &str) -> Failure {
        drop(self.jobs.take(pid));
        self.settle_jobs();
        let message = format!("{} {verb} does not end, even killed", external.program.path);
        Failure { kind: FailureKind::Internal, message, errno: None }
    }

    /// With the oldest one gone those who ended before the others are no strangers any more; with the last
    /// that makes a container, what the shim holds may be known.
    pub(super) fn settle_jobs(&mut self) {
        let oldest = self.jobs.jobs.iter().map(|job| job.since).min();
        self.jobs.strangers.forget_before(oldest);
        self.end_unnamed_of_all();
        self.answer_state_waiters();
    }
}
