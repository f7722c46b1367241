//! What each request does. Everything answers at once except `Shutdown`, `Exec`, `Start`, `Forget` where hooks
//! are to be run, and what needs another runtime's `create` and `start`.

use failpoint::Point;
use launch::plan::{CgroupPlan, LaunchPlan, PidNamespace};
use model::ContainerId;
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{Pid, getpid};
use shim_protocol::{Body, Failure, FailureKind, Hello, PodSetup, Response, StartContainer};

use crate::exec::Exec;
use crate::external::Keeper;
use crate::failure::{
    also, bad_request, chain, io_failure, not_found, reach, room, unknown, wrong_state,
};
use crate::log::ContainerLog;
use crate::oom::Oom;
use crate::peers::PeerNumber;
use crate::process_tree::{kill_family, signal_family};
use crate::supervisor::Supervisor;

const SIGHUP: i32 = 1;
const SIGKILL: i32 = 9;

/// What to do with a request's connection.
pub(crate) enum Answer {
    /// Send this, with a file or without.
    Now(Response, Option<OwnedFd>),
    /// Somebody else will.
    Later,
}

impl Answer {
    fn failed(failure: Failure) -> Self {
        Self::Now(Response::Failed(failure), None)
    }

    /// To a request that has begun, or could not.
    fn later(begun: Result<(), Failure>) -> Self {
        begun.map_or_else(Self::failed, |()| Self::Later)
    }

    /// To a request that only a later version of the protocol has.
    pub(crate) fn unknown() -> Self {
        let ours = shim_protocol::VERSION;
        Self::failed(bad_request(format!("this shim, of protocol {ours}, does not know how")))
    }
}

pub(crate) type Done = Result<(Response, Option<OwnedFd>), Failure>;

impl Supervisor {
    /// Does what is asked. Files that came along and are not wanted close here.
    pub(crate) fn answer(
        &mut self,
        peer: PeerNumber,
        id: u64,
        body: Body,
        files: Vec<OwnedFd>,
    ) -> Answer {
        let is_hello = matches!(body, Body::Hello(_));
        let done = if is_hello || self.peers.has_greeted(peer) {
            match body {
                Body::Hello(hello) => self.hello(peer, &hello),
                Body::SetupPod(setup) => self.set_up_pod(&setup),
                Body::Start(start) => {
                    return Answer::later(self.start((peer, id), &start));
                }
                Body::StartExternal(start) => {
                    return Answer::later(self.start_external((peer, id), &start));
                }
                Body::Kill { container, signal, all } => self.kill(&container, signal, all),
                Body::Exec(exec) => return Answer::later(self.exec((peer, id), &exec, files)),
                Body::KillExec { exec } | Body::HangUpExec { exec }
                    if self.end_entering((peer, id), exec) =>
                {
                    return Answer::Later;
                }
                Body::KillExec { exec } => self.kill_exec(exec),
                Body::ReopenLog { container } => self.reopen_log(&container),
                Body::State if self.put_off_state(peer, id) => return Answer::Later,
                Body::State => Ok((Response::State(self.state()), None)),
                Body::Forget { container } => match self.forget((peer, id), &container) {
                    Ok(true) => Ok((Response::Done, None)),
                    Ok(false) => return Answer::Later,
                    Err(failure) => Err(failure),
                },
                Body::Attach(attach) => self.attach(peer, &attach, files),
                Body::Detach { attach } => Ok((self.detach(attach), None)),
                Body::CloseStdin { attach } => Ok((self.close_stdin(attach), None)),
                Body::Resize { container, columns, rows } => self.resize(&container, columns, rows),
                Body::HangUpExec { exec } => self.hang_up_exec(exec),
                Body::Shutdown => {
                    self.begin_shutdown(peer, id);
                    return Answer::Later;
                }
            }
        } else {
            Err(bad_request("the first message of a connection must be a hello"))
        };
        match done {
            Ok((response, file)) => Answer::Now(response, file),
            Err(failure) => Answer::failed(failure),
        }
    }

    fn hello(&mut self, peer: PeerNumber, theirs: &Hello) -> Done {
        // Newer daemons adapt to this shim; older than the first version there is none.
        if theirs.version == 0 {
            return Err(bad_request("there is no protocol version 0"));
        }
        self.peers.greet(peer);
        let ours = Hello {
            version: shim_protocol::VERSION,
            build: self.parts.build.to_owned(),
            pid: getpid().as_raw_nonzero().get(),
        };
        Ok((Response::Hello(ours), None))
    }

    fn set_up_pod(&mut self, setup: &PodSetup) -> Done {
        self.refuse_if_ending()?;
        let (ready, netns) = self.pod.set_up(setup, &mut self.parts.runtime)?;
        failpoint::pass(Point::ShimSetupAnswer);
        Ok((Response::PodReady(ready), netns))
    }

    /// What is to be started, if that may be, whoever makes it: the shim or another runtime.
    pub(crate) fn admit_start(
        &self,
        request: &StartContainer,
    ) -> Result<(ContainerId, LaunchPlan), Failure> {
        self.refuse_if_ending()?;
        if !self.pod.is_ready() {
            return Err(wrong_state("the pod has not been set up"));
        }
        let id = parse(&request.container)?;
        let is_on_its_way = self.launches.has(id.as_str()) || self.jobs.has_birth(id.as_str());
        if is_on_its_way || self.containers.get(id.as_str()).is_some() {
            return Err(wrong_state(format!("container {} has been started already", id.short())));
        }
        let plan = LaunchPlan::decode(&request.plan)
            .map_err(|error| bad_request(format!("container {}: {}", id.short(), chain(&error))))?;
        if let Some(target) = &request.pid_target {
            self.check_pid_target(target, &plan)?;
        }
        Ok((id, plan))
    }

    /// Nothing is started whose end could not be recorded.
    pub(crate) fn reserve_exit(&self, id: &ContainerId) -> Result<(), Failure> {
        self.parts.exits.reserve(id).map_err(|error| {
            let path = self.parts.exits.path(id);
            let what = format!("cannot make the exit record {}", path.display());
            io_failure(FailureKind::Internal, what, &error)
        })
    }

    /// A container that was not started has no end.
    pub(crate) fn without_reserve(&self, id: &ContainerId, mut failure: Failure) -> Failure {
        if let Err(error) = self.parts.exits.remove(id.as_str()) {
            let path = self.parts.exits.path(id);
            let what = format!("cannot remove the exit record {}", path.display());
            also(&mut failure, &io_failure(FailureKind::Internal, what, &error));
        }
        failure
    }

    /// Waits for the OOM killer to come to a container that runs now.
    pub(crate) fn watch_oom(&mut self, cgroup: &CgroupPlan, before: u64) -> Oom {
        let number = self.tools.poller.number();
        let watch = self.parts.runtime.watch_oom(cgroup).filter(|watch| {
            // Without it every kill is looked at when the container ends.
            self.tools.watch_oom(watch, number)
        });
        Oom::new(watch.map(|watch| (watch, number)), before)
    }

    /// Whoever reaps decides what a number means: until the target is reaped, and that is done here,
    /// its number is its own.
    pub(crate) fn check_pid_target(&self, target: &str, plan: &LaunchPlan) -> Result<(), Failure> {
        let found = self.containers.get(target).ok_or_else(|| unknown(target))?;
        let Some(running) = found.running() else {
            let short = found.id.short();
            return Err(wrong_state(format!("PID namespace target {short} is not running")));
        };
        let path = format!("/proc/{}/ns/pid", running.pid.as_raw_nonzero());
        match &plan.namespaces.pid {
            PidNamespace::Join(joined) if *joined == path => Ok(()),
            other => Err(wrong_state(format!(
                "the plan does not join the PID namespace of {target}, {path}, but {other:?}"
            ))),
        }
    }

    pub(crate) fn open_log(&mut self, path: Option<&str>) -> Result<Option<ContainerLog>, Failure> {
        let Some(path) = path else { return Ok(None) };
        if !path.starts_with('/') {
            return Err(bad_request(format!("the log {path} is not an absolute path")));
        }
        let opened = self.parts.runtime.on_host(|| {
            failpoint::reach(Point::ShimLog)?;
            ContainerLog::open(path.into())
        });
        opened.map(Some).map_err(|error| {
            io_failure(FailureKind::Internal, format!("cannot open the log {path}"), &error)
        })
    }

    pub(crate) fn kill(&mut self, container: &str, signal: i32, all: bool) -> Done {
        if signal == SIGKILL && self.kill_launch(container) {
            return Ok((Response::Done, None));
        }
        let found = self.containers.get_mut(container).ok_or_else(|| unknown(container))?;
        if !(1..=64).contains(&signal) {
            return Err(bad_request(format!("{signal} is not a signal")));
        }
        reach(Point::ShimSignal)?;
        let runtime = &self.parts.runtime;
        if signal == SIGKILL {
            found.kill_requested(runtime);
        }
        if let Some(external) = found.keeper.of_signals().cloned() {
            if found.running().is_some() {
                self.signal_external(&external, signal, all)?;
            }
            return Ok((Response::Done, None));
        }
        if let Some(running) = found.running() {
            // Success when it has ended and is to be reaped in a moment.
            sys::pidfd::signal(running.pidfd.as_fd(), signal).map_err(|error| {
                let what = format!("cannot send signal {signal} to container {container}");
                io_failure(FailureKind::Internal, what, &error)
            })?;
        }
        if signal == SIGKILL {
            if all && !found.dies_with_its_first() {
                runtime.kill_cgroups(&found.cgroup)?;
            }
            runtime.thaw(&found.cgroup)?;
        } else if all {
            let first = found.running().map(|running| running.pid);
            runtime.signal_members(&found.cgroup, signal, first)?;
        }
        Ok((Response::Done, None))
    }

    pub(crate) fn kill_exec(&mut self, number: u64) -> Done {
        let missing = || not_found(format!("exec {number} is not running"));
        self.execs.get(number).ok_or_else(missing)?;
        let inside = self.signal_inside(number, SIGKILL);
        let killed = match (inside, self.execs.get(number)) {
            (Ok(true), _) | (Ok(false), None) => Ok(()),
            // What stands for it on the host is ended in any case.
            (Ok(false), Some(exec)) => kill_family(exec.pid, || self.members_of(exec)),
            (Err(failure), Some(exec)) => {
                kill_family(exec.pid, || self.members_of(exec)).and(Err(failure))
            }
            (Err(failure), None) => Err(failure),
        };
        // Once it is answered, nothing is left to be seen of it.
        self.reap();
        killed.map(|()| (Response::Done, None))
    }

    fn hang_up_exec(&mut self, number: u64) -> Done {
        let missing = || not_found(format!("exec {number} is not running"));
        self.execs.get_mut(number).ok_or_else(missing)?.hung_up = true;
        if !self.signal_inside(number, SIGHUP)? {
            let exec = self.execs.get(number).ok_or_else(missing)?;
            signal_family(exec.pid, self.members_of(exec)?, SIGHUP)?;
        }
        Ok((Response::Done, None))
    }

    /// A child that ended is about to be reaped. What a hung up exec leaves behind must be found
    /// before: until then its number cannot come to mean anybody else.
    pub(crate) fn end_family_of_hung_up(&self, pid: Pid) {
        let Some(exec) = self.execs.hung_up(pid) else { return };
        if let Err(failure) = kill_family(exec.pid, || self.members_of(exec)) {
            let number = exec.number;
            self.tools.journal.say(format_args!(
                "exec {number}: what it left behind is not ended: {}",
                failure.message
            ));
        }
    }

    /// The processes of an exec's container.
    fn members_of(&self, exec: &Exec) -> Result<Vec<Pid>, Failure> {
        match self.containers.get(exec.container.as_str()) {
            Some(container) => self.parts.runtime.members(&container.cgroup),
            None => Ok(Vec::new()),
        }
    }

    fn reopen_log(&mut self, container: &str) -> Done {
        let found = self.containers.get_mut(container).ok_or_else(|| unknown(container))?;
        let short = found.id.short().to_owned();
        let Some(sink) = found.sink() else {
            return Err(wrong_state(format!("container {short} has ended; its log is complete")));
        };
        let Some(log) = sink.log() else {
            return Err(wrong_state(format!("container {short} has no log")));
        };
        self.parts.runtime.on_host(|| log.reopen()).map_err(|error| {
            let what = format!("cannot reopen the log {}", log.path().display());
            io_failure(FailureKind::Internal, what, &error)
        })?;
        Ok((Response::Done, None))
    }

    /// True when it is done; otherwise [`Self::advance_parting`] answers.
    fn forget(&mut self, asked: (PeerNumber, u64), container: &str) -> Result<bool, Failure> {
        let id = parse(container)?;
        // A zombie keeps its place in a v1 cgroup until it is reaped.
        self.reap();
        if self.launches.has(container) {
            return Err(wrong_state(format!("container {} is being started", id.short())));
        }
        if self.partings.join(container, asked) {
            return Ok(false);
        }
        if let Some(found) = self.containers.get(container) {
            if !found.has_ended() {
                return Err(wrong_state(format!("container {} has not ended", id.short())));
            }
            reach(Point::ShimForgetCgroups)?;
            let cgroup = found.cgroup.clone();
            if let Keeper::Runtime(external) = &found.keeper {
                let external = external.clone();
                self.delete_external(&external)?;
            }
            self.parts.runtime.remove_cgroups(&cgroup)?;
            if self.part(container, Some(asked)) {
                return Ok(false);
            }
        }
        self.forgotten(&id).map(|()| true)
    }

    /// Of a container nothing is left but what is known of it.
    pub(crate) fn forgotten(&mut self, id: &ContainerId) -> Result<(), Failure> {
        let removed = failpoint::reach(Point::ShimForgetRecord)
            .and_then(|()| self.parts.exits.remove(id.as_str()));
        removed.map_err(|error| {
            let what = format!("cannot remove the exit record of container {}", id.short());
            io_failure(FailureKind::Internal, what, &error)
        })?;
        self.containers.remove(id.as_str());
        Ok(())
    }

    pub(crate) fn refuse_if_ending(&self) -> Result<(), Failure> {
        match (&self.shutdown, self.leaves) {
            (Some(_), _) => Err(wrong_state("the pod is being shut down")),
            (None, Some(_)) => Err(wrong_state("the pod is being stopped: its shim got SIGTERM")),
            (None, None) => room(),
        }
    }
}

pub(crate) fn parse(container: &str) -> Result<ContainerId, Failure> {
    ContainerId::parse(container).map_err(|error| bad_request(error.to_string()))
}
