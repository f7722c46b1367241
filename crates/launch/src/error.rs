//! What can go wrong, by step. A step is a number on the wire between child and parent and a phrase
//! for whoever reads the error.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use sys::pidfd::Ended;

/// What a failed launch means to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The plan contradicts itself or asks for something that does not exist.
    BadPlan,
    /// A cgroup could not be made, set or joined.
    Cgroup,
    /// A mount could not be made.
    Mount,
    /// The program could not be executed.
    CannotExec,
    /// Anything else.
    Internal,
}

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $kind:ident, $words:literal;)*) => {
        /// One step of a launch.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Step {
            $($(#[$doc])* $name = $number,)*
        }

        impl Step {
            /// What failing here means.
            pub fn kind(self) -> FailureKind {
                match self {
                    $(Self::$name => FailureKind::$kind,)*
                }
            }

            /// A phrase with `{}` where the subject goes.
            fn words(self) -> &'static str {
                match self {
                    $(Self::$name => $words,)*
                }
            }

            pub(crate) fn number(self) -> u8 {
                match self {
                    $(Self::$name => $number,)*
                }
            }

            pub(crate) fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

steps! {
    /// The plan cannot be executed by anyone.
    Plan = 0, BadPlan, "bad launch plan: {}";
    /// Making the private mount namespace.
    PrivateNamespace = 1, Internal, "leave the host's mount namespace: {}";
    /// Visiting the host's mount namespace.
    HostNamespace = 2, Internal, "enter the host's mount namespace{}";
    /// Making the channel to the child.
    Channel = 3, Internal, "talk to the new process{}";
    /// Making the process.
    Clone = 4, Internal, "create the process{}";
    /// The child ended without a word.
    ChildDied = 5, Internal, "the new process ended before it executed anything: {}";
    /// Making or opening a cgroup.
    CgroupMake = 6, Cgroup, "make cgroup {}";
    /// Writing a setting.
    CgroupSet = 7, Cgroup, "set cgroup {}";
    /// Moving into a cgroup.
    CgroupJoin = 8, Cgroup, "join cgroup {}";
    /// Loading or attaching the device filter.
    DeviceFilter = 9, Cgroup, "install the device filter on {}";
    /// Opening a namespace to join.
    NamespaceOpen = 10, Internal, "open namespace {}";
    /// Joining or making a namespace.
    Namespace = 11, Internal, "enter {} namespace";
    /// The root file system.
    Root = 12, Mount, "mount the root file system {}";
    /// The source of a bind mount.
    BindSource = 13, Mount, "bind mount {}";
    /// Finding or making where a mount goes.
    MountTarget = 14, Mount, "mount at {}";
    /// Making a file system.
    MountNew = 15, Mount, "mount {}";
    /// Filling a tmpfs.
    CopyUp = 16, Mount, "copy into {}";
    /// Attributes or propagation of a mount.
    MountAttributes = 17, Mount, "set the mount attributes of {}";
    /// A device node.
    Device = 18, Mount, "make device {}";
    /// Hiding a path.
    Mask = 19, Mount, "mask {}";
    /// Protecting a path.
    ReadOnly = 20, Mount, "make {} read-only";
    /// Changing the root.
    Pivot = 21, Mount, "change the root to {}";
    /// A kernel parameter.
    Sysctl = 22, Internal, "set kernel parameter {}";
    /// Host name.
    Hostname = 23, Internal, "set host name {}";
    /// OOM adjustment.
    OomScore = 24, Internal, "set oom_score_adj {}";
    /// Terminal.
    Terminal = 25, Internal, "open a terminal: {}";
    /// Standard streams.
    Stdio = 26, Internal, "set up {}";
    /// Session, signals, keyring.
    Session = 27, Internal, "start a session: {}";
    /// Resource limits.
    Rlimit = 28, Internal, "set resource limit {}";
    /// Working directory.
    Cwd = 29, CannotExec, "change to working directory {}";
    /// User and groups.
    User = 30, Internal, "become {}";
    /// Capabilities.
    Capabilities = 31, Internal, "set capabilities: {}";
    /// `no_new_privs`.
    NoNewPrivs = 32, Internal, "set no_new_privs{}";
    /// Seccomp.
    Seccomp = 33, Internal, "load the seccomp filter{}";
    /// AppArmor or SELinux.
    Label = 34, Internal, "enter {}";
    /// Looking for the program in `PATH`.
    NotInPath = 35, CannotExec, "exec: \"{}\": executable file not found in $PATH";
    /// Executing.
    Exec = 36, CannotExec, "exec {}";
    /// Closing what the program must not inherit.
    CloseFiles = 37, Internal, "close inherited files{}";
    /// Putting an image volume together.
    ImageVolume = 38, Mount, "mount an image volume at {}";
    /// Making or removing a class of service.
    ResctrlMake = 39, Cgroup, "make resctrl group {}";
    /// Saying what it is.
    ResctrlSet = 40, Cgroup, "set {}";
    /// Moving into it.
    ResctrlJoin = 41, Cgroup, "join resctrl group {}";
    /// A program of the plan's.
    Hook = 42, Internal, "error running {}";
    /// Making or entering a user namespace.
    UserNamespace = 43, Internal, "set up the user namespace{}";
    /// An id-mapped mount.
    MapIds = 44, Mount, "map the ids of {}";
    /// Scheduling, disk priority.
    Priority = 45, Internal, "set {}";
    /// Execution domain.
    Personality = 46, Internal, "set the personality {}";
    /// Giving a network device of the host to the container.
    NetDevice = 47, Internal, "move network device {}";
    /// Telling a seccomp agent.
    SeccompAgent = 48, Internal, "failed to connect with seccomp agent at {}";
    /// The child does not go on.
    Stuck = 49, Internal, "the new process waits for something that does not answer{}";
}

/// Why a launch failed. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub struct LaunchError {
    /// What was being done.
    pub step: Step,
    /// To what: a path, a name.
    pub subject: String,
    /// The kernel's answer; absent where the step says it all.
    #[source]
    pub cause: Option<io::Error>,
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.step.words();
        let (before, after) = words.split_once("{}").unwrap_or((words, ""));
        write!(f, "{before}{}{after}", self.subject)
    }
}

impl LaunchError {
    pub(crate) fn new(step: Step, subject: impl Into<String>, cause: io::Error) -> Self {
        Self { step, subject: subject.into(), cause: Some(cause) }
    }

    pub(crate) fn bad_plan(what: impl Into<String>) -> Self {
        Self { step: Step::Plan, subject: what.into(), cause: None }
    }

    /// A child has had its time.
    pub(crate) fn stuck() -> Self {
        Self { step: Step::Stuck, subject: String::new(), cause: None }
    }

    /// A child waits for hooks that there are not, or that have been run.
    pub(crate) fn no_hooks_due() -> Self {
        Self::bad_plan("no hooks are due")
    }

    /// A child ended without having said why; reaps it.
    pub(crate) fn child_died(child: Option<OwnedFd>) -> Self {
        let how = match child.map(|child| sys::pidfd::wait(child.as_fd())) {
            Some(Ok(Ended::Signaled(signal))) => format!("signal {signal}"),
            Some(Ok(Ended::Exited(status))) => format!("status {status}"),
            Some(Err(_)) | None => "unknown status".to_owned(),
        };
        Self { step: Step::ChildDied, subject: how, cause: None }
    }

    /// What it means.
    pub fn kind(&self) -> FailureKind {
        self.step.kind()
    }

    /// The kernel's error number, if there is one.
    pub fn errno(&self) -> Option<i32> {
        self.cause.as_ref().and_then(io::Error::raw_os_error)
    }

    /// The error and its cause as one sentence.
    pub fn sentence(&self) -> String {
        match &self.cause {
            Some(cause) => format!("{self}: {cause}"),
            None => self.to_string(),
        }
    }
}

/// Adds the step to a bare kernel error.
pub(crate) trait At<T> {
    fn at(self, step: Step, subject: &str) -> Result<T, LaunchError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, step: Step, subject: &str) -> Result<T, LaunchError> {
        self.map_err(|error| LaunchError::new(step, subject, error.into()))
    }
}

/// Something that was wanted and could not be applied, and was allowed not to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// What was wanted.
    pub what: String,
    /// Why it was not applied, and what is in force instead.
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;

    #[test]
    fn an_error_names_step_and_subject_and_leaves_the_cause_to_its_source() {
        let error = LaunchError::new(Step::MountNew, "/proc", io::Error::from_raw_os_error(1));
        assert_eq!(error.to_string(), "mount /proc");
        assert!(error.source().is_some());
        assert_eq!(error.sentence(), "mount /proc: Operation not permitted (os error 1)");
        assert_eq!((error.kind(), error.errno()), (FailureKind::Mount, Some(1)));
    }

    #[test]
    fn every_step_survives_the_wire() {
        let known = (0..=u8::MAX).filter_map(Step::from_number);
        for (number, step) in (0..).zip(known) {
            assert_eq!(step.number(), number);
        }
        assert_eq!(Step::from_number(255), None);
    }
}
