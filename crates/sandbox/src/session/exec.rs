//! Exec: a command inside a running container, its streams in the caller's hands.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use launch::plan::{EnvEntry, ExecPlan};
use model::ContainerId;
use rustix::fs::{Mode, OFlags};
use rustix::termios::Winsize;
use shim_protocol::{Body, Exit, FailureKind, StartExec};
use tokio_util::task::TaskTracker;

use super::{Session, Streams, pipe};
use crate::error::{ContainerError, ExecError};
use crate::exec::{kill, next_number};
use crate::link::{Ended, LinkError, ShimLink, end_of};
use crate::manager::Sandboxes;
use crate::targets::ExecTarget;

/// How long a command nobody listens to any more may take to end by itself after SIGHUP.
const HANG_UP_WITHIN: Duration = Duration::from_secs(1);

/// The hold on a command: dropping it while the command runs sends SIGHUP to the command and its
/// descendants, and SIGKILL to what is left of them a second later or when the command ends.
pub struct ExecHold {
    link: Arc<ShimLink>,
    container: ContainerId,
    exec: u64,
    exited: Ended<Exit>,
    terminal: Option<OwnedFd>,
    tasks: TaskTracker,
    runtime: tokio::runtime::Handle,
    /// It never started.
    void: bool,
}

impl std::fmt::Debug for ExecHold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecHold").field("exec", &self.exec).finish_non_exhaustive()
    }
}

impl Sandboxes {
    /// CRI `Exec`, once a client is there. Cancel-safe: a command that was started for nobody is
    /// ended.
    ///
    /// # Errors
    /// [`ExecError`]; nothing is left then.
    pub async fn exec(
        &self,
        id: &str,
        command: Vec<String>,
        streams: Streams,
    ) -> Result<Session<ExecHold>, ExecError> {
        let (container, queue) = self.container(id).map_err(ContainerError::from)?;
        let Some(first) = command.first().cloned() else {
            return Err(ExecError::EmptyCommand { container });
        };
        let target = self.exec_target(&container, &queue).await?;
        let exec = next_number();
        let hold = ExecHold {
            exited: target.link.watch_exec(exec),
            link: Arc::clone(&target.link),
            container: container.clone(),
            exec,
            terminal: None,
            tasks: self.tasks.clone(),
            runtime: tokio::runtime::Handle::current(),
            void: false,
        };
        let body = Body::Exec(Box::new(StartExec {
            exec,
            container: container.to_string(),
            process: target.process_for(&command, streams.tty),
            plan: plan(&target, command, streams.tty).encode(),
            terminal: streams.tty,
        }));
        let started = if streams.tty {
            with_terminal(body, streams, hold).await
        } else {
            let files = Files::new(streams)
                .map_err(|source| ExecError::Pipe { container: container.clone(), source })?;
            with_pipes(body, files, hold).await
        };
        started.map_err(|source| ExecError::Shim { container, command: first, source })
    }
}

fn plan(target: &ExecTarget, command: Vec<String>, tty: bool) -> ExecPlan {
    let mut plan = ExecPlan::clone(&target.plan);
    plan.process.args = command;
    let has_term = plan.process.env.iter().any(|EnvEntry(entry)| entry.starts_with(b"TERM="));
    if tty && !has_term {
        // As a container with a terminal has it; this one may have none itself.
        plan.process.env.push(EnvEntry(b"TERM=xterm".to_vec()));
    }
    plan
}

/// Both ends of a command's streams. What is not wanted is `/dev/null`.
struct Files {
    theirs: Vec<OwnedFd>,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Files {
    fn new(streams: Streams) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let null = rustix::fs::open("/dev/null", flags, Mode::empty())?;
        let (stdin_theirs, stdin) = if streams.stdin {
            let (read, write) = pipe()?;
            (read, Some(write))
        } else {
            (null.try_clone()?, None)
        };
        let output = |wanted: bool| -> io::Result<(OwnedFd, Option<OwnedFd>)> {
            if !wanted {
                return Ok((null.try_clone()?, None));
            }
            let (read, write) = pipe()?;
            Ok((write, Some(read)))
        };
        let (stdout_theirs, stdout) = output(streams.stdout)?;
        let (stderr_theirs, stderr) = output(streams.stderr)?;
        let theirs = vec![stdin_theirs, stdout_theirs, stderr_theirs];
        Ok(Self { theirs, stdin, stdout, stderr })
    }
}

async fn with_pipes(
    body: Body,
    files: Files,
    mut hold: ExecHold,
) -> Result<Session<ExecHold>, LinkError> {
    let Files { theirs, stdin, stdout, stderr } = files;
    let started = hold.link.call(body, theirs).await;
    hold.settle(started)?;
    Ok(Session { stdin, stdout, stderr, hold })
}

async fn with_terminal(
    body: Body,
    streams: Streams,
    mut hold: ExecHold,
) -> Result<Session<ExecHold>, LinkError> {
    let started = hold.link.call_for_files(body, Vec::new()).await;
    let (_started, mut files) = hold.settle(started)?;
    let copies = files.pop().and_then(|master| {
        let stdin = streams.stdin.then(|| master.try_clone()).transpose().ok()?;
        // Also for a caller who does not want it: somebody must read, or the command would soon wait.
        let stdout = master.try_clone().ok()?;
        Some((stdin, stdout, master))
    });
    // Without its terminal the command is of no use: dropping the hold ends it.
    let (stdin, stdout, master) = copies.ok_or_else(|| hold.link.confused())?;
    hold.terminal = Some(master);
    Ok(Session { stdin, stdout: Some(stdout), stderr: None, hold })
}

impl ExecHold {
    /// After an answer that says that nothing runs there is nothing to hold.
    fn settle<T>(&mut self, started: Result<T, LinkError>) -> Result<T, LinkError> {
        self.void = started.as_ref().is_err_and(LinkError::is_final);
        started
    }

    /// Sets the size of its terminal, if it has one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        let Some(terminal) = &self.terminal else { return Ok(()) };
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(terminal, size)?)
    }

    /// Waits for the command's end. Can be asked again.
    ///
    /// # Errors
    /// Its shim is gone: what became of it is not known.
    pub async fn wait(&self) -> Result<Exit, LinkError> {
        end_of(&mut self.exited.clone()).await.ok_or_else(|| self.link.gone())
    }
}

impl Drop for ExecHold {
    fn drop(&mut self) {
        if self.void || self.exited.borrow().is_some() {
            self.link.unwatch_exec(self.exec);
            return;
        }
        let (link, exec) = (Arc::clone(&self.link), self.exec);
        let (container, exited) = (self.container.clone(), self.exited.clone());
        self.tasks.spawn_on(hang_up(link, container, exec, exited), &self.runtime);
    }
}

/// SIGHUP, and SIGKILL for what is still there a moment later.
async fn hang_up(link: Arc<ShimLink>, container: ContainerId, exec: u64, mut exited: Ended<Exit>) {
    match link.call_done(Body::HangUpExec { exec }).await {
        Ok(()) => {
            let ended = end_of(&mut exited);
            if tokio::time::timeout(HANG_UP_WITHIN, ended).await.is_ok() {
                return link.unwatch_exec(exec);
            }
        }
        // It ended by itself in this moment.
        Err(LinkError::Failed(failure)) if failure.kind == FailureKind::NotFound => {
            return link.unwatch_exec(exec);
        }
        Err(LinkError::TooOld { .. }) => {}
        Err(error) => {
            let error = crate::error::chain(&error);
            tracing::warn!(%container, error, "abandoned command not hung up");
        }
    }
    kill(&link, &container, exec).await;
}
