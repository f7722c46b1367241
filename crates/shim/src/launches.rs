//! Containers on their way: from the request to start one to the moment its program runs.
//!
//! What the first process does until then may take as long as a file system takes to answer (a mount, the working
//! directory, the search for the program), and as long as hooks take. The shim does not wait for it: the request is
//! answered when the process has said how it went, or has had its time.

use std::time::Instant;

use failpoint::Point;
use launch::Launching;
use launch::plan::{CgroupPlan, HooksPlan, LaunchPlan, PidNamespace};
use model::ContainerId;
use rustix::fd::OwnedFd;
use rustix::process::Pid;
use shim_protocol::{Exit, Failure, FailureKind, Response, StartContainer, Started};

use crate::clock;
use crate::container::{Container, Lifecycle, Running};
use crate::external::Keeper;
use crate::failure::{also, io_failure, reach, wrong_state};
use crate::log::Stream;
use crate::peers::PeerNumber;
use crate::poll::Token;
use crate::runtime::{Launched, Way, directories_only};
use crate::stdin::Stdin;
use crate::stdio::{self, Ends, Sink, Stdio};
use crate::supervisor::Supervisor;

/// A container whose first process is on its way, and who waits for it.
#[derive(Debug)]
struct Launch {
    id: ContainerId,
    launching: Launching,
    /// What it is to the poller.
    token: u64,
    asked: (PeerNumber, u64),
    /// How its process has ended, while hooks were still running.
    ended: Option<Exit>,
    /// What it is to become.
    fate: Fate,
}

/// What of a request and a plan the container keeps.
#[derive(Debug)]
struct Fate {
    cgroup: CgroupPlan,
    own_pidns: bool,
    kill_rest: bool,
    stop_signal: Option<i32>,
    keep_stdin: bool,
    stdin_once: bool,
    /// For once it is gone.
    hooks: Option<HooksPlan>,
    /// How many the OOM killer had ended in its cgroups before.
    oom_kills: u64,
    sink: Sink,
    /// None: a terminal, whose master comes with the process.
    ends: Option<Ends>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Launches(Vec<Launch>);

impl Launches {
    pub(crate) fn has(&self, id: &str) -> bool {
        self.0.iter().any(|launch| launch.id.as_str() == id)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// When the next one has had its time.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.0.iter().filter_map(|launch| launch.launching.due()).min()
    }

    fn due(&self, now: Instant) -> Option<u64> {
        let due = |launch: &&Launch| launch.launching.due().is_some_and(|due| due <= now);
        self.0.iter().find(due).map(|launch| launch.token)
    }

    /// The one that this child is the first process or a hook of.
    fn by_child(&self, pid: Pid) -> Option<u64> {
        let is_its = |launch: &&Launch| {
            [launch.launching.pid(), launch.launching.hook()].contains(&Some(pid))
        };
        self.0.iter().find(is_its).map(|launch| launch.token)
    }

    /// Keeps how a first process has ended whose hooks still run; false if it is none.
    pub(crate) fn keep_end(&mut self, pid: Pid, exit: &Exit) -> bool {
        // Once it is reaped its number may come to mean another.
        let is_it =
            |launch: &&mut Launch| launch.ended.is_none() && launch.launching.pid() == Some(pid);
        let found = self.0.iter_mut().find(is_it);
        if let Some(launch) = found {
            launch.ended = Some(exit.clone());
            return true;
        }
        false
    }

    fn by_id(&self, id: &str) -> Option<u64> {
        self.0.iter().find(|launch| launch.id.as_str() == id).map(|launch| launch.token)
    }

    fn take(&mut self, token: u64) -> Option<Launch> {
        let index = self.0.iter().position(|launch| launch.token == token)?;
        Some(self.0.swap_remove(index))
    }
}

impl Supervisor {
    /// Begins to start a container; its request is answered by [`Self::advance_launch`].
    pub(crate) fn start(
        &mut self,
        asked: (PeerNumber, u64),
        request: &StartContainer,
    ) -> Result<(), Failure> {
        let _span = sys::trace::span("shim: begin the container");
        let (id, plan) = self.admit_start(request)?;
        self.reserve_exit(&id)?;
        self.begin_launch(asked, id.clone(), request, plan)
            .map_err(|failure| self.without_reserve(&id, failure))
    }

    fn begin_launch(
        &mut self,
        asked: (PeerNumber, u64),
        id: ContainerId,
        request: &StartContainer,
        plan: LaunchPlan,
    ) -> Result<(), Failure> {
        let log = self.open_log(request.log_path.as_deref())?;
        reach(Point::ShimLaunch)?;
        let cgroup = directories_only(plan.cgroup.clone());
        let (ends, theirs) = if plan.process.terminal {
            (None, Stdio::Terminal)
        } else {
            let uid = plan.process.host_uid();
            let (ours, theirs) = stdio::pipes(&self.parts.null, request.stdin, uid)
                .map_err(|error| no_files(&error))?;
            (Some(ours), theirs)
        };
        let fate = Fate {
            own_pidns: plan.namespaces.pid == PidNamespace::New,
            kill_rest: request.kill_rest,
            stop_signal: request.stop_signal,
            keep_stdin: request.stdin,
            stdin_once: request.stdin_once,
            hooks: plan.hooks.clone().filter(|hooks| !hooks.poststop.is_empty()),
            oom_kills: self.parts.runtime.oom_kills(&cgroup),
            cgroup,
            sink: Sink::new(log),
            ends,
        };
        let launching = self.parts.runtime.begin_launch(plan, &theirs)?;
        let token = self.tools.poller.number();
        // Dropped without being watched it is killed and reaped.
        self.watch_launch(&id, &launching, token)?;
        self.launches.0.push(Launch { id, launching, token, asked, ended: None, fate });
        Ok(())
    }

    fn watch_launch(
        &self,
        id: &ContainerId,
        launching: &Launching,
        token: u64,
    ) -> Result<(), Failure> {
        self.tools.poller.add(launching.awaited(), Token::Launching(token)).map_err(|error| {
            let what = format!("cannot watch the start of container {}", id.short());
            io_failure(FailureKind::Internal, what, &error.into())
        })
    }

    /// A process on its way has something to say, or a hook of it has ended, or it is time; once its program runs
    /// or it has failed, who asked is told.
    pub(crate) fn advance_launch(&mut self, token: u64) {
        let Some(launch) = self.launches.take(token) else { return };
        let Launch { id, launching, token, asked, ended, fate } = launch;
        self.tools.poller.remove(launching.awaited());
        let done = match self.parts.runtime.advance_launch(launching) {
            Ok(Way::OnItsWay(launching)) => {
                match self.watch_launch(&id, &launching, token) {
                    Ok(()) => {
                        let launch = Launch { id, launching, token, asked, ended, fate };
                        self.launches.0.push(launch);
                        return;
                    }
                    // It is killed and reaped.
                    Err(failure) => Err(failure),
                }
            }
            Ok(Way::Runs(launched)) => {
                failpoint::pass(Point::ShimKeep);
                self.take_on_launched(&id, launched, fate)
            }
            Err(failure) => Err(failure),
        };
        self.answer_launch(&id, asked, done);
        if let Some(exit) = ended {
            self.container_ended(&id, exit);
        }
    }

    fn answer_launch(
        &mut self,
        id: &ContainerId,
        (peer, request): (PeerNumber, u64),
        done: Result<Started, Failure>,
    ) {
        let response = match done {
            Ok(started) => {
                failpoint::pass(Point::ShimStartAnswer);
                Response::Started(started)
            }
            Err(failure) => Response::Failed(self.without_reserve(id, failure)),
        };
        self.peers.reply(peer, request, (response, None), &self.tools.poller);
        self.answer_state_waiters();
    }

    /// The container is the shim's from now on.
    fn take_on_launched(
        &mut self,
        id: &ContainerId,
        mut launched: Launched,
        mut fate: Fate,
    ) -> Result<Started, Failure> {
        let stdin = match self.attach_files(&mut launched, &mut fate) {
            Ok(stdin) => stdin,
            Err(error) => {
                let mut failure = no_files(&error);
                if let Err(undo) = self.parts.runtime.abandon(&launched, &fate.cgroup) {
                    also(&mut failure, &undo);
                }
                // Nobody can be attached to it yet.
                drop(fate.sink.close(&mut self.tools));
                return Err(failure);
            }
        };
        let Launched { pid, pidfd, warnings, .. } = launched;
        let stdin = stdin.map(|it| Stdin::new(self.tools.poller.number(), it, fate.stdin_once));
        let oom = self.watch_oom(&fate.cgroup, fate.oom_kills);
        let (sink, started_at) = (fate.sink, clock::now());
        self.containers.insert(Container {
            id: id.clone(),
            started_at,
            cgroup: fate.cgroup,
            own_pidns: fate.own_pidns,
            kill_rest: fate.kill_rest,
            stop_signal: fate.stop_signal,
            hooks: fate.hooks,
            keeper: Keeper::Shim,
            sandbox_cgroup: None,
            lifecycle: Lifecycle::Running(Running { pid, pidfd, stdin, sink, oom, wait: None }),
        });
        Ok(Started { pid: pid.as_raw_nonzero().get(), started_at, warnings })
    }

    /// Reads what it writes from now on; returns the end to write its stdin to.
    fn attach_files(
        &mut self,
        launched: &mut Launched,
        fate: &mut Fate,
    ) -> std::io::Result<Option<OwnedFd>> {
        let sink = &mut fate.sink;
        if let Some(Ends { stdin, stdout, stderr }) = fate.ends.take() {
            sink.attach(Stream::Stdout, stdout, &mut self.tools)?;
            sink.attach(Stream::Stderr, stderr, &mut self.tools)?;
            return Ok(stdin);
        }
        let console = launched.take_console()?;
        stdio::set_nonblocking(&console)?;
        let stdin = fate.keep_stdin.then(|| console.try_clone()).transpose()?;
        sink.attach_terminal(console, &mut self.tools)?;
        Ok(stdin)
    }

    /// Before a child that has ended is reaped: if it is one that was on its way, what it said comes first, and it
    /// may be reaped with that.
    pub(crate) fn hear_last_words_of_launch(&mut self, pid: Pid) {
        if let Some(token) = self.launches.by_child(pid) {
            self.advance_launch(token);
        }
    }

    /// Goes on with those that have had their time, or a hook of theirs has.
    pub(crate) fn expire_launches(&mut self, now: Instant) {
        while let Some(token) = self.launches.due(now) {
            self.advance_launch(token);
        }
    }

    /// Ends one that is on its way, if this is one: its start fails.
    pub(crate) fn kill_launch(&mut self, id: &str) -> bool {
        let Some(token) = self.launches.by_id(id) else { return false };
        let Some(Launch { id, launching, asked, .. }) = self.launches.take(token) else {
            return false;
        };
        self.tools.poller.remove(launching.awaited());
        drop(launching);
        let failure = wrong_state(format!("container {} was killed before it ran", id.short()));
        self.answer_launch(&id, asked, Err(failure));
        true
    }

    /// Ends all of them: the pod ends.
    pub(crate) fn kill_launches(&mut self) {
        while let Some(id) = self.launches.0.first().map(|launch| launch.id.clone()) {
            self.kill_launch(id.as_str());
        }
    }
}

fn no_files(error: &std::io::Error) -> Failure {
    io_failure(FailureKind::Internal, "cannot make the container's standard files", error)
}
