//! Starting a pod's shim.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use failpoint::Point;
use rustix::fs::{Mode, OFlags};

use crate::files::{self, FileError};
use crate::link::socket_address;

/// Why a shim could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// Its socket could not be made.
    #[error(transparent)]
    Socket(#[from] FileError),
    /// Its program could not be run.
    #[error("cannot run the shim {}", shim.display())]
    Exec {
        /// The program.
        shim: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Starts the shim with an already listening socket, so that the daemon can connect at once
/// instead of waiting for it. Blocks for the length of a `posix_spawn`.
///
/// It runs from a read-only mount of its own: a container that gets hold of the shim's
/// `/proc/<pid>/exe` cannot write through it to the program every pod of the node is started with.
pub(crate) fn spawn(shim: &Path, state_dir: &Path) -> Result<Child, SpawnError> {
    let _span = sys::trace::span("daemon: spawn the shim");
    files::reach(Point::PodSocket, "bind a socket in", state_dir)?;
    let listener = listen(state_dir)?;
    let failed = |source| SpawnError::Exec { shim: shim.to_owned(), source };
    failpoint::reach(Point::PodSpawn).map_err(failed)?;
    let program = sys::mount::read_only_file(shim).map_err(failed)?;
    Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .arg0(crate::shims::NAME)
        .arg(state_dir)
        .env_clear()
        .envs(sys::trace::to_environment())
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)
}

fn listen(state_dir: &Path) -> Result<UnixListener, FileError> {
    let socket = state_dir.join("shim.sock");
    let dir = rustix::fs::open(state_dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| FileError::at("open", state_dir)(errno.into()))?;
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(FileError::at("remove", &socket)(error));
        }
        _absent_or_removed => {}
    }
    UnixListener::bind(socket_address(dir.as_fd())).map_err(FileError::at("bind", &socket))
}
