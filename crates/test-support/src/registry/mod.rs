//! Registries on loopback: Debian's, and one in this process that can misbehave.

mod debian;
mod local;

pub use debian::DebianRegistry;
pub use local::{Fault, LocalRegistry};
