//! `cargo xtask vm`: knarr on Debian's kernel in a virtual machine, for what the kernel below
//! cannot show: cgroup v2 with every controller, every capability, and AppArmor.
//!
//! No disk, no network, no KVM: everything the machine needs is in its initial memory disk, and it
//! says `VM PASS` or `VM FAIL` on its serial console.

mod machine;
mod tree;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use test_support::packages;

use crate::dist;
use crate::steps::step;

const PACKAGES: &[&str] = &[
    "binutils",
    "busybox-static",
    "cpio",
    "docker-registry",
    "e2fsprogs",
    "gzip",
    "iproute2",
    "kmod",
    "nftables",
    "qemu-system-x86",
];

/// What the machine can run by itself, in this order.
pub(crate) const PARTS: &[&str] = &["walk", "launch", "network", "node"];

/// Tests of the real daemon that `node` runs unless told otherwise: what the kernel below lacks.
const NODE_TESTS: &[&str] = &["apparmor::"];

/// What a machine is to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Request {
    /// Only these parts: `walk`, `launch`, `network`, `node`.
    #[arg(value_parser = PARTS.to_vec())]
    parts: Vec<String>,
    /// Run just the tests of `tests/tests/node` whose names contain this; can be given again.
    #[arg(long, value_name = "NAME")]
    tests: Vec<String>,
    /// A directory to find in the machine as `/with/<its name>`; can be given again.
    #[arg(long, value_name = "DIR")]
    with: Vec<PathBuf>,
    /// A shell command to run in the machine, instead of the parts.
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["parts", "tests"])]
    run: Option<String>,
    /// Take `knarr` and `knarr-shim` from here instead of building them for release.
    #[arg(long, value_name = "DIR")]
    dist: Option<PathBuf>,
    /// More words for the kernel's command line.
    #[arg(long, value_name = "WORDS", default_value = "")]
    kernel_args: String,
    /// The machine's memory, which holds its files too.
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory: u32,
    /// How long it may run. Without KVM a machine is some twenty times slower.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    time_limit: u64,
}

impl Request {
    /// What runs, in order.
    fn parts(&self) -> Vec<&str> {
        if self.run.is_some() {
            vec!["command"]
        } else if !self.parts.is_empty() {
            self.parts.iter().map(String::as_str).collect()
        } else if !self.tests.is_empty() {
            vec!["node"]
        } else {
            PARTS.to_vec()
        }
    }

    /// Names of node tests, or parts of them.
    fn node_tests(&self) -> Vec<&str> {
        if self.tests.is_empty() {
            NODE_TESTS.to_vec()
        } else {
            self.tests.iter().map(String::as_str).collect()
        }
    }
}

pub(crate) fn run(root: &Path, request: &Request) -> Result<()> {
    step("packages", || packages::ensure(PACKAGES))?;
    if request.dist.is_none() {
        dist::run(root)?;
    }
    let kernel = step("kernel", || machine::kernel(&work_dir(root)))?;
    let initrd = step("memory disk", || machine::initrd(root, &work_dir(root), &kernel, request))?;
    step("virtual machine", || boot(&kernel.image, &initrd, request))
}

fn work_dir(root: &Path) -> PathBuf {
    root.join("target/vm")
}

/// Kills the machine when dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Boots and shows the console until the machine switches itself off.
fn boot(kernel: &Path, initrd: &Path, request: &Request) -> Result<()> {
    let limit = request.time_limit;
    // `timeout` rather than a watching thread: it also ends a machine that says nothing.
    let mut command = Command::new("timeout");
    command
        .arg(limit.to_string())
        .args(["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max"])
        .args(["-smp", "2", "-m", &request.memory.to_string(), "-nic", "none", "-no-reboot"])
        .args(["-display", "none", "-monitor", "none", "-serial", "stdio"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", &format!("console=ttyS0 quiet panic=-1 {}", request.kernel_args)])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut machine = Machine(command.spawn().context("start qemu-system-x86_64")?);
    let console = machine.0.stdout.take().context("the console")?;
    let mut passed = false;
    for line in BufReader::new(console).split(b'\n') {
        let line = line.context("the console")?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        println!("    {line}");
        std::io::stdout().flush().context("standard output")?;
        passed |= line == "VM PASS";
    }
    let status = machine.0.wait().context("wait for the machine")?;
    ensure!(status.code() != Some(124), "the machine did not end within {limit} s");
    ensure!(passed, "the machine did not say `VM PASS`; {status}");
    Ok(())
}
