//! `ExecSync`: a command inside a running container, its output captured.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use launch::plan::ExecPlan;
use model::ContainerId;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use shim_protocol::{Body, Exit, FailureKind, StartExec};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use crate::context::now;
use crate::error::{ContainerError, ExecError};
use crate::link::{Ended, LinkError, ShimLink, end_of};
use crate::manager::{Sandboxes, ask, not_found};
use crate::pod::Request;
use crate::targets::ExecTarget;

/// CRI: what is kept of each stream; the rest is read and dropped.
const CAPTURE_BYTES: usize = 16 << 20;

/// What a command printed and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output, at most 16 MiB.
    pub stdout: Vec<u8>,
    /// Standard error, at most 16 MiB.
    pub stderr: Vec<u8>,
    /// Exit code, or 128 plus the signal.
    pub exit_code: i32,
}

impl Sandboxes {
    /// CRI `ExecSync`. `timeout` of `None` waits without limit. When the limit is reached, or
    /// this future is dropped, the command and its descendants are killed.
    ///
    /// # Errors
    /// [`ExecError`]; a command that ran and failed is not an error.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, ExecError> {
        let (container, queue) = self.container(id).map_err(ContainerError::from)?;
        let Some(first) = command.first().cloned() else {
            return Err(ExecError::EmptyCommand { container });
        };
        let target = self.exec_target(&container, &queue).await?;
        let session = Session {
            container,
            command: first,
            tasks: self.tasks.clone(),
            target,
            drain: self.cx.parts.exec_drain,
        };
        session.run(command, timeout).await
    }

    /// The owner is asked once per container.
    pub(crate) async fn exec_target(
        &self,
        container: &ContainerId,
        queue: &mpsc::Sender<Request>,
    ) -> Result<ExecTarget, ContainerError> {
        if let Some(target) = self.cx.exec_targets.get(container) {
            return Ok(target);
        }
        ask(queue, |reply| Request::Exec(container.clone(), reply))
            .await
            .unwrap_or_else(|| Err(not_found(container).into()))
    }
}

struct Session {
    container: ContainerId,
    command: String,
    tasks: tokio_util::task::TaskTracker,
    target: ExecTarget,
    drain: Duration,
}

impl Session {
    async fn run(
        self,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, ExecError> {
        let pipe = |source| ExecError::Pipe { container: self.container.clone(), source };
        let uid = self.target.plan.process.host_uid();
        let (stdout, stdout_end) = output_pipe(uid).map_err(pipe)?;
        let (stderr, stderr_end) = output_pipe(uid).map_err(pipe)?;
        let stdin = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| pipe(errno.into()))?;
        let exec = next_number();
        let exited = self.target.link.watch_exec(exec);
        let mut guard = KillOnDrop { session: &self, exec, armed: true };
        let process = self.target.process_for(&command, false);
        let plan = {
            let mut plan = ExecPlan::clone(&self.target.plan);
            plan.process.args = command;
            plan.encode()
        };
        let body = Body::Exec(Box::new(StartExec {
            exec,
            container: self.container.to_string(),
            plan,
            terminal: false,
            process,
        }));
        let files = vec![stdin, stdout_end, stderr_end];
        let over = async {
            match timeout {
                Some(timeout) => {
                    tokio::time::sleep(timeout).await;
                    timeout
                }
                None => std::future::pending().await,
            }
        };
        tokio::pin!(over);
        // A file system that does not answer may keep it from starting.
        let started = tokio::select! {
            started = self.target.link.call(body, files) => Some(started),
            _limit = &mut over => None,
        };
        let output = match started {
            Some(Ok(_started)) => self.collect(stdout, stderr, exited, over).await,
            Some(Err(source)) => {
                if source.is_final() {
                    guard.armed = false;
                    self.target.link.unwatch_exec(exec);
                }
                return Err(self.shim_error(source));
            }
            None => Err(self.timed_out(timeout.unwrap_or_default())),
        };
        guard.armed = false;
        if matches!(output, Err(ExecError::TimedOut { .. })) {
            // Answer only when nothing of it is left.
            kill(&self.target.link, &self.container, exec).await;
        }
        output
    }

    async fn collect(
        &self,
        mut stdout: pipe::Receiver,
        mut stderr: pipe::Receiver,
        mut exited: Ended<Exit>,
        mut over: Pin<&mut impl Future<Output = Duration>>,
    ) -> Result<ExecOutput, ExecError> {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = {
            let reading = async {
                tokio::join!(capture(&mut stdout, &mut out), capture(&mut stderr, &mut err))
            };
            tokio::pin!(reading);
            let mut drained = false;
            let exit = loop {
                tokio::select! {
                    exit = end_of(&mut exited) => break exit.ok_or_else(|| {
                        self.shim_error(self.target.link.gone())
                    })?,
                    _both = &mut reading, if !drained => drained = true,
                    limit = &mut over => return Err(self.timed_out(limit)),
                }
            };
            if !drained && tokio::time::timeout(self.drain, &mut reading).await.is_err() {
                tracing::debug!(
                    container = %self.container, command = self.command,
                    "a descendant keeps the output open: answering with what was read"
                );
            }
            exit
        };
        Ok(ExecOutput { stdout: out, stderr: err, exit_code: exit.code })
    }

    fn shim_error(&self, source: LinkError) -> ExecError {
        ExecError::Shim { container: self.container.clone(), command: self.command.clone(), source }
    }

    fn timed_out(&self, limit: Duration) -> ExecError {
        ExecError::TimedOut {
            container: self.container.clone(),
            command: self.command.clone(),
            seconds: limit.as_secs(),
        }
    }
}

/// Kills a command whose caller has left or whose time is over.
struct KillOnDrop<'s> {
    session: &'s Session,
    exec: u64,
    armed: bool,
}

impl Drop for KillOnDrop<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let link = Arc::clone(&self.session.target.link);
        let (exec, container) = (self.exec, self.session.container.clone());
        self.session.tasks.spawn(async move { kill(&link, &container, exec).await });
    }
}

/// Kills an exec'd process and its descendants, whatever they have.
pub(crate) async fn kill(link: &ShimLink, container: &ContainerId, exec: u64) {
    link.unwatch_exec(exec);
    match link.call_done(Body::KillExec { exec }).await {
        Ok(()) => {}
        // It ended by itself in this moment.
        Err(LinkError::Failed(failure)) if failure.kind == FailureKind::NotFound => {}
        Err(error) => {
            let error = crate::error::chain(&error);
            tracing::warn!(%container, error, "abandoned command not killed");
        }
    }
}

/// Names an exec or attach: unique for the life of a shim, also across daemons, because it is
/// counted from the daemon's start time.
pub(crate) fn next_number() -> u64 {
    static NEXT: LazyLock<AtomicU64> =
        LazyLock::new(|| AtomicU64::new(u64::try_from(now().0).unwrap_or(1)));
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The writing end belongs to the command's user, who may open `/dev/stdout` anew.
fn output_pipe(uid: u32) -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fchown(&write, Some(rustix::fs::Uid::from_raw(uid)), None)?;
    Ok((pipe::Receiver::from_owned_fd(read)?, write))
}

/// Reads to the end, keeping the first [`CAPTURE_BYTES`].
async fn capture(from: &mut pipe::Receiver, into: &mut Vec<u8>) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => return,
            Ok(count) => {
                let room = CAPTURE_BYTES.saturating_sub(into.len()).min(count);
                into.extend_from_slice(buffer.get(..room).unwrap_or_default());
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read a command's output");
                return;
            }
        }
    }
}
