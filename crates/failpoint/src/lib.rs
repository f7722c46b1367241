//! Named places in the daemon's work where a test can make the daemon die, or the step fail that
//! comes next there.
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
//! `kill` ends the process by SIGKILL, as a crash would; `error` makes the step fail, each time or
//! as often as `*N` says; `list` makes the program print all places and end. Whatever is done is
//! said on standard error.
//!
//! Never here: what a step is, or how its failure is told.
#![forbid(unsafe_code)]

#[cfg(feature = "armed")]
mod armed;
#[cfg(not(feature = "armed"))]
mod off;
mod points;

#[cfg(feature = "armed")]
pub use armed::{arm, list, pass, reach};
#[cfg(not(feature = "armed"))]
pub use off::{arm, list, pass, reach};
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
