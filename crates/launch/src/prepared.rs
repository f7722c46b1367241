//! The parent half: from plan to a child that is ready, and from there to one that runs.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::process::Pid;
use sys::process::Child;
use sys::trace::span;

use crate::agent::Agent;
use crate::birth::Joins;
use crate::cgroup::{Groups, Made};
use crate::child::{Job, New, Place, Program, Start};
use crate::error::{At, LaunchError, Step, Warning};
use crate::hooks::{self, Deadline, Round};
use crate::host::Tree;
use crate::launcher::{Io, Launcher};
use crate::outliving::{DIES_WITHIN, Outliving, has_ended};
use crate::plan::{LaunchPlan, ListenerPlan, ProcessPlan};
use crate::report::{self, Message, Reporter};

/// A process whose program runs.
#[derive(Debug)]
pub struct Running {
    /// As the launcher's PID namespace numbers it.
    pub pid: Pid,
    /// A handle on it; the process is the caller's child, to be reaped by it.
    pub pidfd: OwnedFd,
    /// The master of its terminal, if it has one.
    pub console: Option<OwnedFd>,
    /// What was narrowed.
    pub warnings: Vec<Warning>,
}

/// A process for which everything is set up, and which waits before executing. Dropping it kills
/// and reaps it and removes the cgroups that were made for it.
#[derive(Debug)]
pub struct Prepared {
    /// As the launcher's PID namespace numbers it.
    pub pid: Pid,
    /// The master of its terminal, if it has one. Taken by [`Self::start`].
    pub console: Option<OwnedFd>,
    /// What was narrowed so far.
    pub warnings: Vec<Warning>,
    attempt: Attempt,
}

impl Prepared {
    /// A handle on the process.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.attempt.child.as_ref().map(|child| child.pidfd.as_fd())
    }

    /// Leaves the process to whoever starts it, or kills it, later: it waits behind the socket it was
    /// given, see [`Launcher::prepare_waiting`].
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left then.
    pub fn leave(self) -> Result<Running, LaunchError> {
        let Self { pid: _, console, warnings, attempt } = self;
        attempt.succeed(console, warnings)
    }

    /// Lets the process execute its program; waits until it does.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left then.
    pub fn start(self) -> Result<Running, LaunchError> {
        self.start_and(|_| Ok(()))
    }

    /// As [`Self::start`]; then `after` has to succeed for the process to stay.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left then.
    pub fn start_and(
        self,
        after: impl FnOnce(Pid) -> Result<(), LaunchError>,
    ) -> Result<Running, LaunchError> {
        let pid = self.pid;
        let Self { pid: _, mut console, mut warnings, attempt } = self;
        report::go(&attempt.channel).at(Step::Channel, "")?;
        match attempt.listen(None, &mut console, &mut warnings, no_hooks)? {
            // A second `Ready` would be a bug of ours, but the process is as good as before it.
            Heard::Ready | Heard::Runs => {}
        }
        after(pid)?;
        attempt.succeed(console, warnings)
    }
}

/// Starts a process that was left waiting, over a connection to its socket; waits until it executes
/// its program. Says what was narrowed. `listener` is that of its seccomp filter, if it has one.
///
/// # Errors
/// [`LaunchError`]: the process has ended then, or should be ended, and what was made for it is still
/// there.
pub fn start_waiting(
    connection: impl AsFd,
    pid: Pid,
    listener: Option<&ListenerPlan>,
) -> Result<Vec<Warning>, LaunchError> {
    let mut warnings = Vec::new();
    let agent = listener.map(|plan| Agent::find(plan, hooks::Status::Created, None)).transpose()?;
    report::go(&connection).at(Step::Channel, "")?;
    loop {
        match report::receive(&connection).at(Step::Channel, "")? {
            Message::Warning(warning) => warnings.push(warning),
            Message::Failed(error) => return Err(error),
            Message::End => return Ok(warnings),
            Message::Listener(listener) => {
                tell(agent.as_ref(), pid, listener)?;
                report::go(&connection).at(Step::Channel, "")?;
            }
            Message::Ready | Message::Hooks | Message::Console(_) | Message::Born(_) => {
                return Err(LaunchError::bad_plan("a process is set up twice"));
            }
        }
    }
}

fn tell(agent: Option<&Agent>, pid: Pid, listener: OwnedFd) -> Result<(), LaunchError> {
    let agent = agent.ok_or_else(|| LaunchError::bad_plan("a listener without an agent"))?;
    agent.tell(pid, listener)
}

/// A child on its way; undone unless it succeeds.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) child: Option<Child>,
    pub(crate) made: Made,
    pub(crate) channel: OwnedFd,
    pub(crate) agent: Option<Agent>,
    pub(crate) outliving: Outliving,
}

/// How far a child has come.
#[derive(Debug)]
pub(crate) enum Heard {
    Ready,
    Runs,
}

/// What a child says that somebody has to do something about.
#[derive(Debug)]
pub(crate) enum Said {
    /// It waits until hooks have been run.
    Hooks,
    Heard(Heard),
}

impl Attempt {
    /// Waits until the child is ready, or runs, or it is time to give it up.
    pub(crate) fn listen(
        &self,
        until: Option<Instant>,
        console: &mut Option<OwnedFd>,
        warnings: &mut Vec<Warning>,
        run_hooks: impl FnOnce(&Child) -> Result<(), LaunchError>,
    ) -> Result<Heard, LaunchError> {
        let _span = span("shim: wait for the child");
        let mut run_hooks = Some(run_hooks);
        loop {
            if !report::has_something_by(&self.channel, until).at(Step::Channel, "")? {
                return Err(LaunchError::stuck());
            }
            match self.hear(console, warnings)? {
                None => {}
                Some(Said::Hooks) => {
                    let (Some(run), Some(child)) = (run_hooks.take(), &self.child) else {
                        return Err(LaunchError::no_hooks_due());
                    };
                    run(child)?;
                    report::go(&self.channel).at(Step::Channel, "")?;
                }
                Some(Said::Heard(heard)) => return Ok(heard),
            }
        }
    }

    /// Waits for one message.
    pub(crate) fn hear(
        &self,
        console: &mut Option<OwnedFd>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Option<Said>, LaunchError> {
        match report::receive(&self.channel).at(Step::Channel, "")? {
            Message::Warning(warning) => warnings.push(warning),
            Message::Console(master) => *console = Some(master),
            Message::Listener(listener) => match &self.child {
                Some(child) => {
                    tell(self.agent.as_ref(), child.pid, listener)?;
                    report::go(&self.channel).at(Step::Channel, "")?;
                }
                None => return Err(LaunchError::bad_plan("a listener of nobody")),
            },
            Message::Failed(error) => return Err(error),
            Message::Hooks => return Ok(Some(Said::Hooks)),
            Message::Ready => return Ok(Some(Said::Heard(Heard::Ready))),
            Message::End => return Ok(Some(Said::Heard(Heard::Runs))),
            Message::Born(_) => return Err(LaunchError::bad_plan("a child of a child")),
        }
        Ok(None)
    }

    pub(crate) fn succeed(
        mut self,
        console: Option<OwnedFd>,
        warnings: Vec<Warning>,
    ) -> Result<Running, LaunchError> {
        self.made.keep();
        match self.child.take() {
            Some(Child { pid, pidfd }) => Ok(Running { pid, pidfd, console, warnings }),
            None => Err(LaunchError::bad_plan("a launch is finished twice")),
        }
    }

    /// The child said nothing more although it had not been told to go on.
    fn died(&mut self) -> LaunchError {
        let ended = self.child.take_if(|child| has_ended(child, DIES_WITHIN));
        LaunchError::child_died(ended.map(|child| child.pidfd))
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut made = std::mem::take(&mut self.made);
        match self.child.take() {
            Some(child) => self.outliving.end(child, made),
            None => made.undo(),
        }
    }
}

impl Launcher {
    /// Makes a container's first process and everything around it, up to the point where only its
    /// program has to be executed.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left then.
    pub fn prepare(&self, plan: &LaunchPlan, io: Io<'_>) -> Result<Prepared, LaunchError> {
        self.prepare_until(plan, io, Start::WhenTold)
    }

    /// As [`Self::prepare`], for a process that [`start_waiting`] starts once it has been
    /// [left](Prepared::leave), maybe long after this process has ended: by a connection to `gate`, a
    /// listening socket that keeps packet borders. Whoever can connect to it can start the container.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left then.
    pub fn prepare_waiting(
        &self,
        plan: &LaunchPlan,
        io: Io<'_>,
        gate: BorrowedFd<'_>,
    ) -> Result<Prepared, LaunchError> {
        self.prepare_until(plan, io, Start::WhenCalled(gate))
    }

    fn prepare_until(
        &self,
        plan: &LaunchPlan,
        io: Io<'_>,
        start: Start<'_>,
    ) -> Result<Prepared, LaunchError> {
        let (until, hooks_until) = self.deadlines();
        let (mut attempt, mut warnings) =
            self.begin(plan, io, Program::InPath, start, hooks_until)?;
        let mut console = None;
        let hooks = |child: &Child| match &plan.hooks {
            Some(hooks) => self.run_round(Round::before(hooks, child.pid, hooks_until)),
            None => Ok(()),
        };
        match attempt.listen(until, &mut console, &mut warnings, hooks)? {
            Heard::Ready => {}
            Heard::Runs => return Err(attempt.died()),
        }
        let Some(pid) = attempt.child.as_ref().map(|child| child.pid) else {
            return Err(attempt.died());
        };
        Ok(Prepared { pid, console, warnings, attempt })
    }

    /// Of a launch that begins now, and of its hooks.
    pub(crate) fn deadlines(&self) -> (Option<Instant>, Deadline) {
        let until = self.options.runs_within.map(|within| Instant::now() + within);
        (until, Deadline::of_launch())
    }

    pub(crate) fn begin(
        &self,
        plan: &LaunchPlan,
        io: Io<'_>,
        program: Program<'_>,
        start: Start<'_>,
        hooks_until: Deadline,
    ) -> Result<(Attempt, Vec<Warning>), LaunchError> {
        let words = Words::of(&plan.process)?;
        let (channel, childs) = sys::fdpass::packet_pair().at(Step::Channel, "")?;
        let mut warnings = Vec::new();
        // One that is left waiting is told of by who starts it.
        let agent = match start {
            Start::AtOnce | Start::WhenTold => {
                self.on_host(|| Agent::of(&plan.process, hooks::Status::Creating, None))?
            }
            Start::WhenCalled(_) => None,
        };
        let mut groups = Groups::default();
        let user = self.user_namespace(plan)?;
        let user = user.as_ref().map(AsFd::as_fd);
        let prepared = self.on_host(|| {
            let namespaces = Joins::open(plan)?;
            {
                let _span = span("shim: cgroups");
                groups = Groups::make(&plan.cgroup, &mut warnings)?;
            }
            let _span = span("shim: root and mounts, detached");
            Ok((namespaces, Tree::assemble(plan, user)))
        });
        let (joins, tree) = prepared?;
        let made = groups.take_made();
        let outliving = self.outliving.clone();
        let mut attempt = Attempt { child: None, made, channel, agent, outliving };
        let mut tree = tree?;
        {
            let _span = span("shim: mounts of its own");
            tree.add_own(plan, user)?;
        }
        let job = Job {
            launcher: self,
            process: &plan.process,
            words: &words,
            program,
            io,
            groups: &groups,
            reporter: Reporter(childs.as_fd()),
            parents_end: attempt.channel.as_raw_fd(),
            start,
            place: Place::New(New { plan, tree: &tree, joins: &joins.ours, hooks_until }),
        };
        let _span = span("shim: clone");
        let child = self.clone_new(plan, &joins, &groups, &job, user)?;
        let pid = child.pid;
        attempt.child = Some(child);
        self.move_devices(plan, pid)?;
        Ok((attempt, warnings))
    }
}

/// For children that have none to be run.
pub(crate) fn no_hooks(_child: &Child) -> Result<(), LaunchError> {
    Err(LaunchError::no_hooks_due())
}

/// Arguments and environment as exec takes them, made before the clone so that a NUL in them is the
/// caller's error.
#[derive(Debug)]
pub(crate) struct Words {
    pub(crate) args: Vec<CString>,
    pub(crate) env: Vec<CString>,
}

impl Words {
    pub(crate) fn of(process: &ProcessPlan) -> Result<Self, LaunchError> {
        let nul = |what: &str| LaunchError::bad_plan(format!("{what} with a NUL byte"));
        if process.args.is_empty() {
            return Err(LaunchError::bad_plan("no program"));
        }
        let args = process.args.iter().map(|arg| CString::new(arg.as_bytes()));
        let env = process.env.iter().map(|entry| CString::new(entry.0.as_slice()));
        Ok(Self {
            args: args.collect::<Result<_, _>>().map_err(|_| nul("an argument"))?,
            env: env.collect::<Result<_, _>>().map_err(|_| nul("an environment entry"))?,
        })
    }
}
