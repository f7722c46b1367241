//! Build, test and demonstrate knarr.
//!
//! `cargo xtask build|test|demo|generate`. CI calls `test` and nothing else.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

mod generate;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, test and demonstrate knarr")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Regenerate the committed protobuf code from the .proto file.
    Generate {
        /// Fail when the committed code differs instead of writing it.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> Result<()> {
    let args = Args::parse();
    let root = workspace_root()?;
    match args.task {
        Task::Generate { check } => generate::run(&root, check),
    }
}

/// The directory of the workspace: xtask's own manifest lies one level below it.
fn workspace_root() -> Result<PathBuf> {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    Ok(manifest.parent().context("xtask lies in a workspace")?.to_path_buf())
}
