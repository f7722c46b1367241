//! Processes run inside containers on request.
//!
//! What such a process does before it runs its program may take as long as a file system takes to
//! answer (its working directory, the search for the program). The shim does not wait for it: the
//! request is answered when the process has said how it went.

use failpoint::Point;
use launch::Entering;
use launch::plan::ExecPlan;
use model::ContainerId;
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::Pid;
use shim_protocol::{Failure, FailureKind, Response, StartExec, Started};

use crate::clock;
use crate::external::Keeper;
use crate::failure::{bad_request, chain, io_failure, reach, unknown, wrong_state};
use crate::peers::PeerNumber;
use crate::poll::Token;
use crate::requests::Done;
use crate::runtime::{self, Launched, Way};
use crate::stdio::Stdio;
use crate::supervisor::Supervisor;

/// One exec'd process that has not been reaped.
#[derive(Debug)]
pub(crate) struct Exec {
    /// The daemon's number for it.
    pub(crate) number: u64,
    pub(crate) pid: Pid,
    pub(crate) container: ContainerId,
    /// Nobody listens to it any more: it has got SIGHUP, and what it leaves behind is killed.
    pub(crate) hung_up: bool,
    /// Its number inside, where a process of the runtime's stands for it on the host.
    pub(crate) inside: Option<i32>,
    /// Until it runs its program.
    waiting: Option<Waiting>,
}

impl Exec {
    /// One that runs.
    pub(crate) fn running(
        number: u64,
        pid: Pid,
        container: ContainerId,
        inside: Option<i32>,
    ) -> Self {
        Self { number, pid, container, hung_up: false, inside, waiting: None }
    }
}

/// A process on its way, and who waits for it.
#[derive(Debug)]
struct Waiting {
    entering: Entering,
    /// What it is to the poller.
    token: u64,
    peer: PeerNumber,
    request: u64,
    terminal: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Execs(Vec<Exec>);

impl Execs {
    pub(crate) fn get(&self, number: u64) -> Option<&Exec> {
        self.0.iter().find(|exec| exec.number == number)
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut Exec> {
        self.0.iter_mut().find(|exec| exec.number == number)
    }

    /// The hung up one with this process.
    pub(crate) fn hung_up(&self, pid: Pid) -> Option<&Exec> {
        self.0.iter().find(|exec| exec.hung_up && exec.pid == pid)
    }

    pub(crate) fn has_pid(&self, pid: Pid) -> bool {
        self.0.iter().any(|exec| exec.pid == pid)
    }

    /// What the one with this process is to the poller, if it does not run its program yet.
    fn on_its_way(&self, pid: Pid) -> Option<u64> {
        self.0.iter().find(|exec| exec.pid == pid)?.waiting.as_ref().map(|waiting| waiting.token)
    }

    fn by_token(&mut self, token: u64) -> Option<&mut Exec> {
        let is_it = |waiting: &Waiting| waiting.token == token;
        self.0.iter_mut().find(|exec| exec.waiting.as_ref().is_some_and(is_it))
    }

    pub(crate) fn insert(&mut self, exec: Exec) {
        self.0.push(exec);
    }

    fn forget(&mut self, number: u64) {
        self.0.retain(|exec| exec.number != number);
    }

    /// Takes out the one whose process was reaped.
    pub(crate) fn take_by_pid(&mut self, pid: Pid) -> Option<Exec> {
        let index = self.0.iter().position(|exec| exec.pid == pid)?;
        Some(self.0.swap_remove(index))
    }

    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.0.iter().map(|exec| exec.number).collect()
    }
}

impl Supervisor {
    /// Begins an exec; its request is answered by [`Self::advance_exec`].
    pub(crate) fn exec(
        &mut self,
        (peer, id): (PeerNumber, u64),
        request: &StartExec,
        files: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        self.refuse_if_ending()?;
        let number = request.exec;
        if self.execs.get(number).is_some() {
            return Err(wrong_state(format!("exec {number} runs already")));
        }
        let container =
            self.containers.get(&request.container).ok_or_else(|| unknown(&request.container))?;
        let Some(target) = container.running() else {
            return Err(wrong_state(format!("container {} is not running", container.id.short())));
        };
        if let Keeper::Runtime(external) = &container.keeper {
            let external = external.clone();
            return self.exec_external((peer, id), request, external, files);
        }
        let plan = ExecPlan::decode(&request.plan)
            .map_err(|error| bad_request(format!("exec {number}: {}", chain(&error))))?;
        let stdio = exec_stdio(number, request.terminal, files)?;
        reach(Point::ShimEnter)?;
        let entering = self.parts.runtime.exec(plan, target.pidfd.as_fd(), &stdio)?;
        let container = container.id.clone();
        // Dropped without being watched it would be killed and reaped.
        let token = self.tools.poller.number();
        self.tools.poller.add(entering.channel(), Token::Entering(token)).map_err(|error| {
            let what = format!("cannot watch exec {number}");
            io_failure(FailureKind::Internal, what, &error.into())
        })?;
        let pid = entering.pid().ok_or_else(|| wrong_state("an exec without a process"))?;
        let waiting = Waiting { entering, token, peer, request: id, terminal: request.terminal };
        let exec = Exec { waiting: Some(waiting), ..Exec::running(number, pid, container, None) };
        self.execs.insert(exec);
        Ok(())
    }

    /// A process on its way has something to say; once it runs or has failed, who asked is told.
    pub(crate) fn advance_exec(&mut self, token: u64) {
        let Some(exec) = self.execs.by_token(token) else { return };
        let number = exec.number;
        let Some(waiting) = exec.waiting.take() else { return };
        let Waiting { entering, peer, request, terminal, .. } = waiting;
        self.tools.poller.remove(entering.channel());
        let done = match runtime::advance(entering) {
            Ok(Way::OnItsWay(entering)) => {
                let watched = self.tools.poller.add(entering.channel(), Token::Entering(token));
                if let Err(error) = watched {
                    let why = std::io::Error::from(error);
                    self.note(format_args!("exec {number} is not watched any more"), &why);
                }
                if let Some(exec) = self.execs.get_mut(number) {
                    exec.waiting = Some(Waiting { entering, token, peer, request, terminal });
                }
                return;
            }
            Ok(Way::Runs(launched)) => started(number, launched, terminal),
            Err(failure) => {
                // Reaped already.
                self.execs.forget(number);
                Err(failure)
            }
        };
        let answer = done.unwrap_or_else(|failure| (Response::Failed(failure), None));
        failpoint::pass(Point::ShimExecAnswer);
        self.peers.reply(peer, request, answer, &self.tools.poller);
    }

    /// Before a child that has ended is reaped: if it is one that was on its way, what it said comes
    /// first, and it may be reaped with that.
    pub(crate) fn hear_last_words(&mut self, pid: Pid) {
        if let Some(token) = self.execs.on_its_way(pid) {
            self.advance_exec(token);
        }
    }
}

fn started(number: u64, mut launched: Launched, terminal: bool) -> Done {
    let console = if terminal {
        let console = launched.take_console().map_err(|error| {
            io_failure(FailureKind::Internal, format!("exec {number} has no terminal"), &error)
        });
        Some(console.inspect_err(|_| {
            // Its end is told like any other's.
            sys::pidfd::kill(launched.pidfd.as_fd()).ok();
        })?)
    } else {
        None
    };
    let pid = launched.pid.as_raw_nonzero().get();
    let started = Started { pid, started_at: clock::now(), warnings: launched.warnings };
    Ok((Response::Started(started), console))
}

/// Three files, or none and a terminal.
pub(crate) fn exec_stdio(
    number: u64,
    terminal: bool,
    files: Vec<OwnedFd>,
) -> Result<Stdio, Failure> {
    let count = files.len();
    match (terminal, <[OwnedFd; 3]>::try_from(files)) {
        (false, Ok([stdin, stdout, stderr])) => Ok(Stdio::Files { stdin, stdout, stderr }),
        (true, Err(none)) if none.is_empty() => Ok(Stdio::Terminal),
        (terminal, _) => {
            let want = if terminal { "none" } else { "three" };
            Err(bad_request(format!("exec {number} came with {count} files, not {want}")))
        }
    }
}
