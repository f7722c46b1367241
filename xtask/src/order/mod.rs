//! `cargo xtask order`: has a daemon at work watched, and remakes the list of what it runs. With that list
//! the linker puts together what is used together (docs/adr/0021).

#[cfg(target_arch = "x86_64")]
mod drive;
pub(crate) mod link;
pub(crate) mod list;
#[cfg(target_arch = "x86_64")]
mod trace;

#[cfg(target_arch = "x86_64")]
pub(crate) use drive::{Options, run};

/// Nothing to choose.
#[cfg(not(target_arch = "x86_64"))]
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {}

/// Breakpoints are the processor's.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn run(_root: &std::path::Path, _options: &Options) -> anyhow::Result<()> {
    anyhow::bail!("functions are watched on x86-64 alone; the list is the same for all machines")
}
