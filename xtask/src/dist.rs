//! `cargo xtask build`: the two files a node needs, side by side in `target/dist/`, and the OCI runtime as
//! a file of its own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::elf;
use crate::order::link;
use crate::order::list::{self, List};
use crate::steps::{cargo, execute, output, step};

/// Where the finished programs lie.
pub(crate) fn dist_dir(root: &Path) -> PathBuf {
    root.join("target/dist")
}

/// Where programs lie that are to be measured: those of `KNARR_DIST`, or fresh ones.
pub(crate) fn given_or_built(root: &Path) -> Result<PathBuf> {
    if let Some(dist) = std::env::var_os("KNARR_DIST") {
        return Ok(dist.into());
    }
    run(root)?;
    Ok(dist_dir(root))
}

pub(crate) fn run(root: &Path) -> Result<()> {
    step("build knarr", || build_daemon(root))?;
    for name in STATIC {
        step(&format!("build {name} (static)"), || build_static(root, name))?;
    }
    for name in ["knarr"].into_iter().chain(STATIC) {
        let path = dist_dir(root).join(name);
        let size = fs::metadata(&path).with_context(|| path.display().to_string())?.len();
        println!("    target/dist/{name}: {} KiB", size / 1024);
    }
    Ok(())
}

/// Linked by us, so that its functions lie as the list says. Instances of one generic function have names of
/// their own in the newer mangling alone. The flags would rebuild everybody else's crates.
fn build_daemon(root: &Path) -> Result<()> {
    let (host, path) = (host_triple(root)?, list::path(root));
    let list = List::read(&path)?;
    let linker = std::env::current_exe().context("where we are")?;
    // Not a path, which would make the program another in each directory.
    let asks = format!("link-arg={}{:08x}", link::ASKS, list.fingerprint());
    let name = host.replace('-', "_").to_uppercase();
    execute(
        cargo(root)
            .env("RUSTFLAGS", "-C symbol-mangling-version=v0")
            .env(format!("CARGO_TARGET_{name}_LINKER"), linker)
            .env(link::VARIABLE, &path)
            .args(["rustc", "--release", "--package", "knarr", "--bin", "knarr"])
            .args(["--target", &host, "--target-dir", "target/daemon", "--", "-C", &asks]),
    )?;
    publish(root, &built_daemon(root, &host), "knarr")?;
    let symbols = daemon_with_symbols(root)?;
    let image = fs::read(&symbols).with_context(|| symbols.display().to_string())?;
    let functions = elf::functions(&image)?;
    let (_, found) = list.order(functions.iter().map(|function| function.name.as_str()));
    println!("    {found} of the {} functions of {} are there", list.len(), path.display());
    if list.is_stale(found) {
        println!(
            "    WARNING: too few: the daemon takes more memory than it should. `cargo xtask order`"
        );
    }
    Ok(())
}

fn built_daemon(root: &Path, host: &str) -> PathBuf {
    root.join("target/daemon").join(host).join("release/knarr")
}

/// The daemon that was linked last as it was linked first: with symbols, and in no order.
pub(crate) fn daemon_with_symbols(root: &Path) -> Result<PathBuf> {
    Ok(link::beside(&built_daemon(root, &host_triple(root)?), link::SYMBOLS))
}

/// Static and at a fixed address: no loader, no relocations. So the shim takes the least memory per pod,
/// and the OCI runtime, which starts twice for a container, the least time. They have a target directory of
/// their own because these flags would rebuild everybody else's crates.
const STATIC: [&str; 2] = ["knarr-shim", "knarr-oci"];

fn build_static(root: &Path, name: &str) -> Result<()> {
    let host = host_triple(root)?;
    execute(
        cargo(root)
            .env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static")
            .args(["build", "--profile", "shim", "--package", name])
            .args(["--target", &host, "--target-dir", "target/shim"]),
    )?;
    let built = root.join("target/shim").join(&host).join("shim").join(name);
    ensure!(!elf::needs_a_loader(&built)?, "{name} is not static: it asks for a loader");
    publish(root, &built, name)
}

/// The machine this is, in the compiler's words.
pub(crate) fn host_triple(root: &Path) -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let about = output(std::process::Command::new(rustc).arg("-vV").current_dir(root))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not name its host")?.to_owned())
}

/// Puts a program into `target/dist/` by rename: one that is running cannot be written to.
fn publish(root: &Path, built: &Path, name: &str) -> Result<()> {
    let dist = dist_dir(root);
    fs::create_dir_all(&dist).with_context(|| dist.display().to_string())?;
    let fresh = dist.join(format!(".{name}.new"));
    fs::copy(built, &fresh).with_context(|| built.display().to_string())?;
    fs::rename(&fresh, dist.join(name)).with_context(|| fresh.display().to_string())
}
