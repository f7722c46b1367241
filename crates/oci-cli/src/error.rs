//! What can go wrong. Several texts are looked for by callers (containerd, CRI-O): "container does not
//! exist", "container not running", "already exists".

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use launch::LaunchError;
use oci_runtime::PlanError;

use crate::container::Status;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OciError {
    /// No such container.
    #[error("container does not exist: {id}")]
    NotFound { id: String },
    /// The id is taken.
    #[error("container with given ID already exists: {id}")]
    Exists { id: String },
    /// No id at all.
    #[error("invalid container ID format: `{id}`: want letters, digits and `_+-.`, at most 1024")]
    BadId { id: String },
    /// The state forbids the verb.
    #[error("cannot {verb} container {id} that is {status}")]
    WrongStatus { verb: &'static str, id: String, status: Status },
    /// Its first process is gone.
    #[error("container not running: {id}")]
    NotRunning { id: String },
    /// Not deleted without force.
    #[error("cannot delete container {id} that is not stopped: {status}")]
    NotStopped { id: String, status: Status },
    /// Not without being told to.
    #[error("cannot exec in a paused container (use --ignore-paused to override): {id}")]
    Paused { id: String },
    /// A file could not be worked with.
    #[error("cannot {action} {}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    /// A system call that is about no file.
    #[error("cannot {action}")]
    System { action: &'static str, source: io::Error },
    /// A file that does not hold what it should.
    #[error("{} is not {what}", path.display())]
    NotJson { path: PathBuf, what: &'static str, source: serde_json::Error },
    /// A record of another version of this program.
    #[error("{} is of format {found}, this version reads {known}", path.display())]
    Format { path: PathBuf, found: u32, known: u32 },
    /// A specification of another time.
    #[error("ociVersion `{version}` of {} is not supported: want 1.x", path.display())]
    SpecVersion { path: PathBuf, version: String },
    /// No root file system.
    #[error("root file system {} is not a directory", path.display())]
    NoRootfs { path: PathBuf },
    /// Paths in messages and specifications are text.
    #[error("{} is not UTF-8", path.display())]
    NotText { path: PathBuf },
    /// The bundle asks for what cannot be had.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The kernel refuses something.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The host has no cgroups to speak of.
    #[error(transparent)]
    Cgroups(#[from] sys::cgroup::DetectError),
    /// Somebody else's processes.
    #[error("container's cgroup is not empty: {path} has processes already, want one without")]
    CgroupTaken { path: String },
    /// Nothing would ever run there.
    #[error("container's cgroup unexpectedly frozen: {path}")]
    CgroupFrozen { path: String },
    /// A place below a container's cgroup that is none.
    #[error("bad sub cgroup path `{path}`: want one below the container's, without `..`")]
    BadSubCgroup { path: String },
    /// No hierarchy has it.
    #[error("unknown controller {name} in --cgroup: this host has none of that name")]
    UnknownController { name: String },
    /// A terminal that would be nobody's.
    #[error("a terminal needs --console-socket when the runtime does not stay")]
    NoConsoleSocket,
    /// A socket for nothing.
    #[error("--console-socket without a terminal: process.terminal is false")]
    NoTerminal,
    /// An option's value.
    #[error("{option}: `{value}` is not {want}")]
    BadOption { option: &'static str, value: String, want: &'static str },
    /// An option that is not served.
    #[error("{option} is not supported by this runtime")]
    Unsupported { option: &'static str },
    /// Nobody to ask for a scope.
    #[error("--systemd-cgroup cannot be served: {why}")]
    NoSystemd { why: &'static str },
    /// systemd does not do what it was asked.
    #[error(transparent)]
    Systemd(#[from] systemd::SystemdError),
    /// A file that was to be handed on.
    #[error("--preserve-fds {count}: file {missing} is not open")]
    NotOpen { count: u32, missing: u32 },
    /// An ordinary user cannot do without.
    #[error(
        "an ordinary user needs a user namespace: linux.namespaces names none (see spec --rootless)"
    )]
    NoUserNamespace,
    /// The kernel, or newuidmap, says no.
    #[error(
        "cannot enter the container's user namespace: are the ids in /etc/subuid and /etc/subgid?"
    )]
    UserNamespace { source: io::Error },
    /// This program can be written to by containers.
    #[error("cannot run from a read-only mount, as containers might write to this program")]
    OwnProgram { source: io::Error },
    /// The container's process is not waiting any more.
    #[error("container {id} does not wait to be started: it has ended")]
    NotWaiting { id: String, source: io::Error },
    /// SIGKILL was not enough.
    #[error("process {pid} of container {id} outlives SIGKILL")]
    Undead { id: String, pid: i32 },
    /// It is left behind.
    #[error("{} of the steps to delete container {id} failed", failed.len())]
    Teardown { id: String, failed: Vec<String>, source: Box<OciError> },
    /// A program of the host's that did not do its work.
    #[error("{program} ended with {how}")]
    Program { program: &'static str, how: String },
}

/// An error and its causes as one sentence. What the kernel says is in small letters and without its
/// number: so callers look for it ("no such file or directory", "permission denied").
pub(crate) fn told(error: &(dyn Error + 'static)) -> String {
    let text = model::chain(error);
    let kernels = std::iter::successors(Some(error), |&error| error.source())
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .filter_map(|cause| Some((cause.to_string(), cause.raw_os_error()?)));
    kernels.fold(text, |text, (long, number)| {
        let short = long.strip_suffix(&format!(" (os error {number})")).unwrap_or(&long);
        text.replace(&long, &small(short))
    })
}

/// Without the first letter's size, unless it begins a word of capitals.
fn small(text: &str) -> String {
    let mut letters = text.chars();
    match (letters.next(), letters.clone().next()) {
        (Some(first), Some(second)) if !second.is_uppercase() => {
            format!("{}{}", first.to_lowercase(), letters.as_str())
        }
        (Some(_), Some(_)) | (Some(_) | None, None) | (None, Some(_)) => text.to_owned(),
    }
}

/// Adds what was done to which file.
pub(crate) trait At<T> {
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T, OciError>;
    fn step(self, action: &'static str) -> Result<T, OciError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T, OciError> {
        self.map_err(|error| OciError::File {
            action,
            path: path.as_ref().to_owned(),
            source: error.into(),
        })
    }

    fn step(self, action: &'static str) -> Result<T, OciError> {
        self.map_err(|error| OciError::System { action, source: error.into() })
    }
}

/// A path as text.
pub(crate) fn text(path: &Path) -> Result<&str, OciError> {
    path.to_str().ok_or_else(|| OciError::NotText { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_told_as_callers_look_for_it() {
        let source = io::Error::from(rustix::io::Errno::NOENT);
        let error = OciError::File { action: "read", path: "/a".into(), source };
        assert_eq!(told(&error), "cannot read /a: no such file or directory");
        let error = OciError::BadSubCgroup { path: "Os".into() };
        assert_eq!(told(&error), model::chain(&error));
    }
}
