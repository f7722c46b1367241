//! What tests and the demo need around a real knarr: Debian packages, images made on the spot,
//! registries, scratch daemons, a CRI client, and a search for everything a daemon left behind.
//!
//! Never here: anything a shipped program uses. Everything runs against the real kernel with real
//! files; nothing is simulated except a registry's misbehaviour.
//!
//! Main types: [`images::ImageBuilder`], [`registry::DebianRegistry`], [`registry::LocalRegistry`],
//! [`scratch::Scratch`], [`daemon::Daemon`], [`leaks::Leaks`], and with feature `cri`:
//! [`cri::Cri`], [`pods::PodBuilder`], [`node::Node`].
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr, reason = "a test says why it is skipped and shows the log")]

pub mod account;
pub mod daemon;
pub mod deadline;
pub mod files;
pub mod fuse;
pub mod http;
pub mod images;
pub mod installed;
pub mod leaks;
pub mod noise;
pub mod own_disk;
pub mod packages;
pub mod power;
pub mod proc;
pub mod registry;
pub mod scratch;
pub mod small_disk;
pub mod usage;

#[cfg(feature = "cri")]
pub mod agreement;
#[cfg(feature = "cri")]
pub mod bench;
#[cfg(feature = "cri")]
pub mod containerd;
#[cfg(feature = "cri")]
pub mod cri;
#[cfg(feature = "cri")]
pub mod handlers;
#[cfg(feature = "cri")]
pub mod matrix;
#[cfg(feature = "cri")]
pub mod node;
#[cfg(feature = "cri")]
pub mod oci;
#[cfg(feature = "cri")]
pub mod pods;

/// Says that a test is skipped, and why. Past the test harness, which would keep it to itself.
pub fn skip(why: &str) {
    use std::io::Write;
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    writeln!(std::io::stderr(), "{name}: skipped: {why}").ok();
}
