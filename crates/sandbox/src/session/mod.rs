//! Live connections to containers and pods: commands with streams, attached clients, connections
//! into a pod's network.
//!
//! A session hands out the daemon's ends of the streams and a hold; dropping the hold ends the
//! session. Nothing here copies bytes.

mod attach;
mod connect;
mod exec;

use std::io;
use std::os::fd::OwnedFd;

use rustix::pipe::PipeFlags;

use crate::admission;
use crate::error::ContainerError;
use crate::manager::Sandboxes;
use crate::view::ContainerView;

pub use attach::{AttachEnding, AttachHold};
pub use connect::ConnectError;
pub(crate) use connect::enter;
pub use exec::ExecHold;

/// Which streams of a process are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// To write to.
    pub stdin: bool,
    /// To read from; all output of a terminal.
    pub stdout: bool,
    /// To read from; not of a terminal.
    pub stderr: bool,
    /// An exec'd process gets a terminal; not looked at for attach.
    pub tty: bool,
}

/// A process's streams in the caller's hands: those that were wanted and that it has. A command's
/// terminal can always be read.
#[derive(Debug)]
pub struct Session<H> {
    /// To write to.
    pub stdin: Option<OwnedFd>,
    /// To read from.
    pub stdout: Option<OwnedFd>,
    /// To read from.
    pub stderr: Option<OwnedFd>,
    /// Dropping it ends the session.
    pub hold: H,
}

impl Sandboxes {
    /// The container, if a command can be run in it or a client attached now.
    ///
    /// # Errors
    /// [`ContainerError`]: it is unknown, or does not run.
    pub fn running_container(
        &self,
        id: &str,
        what: &'static str,
    ) -> Result<std::sync::Arc<ContainerView>, ContainerError> {
        let view = self.index().container(id)?;
        admission::use_running(&view.record.state).map_err(|source| ContainerError::Refused {
            what,
            container: view.record.id.clone(),
            source,
        })?;
        Ok(view)
    }
}

/// Read end, write end.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?)
}
