//! The real shim, spoken to over its socket, with real containers from a busybox root.
//!
//! Needs root; every test removes what it made, also when it fails.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a helper of a test fails the test; a skipped test says why"
)]

mod attach;
mod client;
mod exec;
mod fixture;
mod launching;
mod lifecycle;
mod logs;
mod plans;
mod pods;
mod protocol;
mod stubborn;
