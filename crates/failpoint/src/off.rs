//! The places of builds that have none.

use std::io;

use crate::{Point, SpecError};

/// Refuses: somebody relies on what this build does not do.
///
/// # Errors
/// Always.
pub fn arm(spec: &str) -> Result<(), SpecError> {
    let what = "this build has no failpoints: unset the variable";
    Err(SpecError { part: spec.to_owned(), what })
}

/// Every place by name: none.
pub const fn list() -> String {
    String::new()
}

/// A step that can fail comes next.
///
/// # Errors
/// Never.
#[inline(always)]
pub const fn reach(_point: Point) -> io::Result<()> {
    Ok(())
}

/// A step comes next whose failure nobody could be told.
#[inline(always)]
pub const fn pass(_point: Point) {}
