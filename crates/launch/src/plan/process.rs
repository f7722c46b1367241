//! Details of a process.

use minicbor::{Decode, Encode};

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct TerminalSize {
    /// Lines.
    #[n(0)]
    pub rows: u16,
    /// Characters of a line.
    #[n(1)]
    pub columns: u16,
}

/// How a process is scheduled (`sched_setattr(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub struct Scheduling {
    /// `SCHED_*`.
    #[n(0)]
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    #[n(1)]
    pub flags: u64,
    /// For the ordinary policies.
    #[n(2)]
    pub nice: i32,
    /// For the real-time policies.
    #[n(3)]
    pub priority: u32,
    /// Nanoseconds; this and the next two are for deadlines.
    #[n(4)]
    pub runtime: u64,
    /// Nanoseconds.
    #[n(5)]
    pub deadline: u64,
    /// Nanoseconds.
    #[n(6)]
    pub period: u64,
}

/// Numbers from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct NumberRange {
    /// The lowest.
    #[n(0)]
    pub first: u32,
    /// The highest.
    #[n(1)]
    pub last: u32,
}

/// `set_mempolicy(2)`
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct MemoryPolicy {
    /// `MPOL_*` with its flags.
    #[n(0)]
    pub mode: i32,
    /// Memory nodes.
    #[n(1)]
    pub nodes: Vec<NumberRange>,
}

/// Processors a process runs on; empty: where it may.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Affinity {
    /// Before it is in the container's cgroup.
    #[n(0)]
    pub initial: Vec<NumberRange>,
    /// From then on.
    #[n(1)]
    pub last: Vec<NumberRange>,
}

/// A seccomp agent: a socket of the host, and what it is sent with the listener (OCI: container
/// process state), but for what only the launcher knows. Both texts are JSON objects without their
/// closing brace.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ListenerPlan {
    /// Absolute path of a stream socket.
    #[n(0)]
    pub path: String,
    /// Without `pid` and `state`.
    #[n(1)]
    pub head: String,
    /// Without `status` and `pid`.
    #[n(2)]
    pub state: String,
}

/// A network device of the host.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct NetDevice {
    /// What it is called on the host.
    #[n(0)]
    pub name: String,
    /// What it is called in the container.
    #[n(1)]
    pub inside: String,
}
