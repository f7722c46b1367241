//! Running a process inside a container of another runtime: `exec --detach`.

use std::os::fd::AsFd;
use std::time::Instant;

use launch::ToolIo;
use model::ContainerId;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;
use shim_protocol::{Event, Failure, FailureKind, Response, RuntimeKind, StartExec, Started};

use super::birth::Console;
use super::job::{Job, Step};
use super::unwanted::Waiters;
use super::{External, Outputs};
use crate::clock;
use crate::exec::{Exec, exec_stdio};
use crate::exit::exit_of;
use crate::failure::{bad_request, io_failure, wrong_state};
use crate::peers::PeerNumber;
use crate::requests::Done;
use crate::stdio::Stdio;
use crate::supervisor::Supervisor;

const SIGKILL: i32 = 9;
const SIGSTOP: i32 = 19;

/// A process on its way into a container.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) external: External,
    /// The daemon's number for it.
    pub(super) number: u64,
    container: ContainerId,
    console: Option<Console>,
    /// Who waits for its end: it is not wanted any more.
    pub(super) unwanted_by: Waiters,
}

impl Entry {
    pub(super) fn file(&self, what: &str) -> String {
        format!("{what}.{}", self.number)
    }
}

impl Supervisor {
    /// Begins an exec; answered once it runs or cannot.
    pub(crate) fn exec_external(
        &mut self,
        asked: (PeerNumber, u64),
        request: &StartExec,
        external: External,
        files: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let number = request.exec;
        if self.jobs.entry(number).is_some() {
            return Err(wrong_state(format!("exec {number} runs already")));
        }
        let Some(process) = &request.process else {
            return Err(bad_request(format!("exec {number} came without its process")));
        };
        let stdio = exec_stdio(number, request.terminal, files)?;
        let container = external.id.clone();
        let unwanted_by = Waiters::new();
        let mut entry = Entry { external, number, container, console: None, unwanted_by };
        let begun = self.begin_exec(&mut entry, process, &stdio);
        match begun {
            Ok((child, outputs)) => {
                self.jobs.push(Job::new(child, outputs, asked, Step::Exec(Box::new(entry))));
                Ok(())
            }
            Err(error) => {
                self.clean_after(&entry);
                Err(entry.external.cannot_run("exec", &error))
            }
        }
    }

    fn begin_exec(
        &self,
        entry: &mut Entry,
        process: &[u8],
        stdio: &Stdio,
    ) -> std::io::Result<(sys::process::Child, Outputs)> {
        let (runtime, external) = (&self.parts.runtime, &entry.external);
        let [words_file, pid_file, inside_file] =
            ["process", "pid", "inside"].map(|what| external.file(&entry.file(what)));
        runtime.on_host(|| write_privately(&words_file, process))?;
        let mut words = vec!["--detach", "--process", &words_file, "--pid-file", &pid_file];
        match external.program.kind {
            RuntimeKind::Processes => {}
            RuntimeKind::Sandbox => words.extend(["--internal-pid-file", &inside_file]),
        }
        let console = match stdio {
            Stdio::Files { .. } => None,
            Stdio::Terminal => Some(Console::listen(self, external, &entry.file("console"))?),
        };
        let console_name = console.as_ref().map(Console::name);
        if let Some(name) = &console_name {
            words.extend(["--console-socket", name]);
        }
        words.push(external.id.as_str());
        let log = external.file(&entry.file("log"));
        let outputs = Outputs::new(runtime, &self.parts.null, log)?;
        let tool = external.tool(&outputs.log, "exec", &words);
        let io = match stdio {
            Stdio::Files { stdin, stdout, stderr } => ToolIo {
                stdin: stdin.as_fd(),
                stdout: stdout.as_fd(),
                stderr: stderr.as_fd(),
                ..outputs.io()
            },
            Stdio::Terminal => outputs.io(),
        };
        let child = runtime.spawn_tool(tool, io, None)?;
        entry.console = console;
        Ok((child, outputs))
    }

    /// `exec` has ended.
    pub(super) fn entered(
        &mut self,
        mut entry: Entry,
        asked: (PeerNumber, u64),
        outcome: Result<(), Failure>,
    ) {
        let (peer, request) = asked;
        let done = outcome.and_then(|()| self.take_on_exec(&entry));
        let answer = done.unwrap_or_else(|failure| (Response::Failed(failure), None));
        self.peers.reply(peer, request, answer, &self.tools.poller);
        match self.execs.get(entry.number).map(|exec| exec.pid) {
            Some(pid) => self.settle_entered(&mut entry, pid),
            None => self.end_unnamed(&mut entry),
        }
        self.clean_after(&entry);
    }

    /// It runs; it may have ended since, or be wanted no more.
    fn settle_entered(&mut self, entry: &mut Entry, pid: Pid) {
        let waiters = std::mem::take(&mut entry.unwanted_by);
        let ended = if let Some(status) = self.jobs.take_stranger(pid) {
            self.execs.take_by_pid(pid);
            let event =
                Event::ExecExited { exec: entry.number, exit: exit_of(status, clock::now()) };
            self.peers.broadcast(&event, &self.tools.poller);
            Ok(())
        } else if waiters.is_empty() {
            Ok(())
        } else {
            self.kill_exec(entry.number).map(drop)
        };
        self.told_to(waiters, &ended);
    }

    fn take_on_exec(&mut self, entry: &Entry) -> Done {
        let external = &entry.external;
        let pid = self.read_pid(external, &entry.file("pid"))?;
        let inside = match external.program.kind {
            RuntimeKind::Processes => None,
            RuntimeKind::Sandbox => {
                let pid = self.read_pid_inside(external, &entry.file("inside"))?;
                Some(pid)
            }
        };
        let console = entry.console.as_ref().map(|console| console.take(self)).transpose();
        let exec = Exec::running(entry.number, pid, entry.container.clone(), inside);
        self.execs.insert(exec);
        let console = console.map_err(|error| {
            self.kill_entered(entry.number);
            let what = format!("exec {} has no terminal", entry.number);
            io_failure(FailureKind::Internal, what, &error)
        })?;
        let pid = pid.as_raw_nonzero().get();
        let started = Started { pid, started_at: clock::now(), warnings: Vec::new() };
        Ok((Response::Started(started), console))
    }

    pub(super) fn read_pid_inside(&self, external: &External, name: &str) -> Result<i32, Failure> {
        let path = external.file(name);
        let read = self.parts.runtime.on_host(|| std::fs::read_to_string(&path));
        let pid = read.and_then(|text| {
            text.trim().parse().map_err(|_| std::io::ErrorKind::InvalidData.into())
        });
        pid.map_err(|error| {
            let what = format!("{} has named no process in {path}", external.program.path);
            io_failure(FailureKind::Internal, what, &error)
        })
    }

    /// Nobody is there any more to be told that it cannot be ended.
    fn kill_entered(&mut self, number: u64) {
        if let Err(failure) = self.kill_exec(number) {
            self.tools.journal.say(format_args!("exec {number}: {}", failure.message));
        }
    }

    fn clean_after(&self, entry: &Entry) {
        if let Some(console) = &entry.console {
            console.remove(self);
        }
        for what in ["process", "pid", "inside"] {
            let path = entry.external.file(&entry.file(what));
            // What is left goes with the container's directory.
            self.parts.runtime.on_host(|| std::fs::remove_file(&path)).ok();
        }
    }

    /// Sends a signal to an exec'd process by its runtime, where that is how. Whether it was.
    pub(crate) fn signal_inside(&mut self, number: u64, signal: i32) -> Result<bool, Failure> {
        let Some(exec) = self.execs.get(number) else { return Ok(false) };
        let (pid, inside) = (exec.pid, exec.inside);
        let container = self.containers.get(exec.container.as_str());
        let external = container.and_then(|container| container.keeper.of_signals()).cloned();
        let (Some(external), Some(inside)) = (external, inside) else { return Ok(false) };
        // Held before it can be reaped.
        let stand_in = sys::pidfd::open(pid);
        // For all of it together: the pod's other affairs wait meanwhile.
        let until = Instant::now() + super::PATIENCE;
        self.signal_family_inside(&external, signal, inside, until)?;
        if signal == SIGKILL {
            // The process that stands for it goes by itself; it must not outlive the answer.
            let left = until.saturating_duration_since(Instant::now());
            let ended = stand_in.and_then(|it| sys::pidfd::wait_ended(it.as_fd(), left));
            // An error is that there is none any more.
            if !ended.unwrap_or(true) {
                let path = &external.program.path;
                let message = format!("exec {number} does not end, killed by {path} kill");
                return Err(Failure { kind: FailureKind::Internal, message, errno: None });
            }
        }
        Ok(true)
    }
}

/// A family that grows faster than it is ended is left at that.
const ROUNDS: u32 = 5;

impl Supervisor {
    /// Sends a signal to a process inside and those that descend from it. Who is to be killed is stopped first:
    /// then it makes no more of them. `until` bounds the whole, however many they are.
    pub(super) fn signal_family_inside(
        &mut self,
        external: &External,
        signal: i32,
        inside: i32,
        until: Instant,
    ) -> Result<(), Failure> {
        if signal == SIGKILL {
            self.signal_one_inside(external, SIGSTOP, inside, until)?;
            for _ in 0..ROUNDS {
                let family = self.descendants_inside(external, inside, until)?;
                if family.is_empty() {
                    break;
                }
                for one in family {
                    self.signal_one_inside(external, signal, one, until)?;
                }
            }
        } else {
            for one in self.descendants_inside(external, inside, until)? {
                self.signal_one_inside(external, signal, one, until)?;
            }
        }
        self.signal_one_inside(external, signal, inside, until)
    }
}

/// A process may have secrets in its environment.
fn write_privately(path: &str, bytes: &[u8]) -> std::io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    std::io::Write::write_all(&mut std::fs::File::from(file), bytes)
}
