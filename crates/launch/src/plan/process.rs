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
