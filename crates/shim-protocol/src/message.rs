//! The messages. Container and sandbox ids travel as text and are validated by the receiver.

use minicbor::decode::Error;
use minicbor::{Decode, Decoder, Encode};

/// Daemon to shim.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Request {
    /// Chosen by the daemon; the reply carries it back.
    #[n(0)]
    pub id: u64,
    /// What is asked.
    #[n(1)]
    pub body: Body,
}

/// A request as a shim reads it: a daemon newer than the shim may ask for what it cannot do.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// One of this version.
    Known(Request),
    /// One of a later version.
    Unknown {
        /// Its id, for the answer.
        id: u64,
    },
}

#[derive(Decode)]
struct Head {
    #[n(0)]
    id: u64,
}

impl<'b, C> Decode<'b, C> for Asked {
    fn decode(d: &mut Decoder<'b>, context: &mut C) -> Result<Self, Error> {
        let start = d.position();
        match Request::decode(d, context) {
            Ok(request) => Ok(Self::Known(request)),
            Err(error) if error.is_unknown_variant() => {
                d.set_position(start);
                Ok(Self::Unknown { id: Head::decode(d, context)?.id })
            }
            Err(error) => Err(error),
        }
    }
}

/// What the daemon may ask.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Body {
    /// First message of every connection. Answer: [`Response::Hello`].
    #[n(0)]
    Hello(#[n(0)] Hello),
    /// Make the pod's namespaces; once per shim. Answer: [`Response::PodReady`], with one file
    /// attached when the pod has a network namespace of its own: that namespace.
    #[n(1)]
    SetupPod(#[n(0)] Box<PodSetup>),
    /// Launch a container. Answer: [`Response::Started`] once its program runs.
    #[n(2)]
    Start(#[n(0)] Box<StartContainer>),
    /// Signal a container. Answer: [`Response::Done`], also when it has already ended.
    #[n(3)]
    Kill {
        /// Container id.
        #[n(0)]
        container: String,
        /// Signal number.
        #[n(1)]
        signal: i32,
        /// Every process of the container instead of its first.
        #[n(2)]
        all: bool,
    },
    /// Run a process inside a container. Three files are attached (stdin, stdout, stderr), or
    /// none with `terminal`, when the answer carries the terminal's master instead.
    /// Answer: [`Response::Started`], later [`Event::ExecExited`].
    #[n(4)]
    Exec(#[n(0)] Box<StartExec>),
    /// SIGKILL an exec'd process and its descendants. Answer: [`Response::Done`].
    #[n(5)]
    KillExec {
        /// The exec's number.
        #[n(0)]
        exec: u64,
    },
    /// Close the container's log and open its path anew. Answer: [`Response::Done`].
    #[n(6)]
    ReopenLog {
        /// Container id.
        #[n(0)]
        container: String,
    },
    /// Ask for everything the shim holds. Answer: [`Response::State`].
    #[n(7)]
    State,
    /// Drop an ended container: its cgroup, its exit record. Answer: [`Response::Done`], also
    /// when it is unknown.
    #[n(8)]
    Forget {
        /// Container id.
        #[n(0)]
        container: String,
    },
    /// Kill everything, release the namespaces, end. Answer: [`Response::Done`] just before.
    #[n(9)]
    Shutdown,
    /// Give a client of the daemon's a running container's standard files. As many files are
    /// attached as are asked for: its stdin (read by the shim), then stdout and stderr (written by
    /// it). Answer: [`Response::Done`], later [`Event::AttachEnded`]. Version 2.
    #[n(10)]
    Attach(#[n(0)] StartAttach),
    /// The client has left. Answer: [`Response::Done`], also when it is unknown. Version 2.
    #[n(11)]
    Detach {
        /// The attach's number.
        #[n(0)]
        attach: u64,
    },
    /// The client will send nothing more: what its end of file means is decided here, once its
    /// pipe is read to the end. Answer: [`Response::Done`], also when it is unknown. Version 2.
    #[n(12)]
    CloseStdin {
        /// The attach's number.
        #[n(0)]
        attach: u64,
    },
    /// Set the size of a container's terminal. Answer: [`Response::Done`]. Version 2.
    #[n(13)]
    Resize {
        /// Container id.
        #[n(0)]
        container: String,
        /// Characters in a line.
        #[n(1)]
        columns: u16,
        /// Lines.
        #[n(2)]
        rows: u16,
    },
    /// SIGHUP an exec'd process and its descendants; when it ends, those it leaves behind are
    /// killed. Answer: [`Response::Done`]. Version 2.
    #[n(14)]
    HangUpExec {
        /// The exec's number.
        #[n(0)]
        exec: u64,
    },
    /// Have a container made and started by another OCI runtime. Answer: [`Response::Started`] once
    /// its program runs. Version 3.
    #[n(15)]
    StartExternal(#[n(0)] Box<StartExternal>),
}

impl Body {
    /// The first version of the protocol that has this request.
    pub fn since(&self) -> u32 {
        match self {
            Self::Hello(_)
            | Self::SetupPod(_)
            | Self::Start(_)
            | Self::Kill { .. }
            | Self::Exec(_)
            | Self::KillExec { .. }
            | Self::ReopenLog { .. }
            | Self::State
            | Self::Forget { .. }
            | Self::Shutdown => 1,
            Self::Attach(_)
            | Self::Detach { .. }
            | Self::CloseStdin { .. }
            | Self::Resize { .. }
            | Self::HangUpExec { .. } => 2,
            Self::StartExternal(_) => 3,
        }
    }
}

/// Opens a connection, both ways.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// Protocol version of the sender.
    #[n(0)]
    pub version: u32,
    /// Build version of the sender, for logs.
    #[n(1)]
    pub build: String,
    /// Process id of the sender.
    #[n(2)]
    pub pid: i32,
}

/// What the pod needs before its first container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct PodSetup {
    /// Sandbox id.
    #[n(0)]
    pub sandbox: String,
    /// Make a network namespace (otherwise the host's is used); `lo` is brought up in it.
    #[n(1)]
    pub new_net: bool,
    /// Make an IPC namespace.
    #[n(2)]
    pub new_ipc: bool,
    /// Make a UTS namespace.
    #[n(3)]
    pub new_uts: bool,
    /// Start the pause process as PID 1 of a PID namespace that the pod's containers share.
    #[n(4)]
    pub shared_pid: bool,
    /// Host name inside the UTS namespace.
    #[n(5)]
    pub hostname: Option<String>,
    /// Kernel parameters, written inside the new namespaces.
    #[n(6)]
    pub sysctls: Vec<Sysctl>,
    /// Host path to pin the network namespace at (`/run/netns/knarr-…`): made as an empty file
    /// and bind-mounted over.
    #[n(7)]
    pub netns_path: Option<String>,
    /// Mount a tmpfs of this many bytes at `shm_path` in the shim's own mount namespace, for
    /// the containers' `/dev/shm`.
    #[n(8)]
    pub shm_bytes: Option<u64>,
    /// Where: the path plans name as launcher-local source.
    #[n(9)]
    pub shm_path: Option<String>,
    /// Launch plan of the pause process, if `shared_pid`: its cgroup, seccomp filter and
    /// adjustment are used. Opaque here.
    #[cbor(n(10), with = "minicbor::bytes")]
    pub pause_plan: Option<Vec<u8>>,
    /// Make a user namespace with these maps; the others made here belong to it, and plans may
    /// name it as the pod's.
    #[n(11)]
    pub users: Option<model::IdMaps>,
    /// SELinux label of the files in the containers' `/dev/shm`.
    #[n(13)]
    pub shm_label: Option<String>,
}

/// One kernel parameter.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Sysctl {
    /// Dotted name.
    #[n(0)]
    pub name: String,
    /// Value.
    #[n(1)]
    pub value: String,
}

/// Launch one container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct StartContainer {
    /// Container id.
    #[n(0)]
    pub container: String,
    /// Encoded launch plan.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub plan: Vec<u8>,
    /// Absolute host path of the log; none: output is read and dropped.
    #[n(2)]
    pub log_path: Option<String>,
    /// Keep stdin open for attach; otherwise it is `/dev/null`.
    #[n(3)]
    pub stdin: bool,
    /// Close stdin when the first attach that feeds it ends.
    #[n(4)]
    pub stdin_once: bool,
    /// The container shares its PID namespace: when its first process ends, kill the rest.
    #[n(5)]
    pub kill_rest: bool,
    /// The container whose PID namespace the plan joins by the path `/proc/<pid>/ns/pid`. Refused
    /// unless it runs, as that process: numbers are used again.
    #[n(6)]
    pub pid_target: Option<String>,
    /// The signal that asks it to end; none: SIGTERM. Used when the shim itself is asked to.
    #[n(7)]
    pub stop_signal: Option<i32>,
}

/// Have one container made by another OCI runtime.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct StartExternal {
    /// As for a container the shim launches itself. Of the plan its root, its cgroups and what its
    /// standard files are is used; the rest is the runtime's, by the bundle's `config.json`.
    #[n(0)]
    pub start: StartContainer,
    /// The runtime.
    #[n(1)]
    pub runtime: RuntimeProgram,
    /// Absolute host path of the bundle.
    #[n(2)]
    pub bundle: String,
    /// What the bundle names besides the host's files.
    #[n(3)]
    pub places: Places,
}

/// Another OCI runtime.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct RuntimeProgram {
    /// Absolute host path of the program.
    #[n(0)]
    pub path: String,
    /// What it is like.
    #[n(1)]
    pub kind: RuntimeKind,
    /// Words before the verb, besides those for root and log.
    #[n(2)]
    pub options: Vec<String>,
    /// Where it keeps what it knows of its containers.
    #[n(3)]
    pub root: String,
}

/// What an OCI runtime is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(index_only)]
pub enum RuntimeKind {
    /// A container's first process is the host's: it is the shim's to signal and to reap.
    #[n(0)]
    #[default]
    Processes,
    /// As gVisor: containers are the sandbox's, and signals and ends go by the runtime's commands.
    #[n(1)]
    Sandbox,
}

/// Paths at which the host has nothing, and the bundle finds something all the same.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Places {
    /// The pod's state directory, which all the others are below.
    #[n(0)]
    pub dir: String,
    /// A directory for the container alone: for what passes between shim and runtime.
    #[n(1)]
    pub scratch: String,
    /// The root file system.
    #[n(2)]
    pub rootfs: String,
    /// The pod's PID namespace.
    #[n(3)]
    pub pod_pid: String,
    /// The pod's user namespace.
    #[n(4)]
    pub pod_user: String,
    /// Images mounted as volumes.
    #[n(5)]
    pub images: Vec<ImagePlace>,
}

/// An image that a bundle names by a path.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct ImagePlace {
    /// That path.
    #[n(0)]
    pub path: String,
    /// Its layers' directories on the host, topmost first.
    #[n(1)]
    pub lower: Vec<String>,
}

/// Run one process inside a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct StartExec {
    /// Unique for the life of the shim; chosen by the daemon.
    #[n(0)]
    pub exec: u64,
    /// Container id.
    #[n(1)]
    pub container: String,
    /// Encoded exec plan.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub plan: Vec<u8>,
    /// Give it a new terminal.
    #[n(3)]
    pub terminal: bool,
    /// For a container of another runtime: the process as that reads it (`process.json`). The plan
    /// is not looked at. Version 3.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub process: Option<Vec<u8>>,
}

/// Attach to one container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct StartAttach {
    /// Unique for the life of the shim; chosen by the daemon.
    #[n(0)]
    pub attach: u64,
    /// Container id.
    #[n(1)]
    pub container: String,
    /// The first file is read, and what comes goes to the container's stdin.
    #[n(2)]
    pub stdin: bool,
    /// The next file gets a copy of stdout, from now on. A terminal is one stream: this.
    #[n(3)]
    pub stdout: bool,
    /// The last file gets a copy of stderr, from now on.
    #[n(4)]
    pub stderr: bool,
}

/// Shim to daemon.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum FromShim {
    /// Answer to one request.
    #[n(0)]
    Reply {
        /// The request's id.
        #[n(0)]
        id: u64,
        /// The answer.
        #[n(1)]
        response: Response,
    },
    /// Something happened. Sent to every connection that has said hello; what happened while
    /// nobody was connected is in [`StateReport`].
    #[n(1)]
    Event(#[n(0)] Event),
}

/// Answers.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Response {
    /// To `Hello`.
    #[n(0)]
    Hello(#[n(0)] Hello),
    /// To `SetupPod`.
    #[n(1)]
    PodReady(#[n(0)] PodReady),
    /// To `Start` and `Exec`.
    #[n(2)]
    Started(#[n(0)] Started),
    /// To `State`.
    #[n(3)]
    State(#[n(0)] StateReport),
    /// To everything without data.
    #[n(4)]
    Done,
    /// The request failed and left nothing behind.
    #[n(5)]
    Failed(#[n(0)] Failure),
}

/// The pod's namespaces exist.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct PodReady {
    /// The pause process, as the host numbers it.
    #[n(0)]
    pub pause_pid: Option<i32>,
    /// What could not be applied and was allowed not to be.
    #[n(1)]
    pub warnings: Vec<Warning>,
}

/// A process runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Started {
    /// As the host numbers it.
    #[n(0)]
    pub pid: i32,
    /// When, nanoseconds since the epoch.
    #[n(1)]
    pub started_at: i64,
    /// What could not be applied and was allowed not to be.
    #[n(2)]
    pub warnings: Vec<Warning>,
}

/// Something that narrows what was applied, for the log.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Warning {
    /// What was wanted: a cgroup file and value, a limit.
    #[n(0)]
    pub what: String,
    /// Why it was not applied.
    #[n(1)]
    pub why: String,
}

/// Everything the shim holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct StateReport {
    /// `SetupPod` has succeeded.
    #[n(0)]
    pub ready: bool,
    /// The pause process, if it lives.
    #[n(1)]
    pub pause_pid: Option<i32>,
    /// Every container not yet forgotten.
    #[n(2)]
    pub containers: Vec<ContainerSnapshot>,
    /// Numbers of the exec'd processes that run: a daemon that starts anew must not choose them
    /// again, and may end what nobody waits for any more.
    #[n(3)]
    pub execs: Option<Vec<u64>>,
}

/// One container as the shim knows it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ContainerSnapshot {
    /// Container id.
    #[n(0)]
    pub container: String,
    /// When it started, nanoseconds since the epoch.
    #[n(1)]
    pub started_at: i64,
    /// Running or ended.
    #[n(2)]
    pub phase: Phase,
}

/// Running or ended.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Phase {
    /// Runs as this host pid.
    #[n(0)]
    Running(#[n(0)] i32),
    /// Ended; its log is complete.
    #[n(1)]
    Exited(#[n(0)] Exit),
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Exit {
    /// Exit code, or 128 plus the signal.
    #[n(0)]
    pub code: i32,
    /// The signal that ended it.
    #[n(1)]
    pub signal: Option<i32>,
    /// The kernel's OOM killer chose it.
    #[n(2)]
    pub oom_killed: bool,
    /// When, nanoseconds since the epoch.
    #[n(3)]
    pub finished_at: i64,
}

/// What the shim reports by itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Event {
    /// A container ended, its log is written, its exit recorded.
    #[n(0)]
    Exited {
        /// Container id.
        #[n(0)]
        container: String,
        /// How.
        #[n(1)]
        exit: Exit,
    },
    /// An exec'd process ended.
    #[n(1)]
    ExecExited {
        /// The exec's number.
        #[n(0)]
        exec: u64,
        /// How.
        #[n(1)]
        exit: Exit,
    },
    /// The pause process ended: the pod's PID namespace is gone.
    #[n(2)]
    PauseExited(#[n(0)] Exit),
    /// An attach is over: its files are closed. Sent only to the connection that asked for it.
    /// Version 2.
    #[n(3)]
    AttachEnded {
        /// The attach's number.
        #[n(0)]
        attach: u64,
        /// Why.
        #[n(1)]
        end: AttachEnd,
    },
}

/// Why an attach ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum AttachEnd {
    /// The container ended; all its output has been handed over.
    #[n(0)]
    ContainerEnded,
    /// The client left too much output unread and was given up, so that others need not wait.
    #[n(1)]
    TooSlow,
    /// The client left, or closed its input to a terminal.
    #[n(2)]
    Detached,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Failure {
    /// What the daemon should do about it.
    #[n(0)]
    pub kind: FailureKind,
    /// One sentence: step, path, cause.
    #[n(1)]
    pub message: String,
    /// The kernel's error, if it was one.
    #[n(2)]
    pub errno: Option<i32>,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum FailureKind {
    /// The shim could not do it.
    #[n(0)]
    Internal,
    /// The request makes no sense (bad plan, wrong order, unknown message).
    #[n(1)]
    BadRequest,
    /// No such container or exec.
    #[n(2)]
    NotFound,
    /// It exists already, or is not running.
    #[n(3)]
    WrongState,
    /// The program could not be executed (missing, not executable, wrong format).
    #[n(4)]
    CannotExec,
    /// A cgroup could not be made or set.
    #[n(5)]
    Cgroup,
    /// A mount could not be made.
    #[n(6)]
    Mount,
}
