//! The places of builds that have none.

use std::io;
use std::path::Path;

use crate::{Point, SpecError};

/// Refuses: somebody relies on what this build does not do.
///
/// # Errors
/// Always.
pub fn arm(spec: &str) -> Result<(), SpecError> {
    let what = "this build has no failpoints: unset the variable";
    Err(SpecError { part: spec.to_owned(), what })
}

/// Nothing to obey.
///
/// # Errors
/// Never.
#[inline(always)]
pub const fn arm_shim(_pod_state: &Path) -> Result<(), SpecError> {
    Ok(())
}

/// The daemon's places by name: none.
pub const fn list() -> String {
    String::new()
}

/// The shim's places by name: none.
pub const fn list_shim() -> String {
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
