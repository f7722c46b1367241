//! Named places in the daemon's and the shims' work where a test can make the process die, or the
//! step fail that comes next there.
//!
//! Only builds with the feature `armed` have them; in all others [`reach`] and [`pass`] are
//! nothing. What happens where is told by the daemon's environment:
//!
//! ```text
//! KNARR_FAILPOINTS=pod.run.attach=kill
//! KNARR_FAILPOINTS=cni.add.cache=error*1,container.exit.record=error
//! KNARR_FAILPOINTS=list
//! ```
//!
//! `kill` ends the process by SIGKILL, as a crash would; `error` makes the step fail, and `full` as
//! on a file system without room: each time or as often as `*N` says, from the first time on that
//! it is reached or the one that `@N` says. `list` makes the program print all places and end.
//! Shims, whose environment is empty, are told by the file `failpoints` in the daemon's directory
//! of volatile state. Whatever is done is said on standard error.
//!
//! Never here: what a step is, or how its failure is told.
#![forbid(unsafe_code)]

#[cfg(feature = "armed")]
mod armed;
#[cfg(not(feature = "armed"))]
mod off;
mod points;

#[cfg(feature = "armed")]
pub use armed::{arm, arm_shim, list, list_shim, pass, reach};
#[cfg(not(feature = "armed"))]
pub use off::{arm, arm_shim, list, list_shim, pass, reach};
pub use points::Point;

/// The variable that says what happens where.
pub const VARIABLE: &str = "KNARR_FAILPOINTS";

/// Why the variable cannot be obeyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// The part that is wrong.
    part: String,
    /// What is wrong with it.
    what: &'static str,
}

impl std::fmt::Display for SpecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{VARIABLE}: `{}`: {}", self.part, self.what)
    }
}

impl std::error::Error for SpecError {}
