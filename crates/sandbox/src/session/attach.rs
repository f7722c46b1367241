//! Attach: a client at the standard files of a running container.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use model::ContainerId;
use shim_protocol::{AttachEnd, Body, StartAttach};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Session, Streams, pipe};
use crate::error::{AttachError, ContainerError, chain};
use crate::exec::next_number;
use crate::link::{Ended, LinkError, ShimLink, end_of};
use crate::manager::{Sandboxes, ask, not_found};
use crate::pod::Request;

/// Why an attach is over.
#[derive(Debug)]
pub enum AttachEnding {
    /// The container ended, and all its output has been handed over.
    ContainerEnded,
    /// The client, or whoever is between, left too much output unread.
    TooSlow,
    /// The client left, or closed its input to a terminal.
    Detached,
    /// The shim is gone, and the container with it.
    ShimGone(LinkError),
}

/// The hold on an attached client: dropping it detaches. The container goes on; its stdin ends only
/// if it was made to (`stdin_once`) and this client fed it.
pub struct AttachHold {
    link: Arc<ShimLink>,
    container: ContainerId,
    attach: u64,
    ended: Ended<AttachEnd>,
    /// When the daemon ends its clients did not leave: nothing is told.
    draining: CancellationToken,
    tasks: TaskTracker,
    runtime: tokio::runtime::Handle,
    /// It never came to be.
    void: bool,
}

impl std::fmt::Debug for AttachHold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AttachHold").field("attach", &self.attach).finish_non_exhaustive()
    }
}

impl Sandboxes {
    /// CRI `Attach`, once a client is there: output from now on. Only what the container has is given.
    /// Cancel-safe: a client that has left is detached.
    ///
    /// # Errors
    /// [`AttachError`]; nothing is left then.
    pub async fn attach(
        &self,
        id: &str,
        streams: Streams,
    ) -> Result<Session<AttachHold>, AttachError> {
        let view = self.running_container(id, "attach to")?;
        let (container, config) = (view.record.id.clone(), &view.record.config);
        let wanted = Streams {
            stdin: streams.stdin && config.stdin,
            stderr: streams.stderr && !config.tty,
            ..streams
        };
        if !(wanted.stdin || wanted.stdout || wanted.stderr) {
            return Err(AttachError::NoStream { container });
        }
        let (container, queue) =
            self.container(container.as_str()).map_err(ContainerError::from)?;
        let link = ask(&queue, |reply| Request::Attach(container.clone(), reply))
            .await
            .unwrap_or_else(|| Err(not_found(&container).into()))?;
        let attach = next_number();
        let mut hold = AttachHold {
            ended: link.watch_attach(attach),
            link,
            container: container.clone(),
            attach,
            draining: self.draining.clone(),
            tasks: self.tasks.clone(),
            runtime: tokio::runtime::Handle::current(),
            void: false,
        };
        let files = Files::new(wanted)
            .map_err(|source| AttachError::Pipe { container: container.clone(), source })?;
        let body = Body::Attach(StartAttach {
            attach,
            container: container.to_string(),
            stdin: wanted.stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
        });
        let Files { theirs, stdin, stdout, stderr } = files;
        if let Err(source) = hold.link.call(body, theirs).await {
            hold.void = source.is_final();
            return Err(AttachError::Shim { container, source });
        }
        Ok(Session { stdin, stdout, stderr, hold })
    }
}

/// Both ends of a client's streams.
struct Files {
    theirs: Vec<OwnedFd>,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Files {
    fn new(wanted: Streams) -> io::Result<Self> {
        let mut files = Self { theirs: Vec::new(), stdin: None, stdout: None, stderr: None };
        if wanted.stdin {
            let (read, write) = pipe()?;
            files.theirs.push(read);
            files.stdin = Some(write);
        }
        for (wanted, ours) in
            [(wanted.stdout, &mut files.stdout), (wanted.stderr, &mut files.stderr)]
        {
            if wanted {
                let (read, write) = pipe()?;
                files.theirs.push(write);
                *ours = Some(read);
            }
        }
        Ok(files)
    }
}

impl AttachHold {
    /// Sets the size of the container's terminal.
    ///
    /// # Errors
    /// [`LinkError`]; it has none, say.
    pub async fn resize(&self, columns: u16, rows: u16) -> Result<(), LinkError> {
        let container = self.container.to_string();
        self.link.call_done(Body::Resize { container, columns, rows }).await
    }

    /// The client will send nothing more, and its [`Session::stdin`] is closed. What that
    /// means to the container is in its configuration.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn close_stdin(&self) -> Result<(), LinkError> {
        self.link.call_done(Body::CloseStdin { attach: self.attach }).await
    }

    /// Waits for the end. Can be asked again.
    pub async fn wait(&self) -> AttachEnding {
        match end_of(&mut self.ended.clone()).await {
            Some(AttachEnd::ContainerEnded) => AttachEnding::ContainerEnded,
            Some(AttachEnd::TooSlow) => AttachEnding::TooSlow,
            Some(AttachEnd::Detached) => AttachEnding::Detached,
            None => AttachEnding::ShimGone(self.link.gone()),
        }
    }
}

impl Drop for AttachHold {
    fn drop(&mut self) {
        self.link.unwatch_attach(self.attach);
        let is_over = self.ended.borrow().is_some();
        if self.void || is_over || self.draining.is_cancelled() {
            return;
        }
        let (link, container, attach) =
            (Arc::clone(&self.link), self.container.clone(), self.attach);
        let detach = async move {
            match link.call_done(Body::Detach { attach }).await {
                // Gone: nothing is attached to it any more.
                Ok(()) | Err(LinkError::Gone { .. }) => {}
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(%container, error, "a client is not detached");
                }
            }
        };
        self.tasks.spawn_on(detach, &self.runtime);
    }
}
