//! Build, test and demonstrate knarr.
//!
//! `cargo xtask build|test|demo|vm|bench|order|fuzz|generate`. CI calls `test` and nothing else.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks")]

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

mod bench;
mod demo;
mod dist;
mod elf;
mod fuzz;
mod generate;
mod handlers;
mod order;
mod steps;
mod test;
mod vm;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, test and demonstrate knarr")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build `knarr`, the static `knarr-shim` and the static `knarr-oci` side by side into `target/dist/`.
    Build,
    /// Run every check and every test, installing what they need. CI runs this and nothing else. With
    /// `--handler`, run just the tests of pods, under other OCI runtimes.
    Test(handlers::Options),
    /// Run a pod of two containers the way a user would, with nothing but the `knarr` command.
    Demo,
    /// Run knarr on cgroup v2, with AppArmor, without and with systemd, in virtual machines.
    #[command(alias = "vm-test")]
    Vm(vm::Request),
    /// Measure, alone or against another runtime.
    Bench(bench::Options),
    /// Watch a daemon at work and remake the list of functions that `build` has put together.
    Order(order::Options),
    /// Give the readers of hostile input anything at all, and see that they bear it.
    Fuzz(fuzz::Options),
    /// Regenerate the committed protobuf code from the .proto file.
    Generate {
        /// Fail when the committed code differs instead of writing it.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> Result<()> {
    if let Some(list) = std::env::var_os(order::link::VARIABLE) {
        return order::link::run(&list);
    }
    let args = Args::parse();
    let root = workspace_root()?;
    match args.task {
        Task::Build => dist::run(&root),
        Task::Test(options) => test::run(&root, &options),
        Task::Demo => demo::run(&root),
        Task::Vm(request) => vm::run(&root, &request),
        Task::Bench(options) => bench::run(&root, &options),
        Task::Order(options) => order::run(&root, &options),
        Task::Fuzz(options) => fuzz::run(&root, &options),
        Task::Generate { check } => generate::run(&root, check),
    }
}

/// The directory of the workspace: xtask's own manifest lies one level below it.
fn workspace_root() -> Result<PathBuf> {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    Ok(manifest.parent().context("xtask lies in a workspace")?.to_path_buf())
}
