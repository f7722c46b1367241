//! The parent half: from plan to a child that is ready, and from there to one that runs.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;
use sys::namespace::Kind;
use sys::pidfd::Ended;
use sys::process::{Child, NewNamespaces};

use crate::cgroup::{Groups, Made};
use crate::child::{Inside, Job, New, Place, Program, Start};
use crate::error::{At, LaunchError, Step, Warning};
use crate::hooks::{self, Deadline};
use crate::host::Tree;
use crate::launcher::{Io, Launcher};
use crate::plan::{ExecPlan, HooksPlan, LaunchPlan, Namespace, PidNamespace, ProcessPlan};
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

    /// Lets the process execute its program; waits until it does.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left then.
    pub fn start(self) -> Result<Running, LaunchError> {
        let Self { pid: _, mut console, mut warnings, attempt } = self;
        report::go(&attempt.channel).at(Step::Channel, "")?;
        match attempt.listen(&mut console, &mut warnings, no_hooks)? {
            // A second `Ready` would be a bug of ours, but the process is as good as before it.
            Heard::Ready | Heard::Runs => attempt.succeed(console, warnings),
        }
    }
}

/// A child on its way; undone unless it succeeds.
#[derive(Debug)]
struct Attempt {
    child: Option<Child>,
    made: Made,
    channel: OwnedFd,
    hooks_until: Deadline,
}

enum Heard {
    Ready,
    Runs,
}

impl Attempt {
    fn listen(
        &self,
        console: &mut Option<OwnedFd>,
        warnings: &mut Vec<Warning>,
        run_hooks: impl FnOnce(&Child) -> Result<(), LaunchError>,
    ) -> Result<Heard, LaunchError> {
        let mut run_hooks = Some(run_hooks);
        loop {
            match report::receive(&self.channel).at(Step::Channel, "")? {
                Message::Warning(warning) => warnings.push(warning),
                Message::Console(master) => *console = Some(master),
                Message::Failed(error) => return Err(error),
                Message::Hooks => {
                    let (Some(run), Some(child)) = (run_hooks.take(), &self.child) else {
                        return Err(LaunchError::bad_plan("hooks are run twice"));
                    };
                    run(child)?;
                    report::go(&self.channel).at(Step::Channel, "")?;
                }
                Message::Ready => return Ok(Heard::Ready),
                Message::End => return Ok(Heard::Runs),
            }
        }
    }

    fn succeed(
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
        let how = match self.child.take().map(|child| sys::pidfd::wait(child.pidfd.as_fd())) {
            Some(Ok(Ended::Signaled(signal))) => format!("signal {signal}"),
            Some(Ok(Ended::Exited(status))) => format!("status {status}"),
            Some(Err(_)) | None => "unknown status".to_owned(),
        };
        LaunchError { step: Step::ChildDied, subject: how, cause: None }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            // The child is ours and not reaped, so the handle is good and both calls succeed.
            sys::pidfd::kill(child.pidfd.as_fd()).ok();
            sys::pidfd::wait(child.pidfd.as_fd()).ok();
        }
        self.made.undo();
    }
}

impl Launcher {
    /// Makes a container's first process and everything around it, up to the point where only its
    /// program has to be executed.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left then.
    pub fn prepare(&self, plan: &LaunchPlan, io: Io<'_>) -> Result<Prepared, LaunchError> {
        let (mut attempt, mut warnings) = self.begin(plan, io, Program::InPath, Start::WhenTold)?;
        let mut console = None;
        let until = attempt.hooks_until;
        let hooks = |child: &Child| self.create_runtime_hooks(plan, child, until);
        match attempt.listen(&mut console, &mut warnings, hooks)? {
            Heard::Ready => {}
            Heard::Runs => return Err(attempt.died()),
        }
        let Some(pid) = attempt.child.as_ref().map(|child| child.pid) else {
            return Err(attempt.died());
        };
        Ok(Prepared { pid, console, warnings, attempt })
    }

    /// [`Self::prepare`] and [`Prepared::start`] in one go, without the wait between them.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left then.
    pub fn launch(&self, plan: &LaunchPlan, io: Io<'_>) -> Result<Running, LaunchError> {
        self.launch_program(plan, io, Program::InPath)
    }

    pub(crate) fn launch_program(
        &self,
        plan: &LaunchPlan,
        io: Io<'_>,
        program: Program<'_>,
    ) -> Result<Running, LaunchError> {
        let (attempt, mut warnings) = self.begin(plan, io, program, Start::AtOnce)?;
        let mut console = None;
        let until = attempt.hooks_until;
        let hooks = |child: &Child| self.create_runtime_hooks(plan, child, until);
        let mut running = match attempt.listen(&mut console, &mut warnings, hooks)? {
            Heard::Ready | Heard::Runs => attempt.succeed(console, warnings)?,
        };
        running.warnings.extend(self.poststart_hooks(plan, running.pid, until));
        Ok(running)
    }

    fn create_runtime_hooks(
        &self,
        plan: &LaunchPlan,
        child: &Child,
        until: Deadline,
    ) -> Result<(), LaunchError> {
        let Some(hooks) = &plan.hooks else { return Ok(()) };
        let (pid, status) = (child.pid.as_raw_nonzero().get(), hooks::Status::Creating);
        self.on_host(|| hooks::run(hooks, &hooks.create_runtime, status, pid, until))
    }

    fn poststart_hooks(&self, plan: &LaunchPlan, pid: Pid, until: Deadline) -> Vec<Warning> {
        let Some(hooks) = plan.hooks.as_ref().filter(|hooks| !hooks.poststart.is_empty()) else {
            return Vec::new();
        };
        let pid = pid.as_raw_nonzero().get();
        let run =
            || Ok(hooks::run_all(hooks, &hooks.poststart, hooks::Status::Running, pid, until));
        hook_warnings(self.on_host(run))
    }

    /// Runs what a plan wants to be run once its container is gone; says what failed.
    pub fn poststop_hooks(&self, hooks: &HooksPlan) -> Vec<Warning> {
        let (until, status) = (Deadline::afterwards(), hooks::Status::Stopped);
        let run = || Ok(hooks::run_all(hooks, &hooks.poststop, status, 0, until));
        hook_warnings(self.on_host(run))
    }

    /// Runs a process inside a running container, whose first process `target` is.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left then.
    pub fn exec(
        &self,
        plan: &ExecPlan,
        target: BorrowedFd<'_>,
        io: Io<'_>,
    ) -> Result<Running, LaunchError> {
        let mut groups = self.on_host(|| Groups::open(&plan.cgroup))?;
        match self.try_exec(plan, target, io, &groups) {
            Err(error) if error.step == Step::Clone && error.errno() == Some(libc::EBUSY) => {
                let pid = sys::pidfd::pid_of(target).at(Step::Namespace, "the container's")?;
                self.on_host(|| groups.follow(&plan.cgroup, pid))?;
                self.try_exec(plan, target, io, &groups)
            }
            result => result,
        }
    }

    fn try_exec(
        &self,
        plan: &ExecPlan,
        target: BorrowedFd<'_>,
        io: Io<'_>,
        groups: &Groups,
    ) -> Result<Running, LaunchError> {
        let words = Words::of(&plan.process)?;
        let (channel, childs) = sys::fdpass::packet_pair().at(Step::Channel, "")?;
        let job = Job {
            launcher: self,
            process: &plan.process,
            words: &words,
            program: Program::InPath,
            io,
            groups,
            reporter: Reporter(childs.as_fd()),
            start: Start::AtOnce,
            place: Place::Inside(Inside { target }),
        };
        let child = self
            .with_children_beside(target, || {
                hidden(|| spawn(NewNamespaces::default(), groups, &job))
            })
            .at(Step::Namespace, "the container's pid")?
            .at(Step::Clone, "")?;
        drop(childs);
        let attempt = Attempt {
            child: Some(child),
            made: Made::default(),
            channel,
            hooks_until: Deadline::of_launch(),
        };
        let (mut console, mut warnings) = (None, Vec::new());
        match attempt.listen(&mut console, &mut warnings, no_hooks)? {
            Heard::Ready | Heard::Runs => attempt.succeed(console, warnings),
        }
    }

    fn begin(
        &self,
        plan: &LaunchPlan,
        io: Io<'_>,
        program: Program<'_>,
        start: Start,
    ) -> Result<(Attempt, Vec<Warning>), LaunchError> {
        let words = Words::of(&plan.process)?;
        let (channel, childs) = sys::fdpass::packet_pair().at(Step::Channel, "")?;
        let mut warnings = Vec::new();
        let mut groups = Groups::default();
        let prepared = self.on_host(|| {
            let namespaces = Joins::open(plan)?;
            groups = Groups::make(&plan.cgroup, &mut warnings)?;
            Ok((namespaces, Tree::assemble(plan)))
        });
        let (joins, tree) = prepared?;
        let made = groups.take_made();
        let hooks_until = Deadline::of_launch();
        let mut attempt = Attempt { child: None, made, channel, hooks_until };
        let mut tree = tree?;
        tree.add_own(plan)?;
        let job = Job {
            launcher: self,
            process: &plan.process,
            words: &words,
            program,
            io,
            groups: &groups,
            reporter: Reporter(childs.as_fd()),
            start,
            place: Place::New(New { plan, tree: &tree, joins: &joins.ours, hooks_until }),
        };
        attempt.child = Some(self.clone_new(plan, &joins, &groups, &job)?);
        Ok((attempt, warnings))
    }

    fn clone_new(
        &self,
        plan: &LaunchPlan,
        joins: &Joins,
        groups: &Groups,
        job: &Job<'_>,
    ) -> Result<Child, LaunchError> {
        // Hooks in the container's mount namespace expect the host's files around its root.
        let shown = plan.hooks.as_ref().is_some_and(|hooks| !hooks.create_container.is_empty());
        if shown {
            return self.on_host(|| self.clone_here(plan, joins, groups, job));
        }
        self.clone_here(plan, joins, groups, job)
    }

    fn clone_here(
        &self,
        plan: &LaunchPlan,
        joins: &Joins,
        groups: &Groups,
        job: &Job<'_>,
    ) -> Result<Child, LaunchError> {
        let namespaces = new_namespaces(plan);
        let clone = || hidden(|| spawn(namespaces, groups, job));
        let pidns = match &plan.namespaces.pid {
            PidNamespace::New | PidNamespace::Inherit => None,
            PidNamespace::Pod => match &self.pod_pidns {
                Some(pidns) => Some(pidns),
                None => return Err(LaunchError::bad_plan("the pod shares no PID namespace")),
            },
            PidNamespace::Join(_) => joins.pid.as_ref(),
        };
        match pidns {
            None => clone(),
            Some(pidns) => {
                self.with_children_in(pidns.as_fd(), clone).at(Step::Namespace, "pid")?
            }
        }
        .at(Step::Clone, "")
    }
}

/// For children that have none to be run.
fn no_hooks(_child: &Child) -> Result<(), LaunchError> {
    Err(LaunchError::bad_plan("hooks where there are none"))
}

fn hook_warnings(failed: Result<Vec<LaunchError>, LaunchError>) -> Vec<Warning> {
    let failed = failed.unwrap_or_else(|error| vec![error]);
    let warning =
        |error: &LaunchError| Warning { what: error.subject.clone(), why: error.sentence() };
    failed.iter().map(warning).collect()
}

/// Between clone and exec a child may be visible to processes of the container, in whose PID
/// namespace it is born; it still holds the launcher's memory and files, which they must not reach.
fn hidden<T>(f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = sys::credentials::dumpable()?;
    sys::credentials::set_dumpable(false)?;
    let result = f();
    sys::credentials::set_dumpable(before)?;
    result
}

fn spawn(namespaces: NewNamespaces, groups: &Groups, job: &Job<'_>) -> io::Result<Child> {
    if sys::process::thread_count()? != 1 {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the launcher has other threads"));
    }
    let cgroup = groups.unified.as_ref().map(AsFd::as_fd);
    // SAFETY: this is the only thread, as was just seen, and only it could make another.
    unsafe { sys::process::clone_child(namespaces, cgroup, || job.run()) }
}

fn new_namespaces(plan: &LaunchPlan) -> NewNamespaces {
    let namespaces = &plan.namespaces;
    let mut new = NewNamespaces::MOUNT;
    if namespaces.pid == PidNamespace::New {
        new = new.with(NewNamespaces::PID);
    }
    // The cgroup namespace is made by the child, after it has joined its cgroups.
    for (wanted, flag) in [
        (&namespaces.net, NewNamespaces::NET),
        (&namespaces.ipc, NewNamespaces::IPC),
        (&namespaces.uts, NewNamespaces::UTS),
    ] {
        if *wanted == Namespace::New {
            new = new.with(flag);
        }
    }
    new
}

/// Namespace files on the host, opened.
#[derive(Debug, Default)]
struct Joins {
    pid: Option<OwnedFd>,
    /// Those the child enters.
    ours: Vec<(Kind, OwnedFd)>,
}

impl Joins {
    fn open(plan: &LaunchPlan) -> Result<Self, LaunchError> {
        let open = |path: &str| {
            rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .at(Step::NamespaceOpen, path)
        };
        let namespaces = &plan.namespaces;
        let pid = match &namespaces.pid {
            PidNamespace::Join(path) => Some(open(path)?),
            PidNamespace::New | PidNamespace::Inherit | PidNamespace::Pod => None,
        };
        let mut ours = Vec::new();
        for (wanted, kind) in [
            (&namespaces.net, Kind::Net),
            (&namespaces.ipc, Kind::Ipc),
            (&namespaces.uts, Kind::Uts),
            (&namespaces.cgroup, Kind::Cgroup),
        ] {
            if let Namespace::Join(path) = wanted {
                ours.push((kind, open(path)?));
            }
        }
        Ok(Self { pid, ours })
    }
}

/// Arguments and environment as exec takes them, made before the clone so that a NUL in them is the
/// caller's error.
#[derive(Debug)]
pub(crate) struct Words {
    pub(crate) args: Vec<CString>,
    pub(crate) env: Vec<CString>,
}

impl Words {
    fn of(process: &ProcessPlan) -> Result<Self, LaunchError> {
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
