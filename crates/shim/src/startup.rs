//! From a freshly executed process to a supervisor: who it is, what it ignores, what it holds.

use std::io;
use std::path::{Path, PathBuf};

use failpoint::Point;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Signal, getpid};

use crate::exit::ExitRecords;
use crate::journal::Journal;
use crate::runtime::Runtime;
use crate::supervisor::{Parts, Supervisor};
use crate::tools::Tools;
use sys::supervise::{ChildEvents, Terminations, ignore_signal};

/// What the shim itself gets: the kernel should take containers before their supervisor.
const OOM_SCORE_ADJ: &str = "-998";

/// Why the shim could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Descriptor 0 is not what the daemon hands over.
    #[error("descriptor 0 is not a listening unix socket; the daemon starts shims, people do not")]
    NotAListener,
    /// The state directory cannot be used.
    #[error("cannot use the state directory {}", path.display())]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A step towards being a supervisor failed.
    #[error("cannot {step}")]
    Start {
        /// The step.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The private mount namespace could not be made.
    #[error("cannot enter a mount namespace of its own")]
    MountNamespace(#[source] launch::LaunchError),
    /// The event loop can no longer wait.
    #[error("cannot wait for events")]
    Loop(#[source] io::Error),
}

/// Runs the shim of the pod whose state directory this is, until it is told to shut down.
/// `build` is the version it gives in its hello. Call it before the process has a second thread.
///
/// # Errors
/// [`RunError`] when it cannot become a supervisor.
pub fn run(state_dir: &Path, build: &'static str) -> Result<(), RunError> {
    // Before the host's files are out of sight. Who asked for a trace will see that there is none.
    sys::trace::from_environment().ok();
    let beginning = sys::trace::span("shim: begin");
    let listener = take_listener()?;
    let journal = Journal::new(&pod_name(state_dir));
    let step = |step| move |source: io::Error| RunError::Start { step, source };
    // The sooner, the shorter it can be killed by one.
    let terminations = Terminations::watch().map_err(step("watch for SIGTERM"))?;
    failpoint::arm_shim(state_dir)
        .map_err(|error| step("obey its failpoints")(io::Error::other(error)))?;
    let null = take_standard_files().map_err(step("open /dev/null"))?;
    leave_session().map_err(step("start a session"))?;
    // Executed by descriptor, it would be called by that descriptor's number in process lists.
    rustix::thread::set_name(c"knarr-shim").map_err(|error| step("take its name")(error.into()))?;
    for signal in [Signal::HUP, Signal::INT, Signal::QUIT, Signal::PIPE] {
        ignore_signal(signal.as_raw()).map_err(step("ignore signals"))?;
    }
    rustix::process::set_child_subreaper(Some(getpid()))
        .map_err(|error| step("become a subreaper")(error.into()))?;
    // What runs in this process before a container's program is executed must not be looked
    // into or traced from inside the container.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| step("forbid being traced")(error.into()))?;
    let own_score = lower_oom_score(&journal);
    let exits = failpoint::reach(Point::ShimExits)
        .and_then(|()| ExitRecords::open(state_dir))
        .map_err(|source| RunError::StateDir { path: state_dir.to_owned(), source })?;
    let children = ChildEvents::watch().map_err(step("watch for children"))?;
    rustix::process::chdir("/").map_err(|error| step("leave its directory")(error.into()))?;
    // Containers without a mask of their own inherit this one.
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    let runtime = {
        let _span = sys::trace::span("shim: mount namespace of its own");
        Runtime::enter(own_score).map_err(RunError::MountNamespace)?
    };
    let tools = Tools::new(journal).map_err(|error| step("make an epoll set")(error.into()))?;
    let parts = Parts { listener, children, terminations, null, exits, runtime, build };
    let supervisor =
        Supervisor::new(parts, tools).map_err(|error| step("watch its socket")(error.into()))?;
    drop(beginning);
    failpoint::pass(Point::ShimServe);
    supervisor.run().map_err(RunError::Loop)
}

/// The listening socket, away from descriptor 0 and non-blocking: a client that gives up while
/// it waits to be accepted must not block the shim.
fn take_listener() -> Result<OwnedFd, RunError> {
    let stdin = rustix::stdio::stdin();
    if !rustix::net::sockopt::socket_acceptconn(stdin).unwrap_or(false) {
        return Err(RunError::NotAListener);
    }
    let failed = |error: Errno| RunError::Start { step: "take its socket", source: error.into() };
    let listener = rustix::io::fcntl_dupfd_cloexec(stdin, 3).map_err(failed)?;
    rustix::io::ioctl_fionbio(&listener, true).map_err(failed)?;
    Ok(listener)
}

/// Puts `/dev/null` in place of stdin and stdout; stderr stays, as the journal.
fn take_standard_files() -> io::Result<OwnedFd> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(null)
}

fn leave_session() -> io::Result<()> {
    match rustix::process::setsid() {
        // EPERM: it leads its process group already, so the daemon has done this.
        Ok(_) | Err(Errno::PERM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Lowers the shim's own OOM score adjustment and returns what it was before, for processes
/// whose plan names none.
fn lower_oom_score(journal: &Journal) -> Option<i32> {
    let path = "/proc/self/oom_score_adj";
    let before = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    if let Err(error) = std::fs::write(path, OOM_SCORE_ADJ) {
        journal.say(format_args!("the shim is not protected from the OOM killer: {error}"));
        return None;
    }
    before
}

/// What the journal calls the pod: the short form of the id its directory is named by.
fn pod_name(state_dir: &Path) -> String {
    let name = state_dir.file_name().unwrap_or_default().to_string_lossy();
    name.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_called_by_its_short_id() {
        let dir = format!("/run/knarr/pods/{}", "ab".repeat(32));
        assert_eq!(pod_name(Path::new(&dir)), "abababababab");
        assert_eq!(pod_name(Path::new("/")), "");
    }
}
