//! `cargo xtask test`: everything CI checks, in the order in which it is cheapest to fail.

use std::path::Path;

use anyhow::Result;
use test_support::packages;

use crate::steps::{cargo, execute, step};
use crate::{dist, fuzz, generate, handlers, vm};

/// Debian packages the build and the ring-2 tests use.
const PACKAGES: &[&str] = &[
    "buildah",
    "busybox-static",
    "ca-certificates",
    "containerd",
    "containernetworking-plugins",
    "crun",
    "docker-registry",
    "e2fsprogs",
    "g++",
    "gcc",
    "iptables",
    "iproute2",
    "libc6-dev",
    "libfaketime",
    "nftables",
    "nginx-light",
    "podman",
    "procps",
    "runc",
    "runsc",
    "strace",
    "uidmap",
    "umoci",
    "xfsprogs",
];

pub(crate) fn run(root: &Path, options: &handlers::Options) -> Result<()> {
    step("packages", || packages::ensure(PACKAGES))?;
    if !options.names.is_empty() {
        return handlers::run(root, options);
    }
    step("format", || execute(cargo(root).args(["fmt", "--all", "--check"])))?;
    step("generated code", || generate::run(root, true))?;
    step("clippy", || {
        let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
        execute(cargo(root).args(clippy))
    })?;
    step("dependencies", || deny(root))?;
    dist::run(root)?;
    let runtimes = handlers::runtimes::dirs(root, &[])?;
    step("tests", || {
        execute(
            cargo(root)
                .args(["test", "--workspace", "--no-fail-fast"])
                .env("KNARR_DIST", dist::dist_dir(root))
                .env("KNARR_RUNTIMES", &runtimes),
        )
    })?;
    vm::briefly(root, None)?;
    handlers::briefly(root)?;
    fuzz::briefly(root)?;
    println!("\nall is well");
    Ok(())
}

/// Licences, bans and sources by `deny.toml`.
fn deny(root: &Path) -> Result<()> {
    let tools = root.join("target/tools");
    let program = tools.join("bin/cargo-deny");
    if !program.exists() {
        execute(cargo(root).args(["install", "--locked", "cargo-deny", "--root"]).arg(&tools))?;
    }
    let check = ["--workspace", "check", "bans", "licenses", "sources"];
    execute(std::process::Command::new(program).current_dir(root).args(check))
}
