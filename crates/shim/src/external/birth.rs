//! A container on its way: `create`, then `start`.

use std::io;
use std::os::fd::AsFd;

use launch::plan::{CgroupPlan, LaunchPlan, PidNamespace};
use launch::{ToolIo, View};
use rustix::fd::OwnedFd;
use rustix::process::Pid;
use shim_protocol::{Failure, FailureKind, Response, RuntimeKind, StartExternal, Started};

use super::job::{Job, Step};
use super::{External, Keeper, Outputs};
use crate::clock;
use crate::container::{Container, Lifecycle, Running};
use crate::exit::exit_of;
use crate::failure::{also, io_failure, wrong_state};
use crate::log::Stream;
use crate::peers::PeerNumber;
use crate::runtime::directories_only;
use crate::stdin::Stdin;
use crate::stdio::{self, Ends, Sink, Stdio};
use crate::supervisor::Supervisor;

/// Everything that is known of a container before its program runs.
#[derive(Debug)]
pub(super) struct Birth {
    pub(super) external: External,
    cgroup: CgroupPlan,
    own_pidns: bool,
    kill_rest: bool,
    stop_signal: Option<i32>,
    keep_stdin: bool,
    stdin_once: bool,
    /// How many the OOM killer had ended in its cgroup before.
    oom_kills: u64,
    sink: Sink,
    files: Files,
    /// Its first process, once created.
    first: Option<(Pid, OwnedFd)>,
    /// What the runtime sees: `start` too, for sandboxes open a root no sooner.
    view: View,
    /// The container's ends of its pipes, where `start` hands them over and not `create`.
    theirs: Option<Stdio>,
}

impl Birth {
    /// Its first process, once it is known.
    pub(super) fn first_pid(&self) -> Option<Pid> {
        self.first.as_ref().map(|(pid, _)| *pid)
    }

    /// What `create` has printed where the container's errors go. Its program has not run: all of it is the
    /// runtime's own.
    pub(super) fn printed(&self) -> Vec<u8> {
        let mut text = Vec::new();
        if let Files::Pipes(ends) = &self.files {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = rustix::io::read(&ends.stderr, &mut buffer) {
                text.extend_from_slice(&buffer[..count]);
                if text.len() >= MOST_PRINTED {
                    break;
                }
            }
        }
        text
    }
}

/// As much as a pipe holds.
const MOST_PRINTED: usize = 64 << 10;

/// Where the shim's ends of its standard files are.
#[derive(Debug)]
enum Files {
    Pipes(Ends),
    /// Its terminal comes over a socket.
    Console(Console),
    /// It has come.
    Terminal(OwnedFd),
}

/// A socket that gets a terminal's master.
#[derive(Debug)]
pub(super) struct Console {
    listener: OwnedFd,
    /// Its directory, by which it is named: the name has to be short.
    dir: OwnedFd,
    name: String,
    path: String,
}

impl Console {
    /// Listens in a directory of the host.
    pub(super) fn listen(
        supervisor: &Supervisor,
        external: &External,
        name: &str,
    ) -> io::Result<Self> {
        let runtime = &supervisor.parts.runtime;
        let dir = runtime.on_host(|| sys::fs::open_dir(external.scratch.as_str()))?;
        let listener = sys::fdpass::listen_for_file(dir.as_fd(), name)?;
        let path = external.file(name);
        Ok(Self { listener, dir, name: name.to_owned(), path })
    }

    /// As the runtime finds it: addresses of sockets hold 107 bytes.
    pub(super) fn name(&self) -> String {
        use std::os::fd::AsRawFd;
        let own = rustix::process::getpid().as_raw_nonzero();
        format!("/proc/{own}/fd/{}/{}", self.dir.as_raw_fd(), self.name)
    }

    /// What the runtime has sent.
    pub(super) fn take(&self, supervisor: &Supervisor) -> io::Result<OwnedFd> {
        let master = sys::fdpass::accept_file(self.listener.as_fd());
        self.remove(supervisor);
        master
    }

    /// Takes the name away.
    pub(super) fn remove(&self, supervisor: &Supervisor) {
        // What is left goes with the container's directory.
        supervisor.parts.runtime.on_host(|| std::fs::remove_file(&self.path)).ok();
    }
}

/// The container's standard files, or the command's own.
fn io_of<'a>(theirs: Option<&'a Stdio>, outputs: &'a Outputs) -> ToolIo<'a> {
    match theirs {
        Some(Stdio::Files { stdin, stdout, stderr }) => ToolIo {
            stdin: stdin.as_fd(),
            stdout: stdout.as_fd(),
            stderr: stderr.as_fd(),
            ..outputs.io()
        },
        Some(Stdio::Terminal) | None => outputs.io(),
    }
}

/// Makes the directory that a runtime takes for the container's bundle. The spec stays where the daemon keeps it,
/// below directories that are root's alone: crun goes into its bundle as the root of the pod's users.
fn make_bundle(dir: &str, kept: &str) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    if dir == kept {
        return Ok(());
    }
    let (spec, link) = (format!("{kept}/config.json"), format!("{dir}/config.json"));
    match std::os::unix::fs::symlink(spec, link) {
        // Of a start that failed.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

impl Supervisor {
    /// Begins to make a container; answered when it runs or cannot.
    pub(crate) fn start_external(
        &mut self,
        asked: (PeerNumber, u64),
        request: &StartExternal,
    ) -> Result<(), Failure> {
        let (id, plan) = self.admit_start(&request.start)?;
        let external = External {
            id,
            program: request.runtime.clone(),
            scratch: request.places.scratch.clone(),
        };
        let made = self.parts.runtime.on_host(|| make_bundle(&external.scratch, &request.bundle));
        made.map_err(|error| {
            let what = format!("cannot make {}", external.scratch);
            io_failure(FailureKind::Internal, what, &error)
        })?;
        self.reserve_exit(&external.id)?;
        self.begin_create(asked, request, &plan, &external).map_err(|mut failure| {
            if let Err(undo) = self.delete_external(&external) {
                also(&mut failure, &undo);
            }
            self.without_reserve(&external.id, failure)
        })
    }

    fn begin_create(
        &mut self,
        asked: (PeerNumber, u64),
        request: &StartExternal,
        plan: &LaunchPlan,
        external: &External,
    ) -> Result<(), Failure> {
        let cannot = |error| external.cannot_run("create", &error);
        let view = self.parts.runtime.view(plan, &request.places)?;
        let outputs = Outputs::new(&self.parts.runtime, &self.parts.null, external.file("log"))
            .map_err(cannot)?;
        let pid_file = external.file("pid");
        let mut words = vec!["--bundle", &external.scratch, "--pid-file", &pid_file];
        let keep_stdin = request.start.stdin;
        let console = plan.process.terminal.then(|| Console::listen(self, external, "console"));
        let console = console.transpose().map_err(cannot)?;
        let console_name = console.as_ref().map(Console::name);
        if let Some(name) = &console_name {
            words.extend(["--console-socket", name]);
        }
        words.push(external.id.as_str());
        let tool = external.tool(&outputs.log, "create", &words);
        let sink = Sink::new(self.open_log(request.start.log_path.as_deref())?);
        let (files, theirs) = match console {
            Some(console) => (Files::Console(console), None),
            None => {
                let uid = plan.process.host_uid();
                let pipes = stdio::pipes(&self.parts.null, keep_stdin, uid);
                let (ours, theirs) = pipes.map_err(cannot)?;
                (Files::Pipes(ours), Some(theirs))
            }
        };
        let io = io_of(theirs.as_ref(), &outputs);
        let cgroup = directories_only(plan.cgroup.clone());
        let mut birth = Birth {
            oom_kills: self.parts.runtime.oom_kills(&cgroup),
            cgroup,
            own_pidns: plan.namespaces.pid == PidNamespace::New,
            kill_rest: request.start.kill_rest,
            stop_signal: request.start.stop_signal,
            keep_stdin,
            stdin_once: request.start.stdin_once,
            sink,
            files,
            first: None,
            view,
            theirs: None,
            external: external.clone(),
        };
        match self.parts.runtime.spawn_tool(tool, io, Some(&birth.view)) {
            Ok(child) => {
                birth.theirs = match birth.external.program.kind {
                    RuntimeKind::Processes => None,
                    RuntimeKind::Sandbox => theirs,
                };
                self.jobs.push(Job::new(child, outputs, asked, Step::Create(Box::new(birth))));
                Ok(())
            }
            Err(error) => {
                drop(birth.sink.close(&mut self.tools));
                Err(cannot(error))
            }
        }
    }

    /// `create` has ended.
    pub(super) fn created(
        &mut self,
        mut birth: Box<Birth>,
        asked: (PeerNumber, u64),
        outcome: Result<(), Failure>,
    ) {
        let begun = outcome.and_then(|()| self.begin_start(&mut birth));
        match begun {
            Ok((child, outputs)) => {
                self.jobs.push(Job::new(child, outputs, asked, Step::Start(birth)));
            }
            Err(failure) => self.miscarry(*birth, asked, failure),
        }
    }

    fn begin_start(
        &mut self,
        birth: &mut Birth,
    ) -> Result<(sys::process::Child, Outputs), Failure> {
        self.refuse_if_ending()?;
        let external = birth.external.clone();
        let pid = self.read_pid(&external, "pid")?;
        // It waits to be started, so its number is its own.
        let pidfd = sys::pidfd::open(pid).map_err(|error| {
            let what = format!("container {} has ended before its start", external.id.short());
            io_failure(FailureKind::Internal, what, &error)
        })?;
        birth.first = Some((pid, pidfd));
        if external.program.kind == RuntimeKind::Processes {
            self.take_terminal(birth)?;
        }
        let cannot = |error| external.cannot_run("start", &error);
        let outputs = Outputs::new(&self.parts.runtime, &self.parts.null, external.file("log"))
            .map_err(cannot)?;
        let tool = external.tool(&outputs.log, "start", &[external.id.as_str()]);
        let theirs = birth.theirs.take();
        let io = io_of(theirs.as_ref(), &outputs);
        let view = Some(&birth.view);
        let child = self.parts.runtime.spawn_tool(tool, io, view).map_err(cannot)?;
        Ok((child, outputs))
    }

    /// The master of its terminal has been sent by now, if it has one.
    fn take_terminal(&self, birth: &mut Birth) -> Result<(), Failure> {
        let Files::Console(console) = &birth.files else { return Ok(()) };
        let master = console.take(self).map_err(|error| {
            let what = format!("{} has sent no terminal", birth.external.program.path);
            io_failure(FailureKind::Internal, what, &error)
        })?;
        birth.files = Files::Terminal(master);
        Ok(())
    }

    /// The process whose number a runtime has written into a file.
    pub(super) fn read_pid(&self, external: &External, name: &str) -> Result<Pid, Failure> {
        let path = external.file(name);
        let what = || format!("{} has named no process in {path}", external.program.path);
        let text = self
            .parts
            .runtime
            .on_host(|| std::fs::read_to_string(&path))
            .map_err(|error| io_failure(FailureKind::Internal, what(), &error))?;
        let pid = text.trim().parse().ok().filter(|pid| *pid > 1).and_then(Pid::from_raw);
        pid.ok_or_else(|| {
            io_failure(FailureKind::Internal, what(), &io::ErrorKind::InvalidData.into())
        })
    }

    /// `start` has ended.
    pub(super) fn started(
        &mut self,
        mut birth: Box<Birth>,
        asked: (PeerNumber, u64),
        outcome: Result<(), Failure>,
    ) {
        if let Err(failure) = outcome.and_then(|()| self.take_terminal(&mut birth)) {
            return self.miscarry(*birth, asked, failure);
        }
        let (peer, request) = asked;
        let external = birth.external.clone();
        let response = match self.take_on(*birth) {
            Ok(started) => Response::Started(started),
            Err(mut failure) => {
                if let Err(undo) = self.delete_external(&external) {
                    also(&mut failure, &undo);
                }
                Response::Failed(self.without_reserve(&external.id, failure))
            }
        };
        self.peers.reply(peer, request, (response, None), &self.tools.poller);
        self.bury_if_ended(&external);
    }

    /// The container is the shim's from now on.
    fn take_on(&mut self, birth: Birth) -> Result<Started, Failure> {
        let Birth { external, cgroup, mut sink, files, first, .. } = birth;
        let failed = |error: io::Error| {
            let what = format!("cannot take container {} over", external.id.short());
            io_failure(FailureKind::Internal, what, &error)
        };
        let (pid, pidfd) = first.ok_or_else(|| wrong_state("a container without a process"))?;
        let (own, pidfd, wait) = match external.program.kind {
            RuntimeKind::Processes => (pid, pidfd, None),
            RuntimeKind::Sandbox => {
                let (child, outputs) = external.wait(&self.parts.runtime, &self.parts.null)?;
                (child.pid, child.pidfd, Some(outputs))
            }
        };
        let stdin = match files {
            Files::Pipes(ours) => {
                sink.attach(Stream::Stdout, ours.stdout, &mut self.tools).map_err(failed)?;
                sink.attach(Stream::Stderr, ours.stderr, &mut self.tools).map_err(failed)?;
                ours.stdin
            }
            Files::Terminal(master) => {
                stdio::set_nonblocking(&master).map_err(failed)?;
                let stdin = birth.keep_stdin.then(|| master.try_clone()).transpose();
                let stdin = stdin.map_err(failed)?;
                sink.attach_terminal(master, &mut self.tools).map_err(failed)?;
                stdin
            }
            Files::Console(_) => return Err(wrong_state("a terminal that never came")),
        };
        let once = birth.stdin_once;
        let stdin = stdin.map(|file| Stdin::new(self.tools.poller.number(), file, once));
        let sandbox_cgroup = self.sandbox_cgroup(&external);
        let oom = match &sandbox_cgroup {
            Some(cgroup) => self.watch_oom(cgroup, self.parts.runtime.oom_kills(cgroup)),
            None => self.watch_oom(&cgroup, birth.oom_kills),
        };
        let started_at = clock::now();
        self.containers.insert(Container {
            id: external.id.clone(),
            started_at,
            cgroup,
            own_pidns: birth.own_pidns,
            kill_rest: birth.kill_rest,
            stop_signal: birth.stop_signal,
            hooks: None,
            keeper: Keeper::Runtime(external),
            sandbox_cgroup,
            lifecycle: Lifecycle::Running(Running { pid: own, pidfd, stdin, sink, oom, wait }),
        });
        let pid = pid.as_raw_nonzero().get();
        Ok(Started { pid, started_at, warnings: Vec::new() })
    }

    /// The sandbox is the pod's first container; it has the processes of all others.
    fn sandbox_cgroup(&self, external: &External) -> Option<CgroupPlan> {
        match external.program.kind {
            RuntimeKind::Processes => None,
            RuntimeKind::Sandbox => {
                self.containers.iter().next().map(|sandbox| sandbox.cgroup.clone())
            }
        }
    }

    /// The first process may have ended while `start` did.
    fn bury_if_ended(&mut self, external: &External) {
        let Some(container) = self.containers.get(external.id.as_str()) else { return };
        let Some(pid) = container.running().map(|running| running.pid) else { return };
        if let Some(status) = self.jobs.take_stranger(pid) {
            let exit = exit_of(status, clock::now());
            self.container_ended(&external.id, exit);
        }
    }

    /// Takes back what exists of a container, and says why there is none.
    fn miscarry(&mut self, birth: Birth, asked: (PeerNumber, u64), mut failure: Failure) {
        let Birth { external, cgroup, sink, files, .. } = birth;
        if let Files::Console(console) = &files {
            console.remove(self);
        }
        drop(sink.close(&mut self.tools));
        let deleted = self.delete_external(&external);
        // A zombie keeps its place in a v1 cgroup until it is reaped.
        self.reap();
        let removed = self.parts.runtime.remove_cgroups(&cgroup);
        for undo in [deleted, removed].into_iter().filter_map(Result::err) {
            also(&mut failure, &undo);
        }
        let failure = self.without_reserve(&external.id, failure);
        let (peer, request) = asked;
        self.peers.reply(peer, request, (Response::Failed(failure), None), &self.tools.poller);
    }
}
