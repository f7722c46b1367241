//! Containers of other OCI runtimes: made, started, entered and deleted by their command line.
//!
//! `create` and `start` are two commands, so that the first process is known, and its outputs are
//! read, before its program runs. A runtime leaves that process to the shim, its subreaper, and from
//! there on the container is like any other: signals, outputs, exits and cgroups are the kernel's
//! business and the shim's. Only where a container has no process of its own on the host (gVisor)
//! signals go by the runtime's `kill`, and its end is told by a `wait` that stands for it.
//!
//! Commands that take long (`create`, `start`, `exec`) are jobs: the loop goes on meanwhile.

mod birth;
mod exec;
mod job;
mod said;
mod strangers;
mod unwanted;

use std::io::Read;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use launch::{Tool, ToolIo};
use model::ContainerId;
use rustix::fd::OwnedFd;
use rustix::fs::MemfdFlags;
use shim_protocol::{Exit, Failure, FailureKind, RuntimeKind, RuntimeProgram};
use sys::pidfd::Ended;
use sys::process::Child;

pub(crate) use self::job::Jobs;
use crate::failure::io_failure;
use crate::runtime::Runtime;
use crate::supervisor::Supervisor;

/// How long `kill` and `delete` may take, for which the shim waits.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Where runtimes look for their helpers.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Who keeps a container.
#[derive(Debug)]
pub(crate) enum Keeper {
    /// The shim, which has launched it.
    Shim,
    /// Another runtime.
    Runtime(External),
}

impl Keeper {
    /// The runtime by which signals have to go.
    pub(crate) fn of_signals(&self) -> Option<&External> {
        match self {
            Self::Runtime(external) if external.program.kind == RuntimeKind::Sandbox => {
                Some(external)
            }
            Self::Runtime(_) | Self::Shim => None,
        }
    }
}

/// One container of another runtime.
#[derive(Debug, Clone)]
pub(crate) struct External {
    pub(super) id: ContainerId,
    pub(super) program: RuntimeProgram,
    /// Of the container alone; on the host.
    pub(super) scratch: String,
}

/// What a command writes: to its log, and to its standard files where those are not a container's.
#[derive(Debug)]
pub(crate) struct Outputs {
    null: OwnedFd,
    text: std::fs::File,
    complaint: std::fs::File,
    log: String,
}

impl Outputs {
    fn new(runtime: &Runtime, null: &OwnedFd, log: String) -> std::io::Result<Self> {
        let memory = |name| rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC);
        runtime.on_host(|| match std::fs::remove_file(&log) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        })?;
        let text = memory("runtime-output")?.into();
        let complaint = memory("runtime-complaint")?.into();
        Ok(Self { null: null.try_clone()?, text, complaint, log })
    }

    /// The command's own standard files.
    fn io(&self) -> ToolIo<'_> {
        ToolIo {
            stdin: self.null.as_fd(),
            stdout: self.text.as_fd(),
            stderr: self.text.as_fd(),
            complaint: self.complaint.as_fd(),
        }
    }

    /// Everything it has printed.
    pub(super) fn text(&mut self) -> String {
        whole(&mut self.text)
    }

    /// Something that it has printed elsewhere.
    fn add(&mut self, printed: &[u8]) {
        // Memory can be written.
        std::io::Write::write_all(&mut self.text, printed).ok();
    }

    /// Why it failed, in its own words.
    fn reason(&mut self, runtime: &Runtime) -> Option<String> {
        let complaint = whole(&mut self.complaint);
        if !complaint.is_empty() {
            return Some(complaint);
        }
        let log = runtime.on_host(|| std::fs::read(&self.log)).unwrap_or_default();
        said::reason(&String::from_utf8_lossy(&log), &self.text())
    }

    /// How the container ended for which this was the output of `wait`; `exit` is the command's own.
    /// One that tells nothing was ended with the sandbox.
    pub(crate) fn told_exit(&mut self, exit: &Exit) -> Exit {
        match said::number_of(&self.text(), "exitStatus") {
            Some(code) => Exit { code, signal: None, ..exit.clone() },
            None => Exit { code: 137, signal: Some(9), ..exit.clone() },
        }
    }

    /// Takes its log away.
    pub(crate) fn discard(&self, runtime: &Runtime) {
        // One that is left goes with the container's directory.
        runtime.on_host(|| std::fs::remove_file(&self.log)).ok();
    }
}

/// What was written to a file in memory, from its beginning.
fn whole(file: &mut std::fs::File) -> String {
    let mut bytes = Vec::new();
    // Memory can be read.
    std::io::Seek::rewind(file).and_then(|()| file.read_to_end(&mut bytes)).ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl External {
    /// The words of one command. Its log is a file of its own: commands may run side by side.
    pub(super) fn tool(&self, log: &str, verb: &str, words: &[&str]) -> Tool {
        let program = &self.program;
        let mut args = program.options.clone();
        let own = ["--root", &program.root, "--log", log, "--log-format", "json", verb];
        args.extend(own.iter().chain(words).map(|&word| word.to_owned()));
        let env = vec![PATH.to_owned()];
        Tool { path: program.path.clone(), args, env, oom_score_adj: None }
    }

    /// A file of the container's own directory.
    pub(super) fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.scratch)
    }

    fn outcome(
        &self,
        verb: &str,
        ended: Option<Ended>,
        outputs: &mut Outputs,
        runtime: &Runtime,
    ) -> Result<(), Failure> {
        let how = match ended {
            Some(Ended::Exited(0)) => return Ok(()),
            Some(Ended::Exited(status)) => format!("exit status {status}"),
            Some(Ended::Signaled(signal)) => format!("signal {signal}"),
            None => "it took too long and was killed".to_owned(),
        };
        let message = match outputs.reason(runtime) {
            Some(reason) => format!("{} {verb}: {reason}", self.program.path),
            None => format!("{} {verb} failed without a word: {how}", self.program.path),
        };
        Err(Failure { kind: FailureKind::Internal, message, errno: None })
    }

    pub(super) fn cannot_run(&self, verb: &str, error: &std::io::Error) -> Failure {
        let what = format!("cannot run {} {verb}", self.program.path);
        io_failure(FailureKind::Internal, what, error)
    }

    /// The command whose end is the container's.
    pub(super) fn wait(
        &self,
        runtime: &Runtime,
        null: &OwnedFd,
    ) -> Result<(Child, Outputs), Failure> {
        let cannot = |error| self.cannot_run("wait", &error);
        let outputs = Outputs::new(runtime, null, self.file("wait.log")).map_err(cannot)?;
        let tool = self.tool(&outputs.log, "wait", &[self.id.as_str()]);
        let child = runtime.spawn_tool(tool, outputs.io(), None).map_err(cannot)?;
        Ok((child, outputs))
    }
}

impl Supervisor {
    /// Sends a signal to the container's first process, or to all.
    ///
    /// # Errors
    /// In the runtime's own words; that it does not run any more is none.
    pub(crate) fn signal_external(
        &mut self,
        external: &External,
        signal: i32,
        all: bool,
    ) -> Result<(), Failure> {
        let number = signal.to_string();
        let mut words = vec!["--all", external.id.as_str(), &number];
        if !all {
            words.remove(0);
        }
        let until = Instant::now() + PATIENCE;
        ignoring_its_end(self.run_external(external, "kill", &words, until)).map(drop)
    }

    /// Sends a signal to a process that was run inside, by its number there.
    ///
    /// # Errors
    /// As [`Self::signal_external`].
    pub(super) fn signal_one_inside(
        &mut self,
        external: &External,
        signal: i32,
        inside: i32,
        until: Instant,
    ) -> Result<(), Failure> {
        let (number, pid) = (signal.to_string(), inside.to_string());
        let words = ["--pid", &pid, external.id.as_str(), &number];
        ignoring_its_end(self.run_external(external, "kill", &words, until)).map(drop)
    }

    /// The processes inside that descend from one, by their numbers there.
    ///
    /// # Errors
    /// As [`Self::signal_external`].
    pub(super) fn descendants_inside(
        &mut self,
        external: &External,
        of: i32,
        until: Instant,
    ) -> Result<Vec<i32>, Failure> {
        let listed = self.run_external(external, "ps", &[external.id.as_str()], until);
        let table = ignoring_its_end(listed)?;
        Ok(said::descendants(&said::parents(&table), of))
    }

    /// Has the runtime forget the container and give back what it holds for it, running or not.
    /// Can be repeated.
    ///
    /// # Errors
    /// In the runtime's own words, or the kernel's.
    pub(crate) fn delete_external(&mut self, external: &External) -> Result<(), Failure> {
        let scratch = &external.scratch;
        let there = self.parts.runtime.on_host(|| Ok(std::path::Path::new(scratch).exists()));
        if !there.unwrap_or(true) {
            return Ok(());
        }
        let until = Instant::now() + PATIENCE;
        self.run_external(external, "delete", &["--force", external.id.as_str()], until)?;
        self.parts.runtime.on_host(|| std::fs::remove_dir_all(scratch)).map_err(|error| {
            io_failure(FailureKind::Internal, format!("cannot remove {scratch}"), &error)
        })
    }
}

/// What has ended in this moment needs no signal, and has nothing to tell. Runtimes say so in words only.
fn ignoring_its_end(result: Result<String, Failure>) -> Result<String, Failure> {
    const GONE: [&str; 6] = [
        "not running",
        "no such process",
        "already finished",
        "not found",
        "does not exist",
        "container is stopped",
    ];
    match result {
        Err(failure) if GONE.iter().any(|words| failure.message.contains(words)) => {
            Ok(String::new())
        }
        other => other,
    }
}
