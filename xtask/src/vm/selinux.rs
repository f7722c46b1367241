//! SELinux for the machine: a policy of a page, in place of a distribution's, which would be made
//! for that distribution's files.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::tree::Tree;
use crate::steps::execute;

/// Of the security modules that exclude each other, Debian's kernel takes AppArmor unless told.
pub(super) const KERNEL_ARGS: &str = "security=selinux enforcing=1";

/// Categories there are; knarr tells pods apart by pairs of them.
const CATEGORIES: u16 = 1024;

/// The newest format that the kernel and `secilc` both know.
const FORMAT: &str = "33";

/// Compiles the policy; the first process loads it if the kernel was started with SELinux.
pub(super) fn policy(tree: &Tree, work: &Path) -> Result<()> {
    let (source, categories) = (work.join("policy.cil"), work.join("categories.cil"));
    write(&source, include_str!("guest/policy.cil"))?;
    write(&categories, &all_categories()?)?;
    let compiled = tree.at("vm/selinux-policy");
    fs::create_dir_all(tree.at("vm")).context("vm")?;
    let mut compiler = Command::new("secilc");
    compiler.args(["--mls", "true", "--policyvers", FORMAT, "--filecontext", "/dev/null"]);
    execute(compiler.arg("--output").arg(&compiled).arg(&source).arg(&categories))
}

fn all_categories() -> Result<String> {
    let mut text = String::new();
    let names: Vec<String> = (0..CATEGORIES).map(|number| format!("c{number}")).collect();
    for name in &names {
        writeln!(text, "(category {name})")?;
    }
    writeln!(text, "(categoryorder ({}))", names.join(" "))?;
    Ok(text)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}
