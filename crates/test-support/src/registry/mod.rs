//! Registries on loopback: Debian's, and one in this process that can misbehave.

mod debian;
mod local;

pub use debian::{DebianRegistry, PASSWORD, USER};
pub use local::{Fault, LocalRegistry};
