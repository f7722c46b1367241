//! `cargo xtask vm`: knarr on Debian's kernel in a virtual machine, for what the kernel below
//! cannot show: cgroup v2 with every controller, and every capability.
//!
//! No disk, no network, no KVM: everything the machine needs is in its initial memory disk, and it
//! says `VM PASS` or `VM FAIL` on its serial console.

mod machine;
mod tree;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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

/// What the machine can run, in this order.
pub(crate) const PARTS: &[&str] = &["walk", "launch", "network"];

/// Without KVM a machine is some twenty times slower.
const TIME_LIMIT: Duration = Duration::from_secs(180);

pub(crate) fn run(root: &Path, parts: &[String]) -> Result<()> {
    step("packages", || packages::ensure(PACKAGES))?;
    dist::run(root)?;
    let kernel = step("kernel", || machine::kernel(&work_dir(root)))?;
    let initrd = step("memory disk", || machine::initrd(root, &work_dir(root), &kernel, parts))?;
    step("virtual machine", || boot(&kernel.image, &initrd))
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
fn boot(kernel: &Path, initrd: &Path) -> Result<()> {
    // `timeout` rather than a watching thread: it also ends a machine that says nothing.
    let mut command = Command::new("timeout");
    command
        .arg(TIME_LIMIT.as_secs().to_string())
        .args(["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max"])
        .args(["-smp", "2", "-m", "1536", "-nic", "none", "-no-reboot"])
        .args(["-display", "none", "-monitor", "none", "-serial", "stdio"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", "console=ttyS0 quiet panic=-1"])
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
    ensure!(status.code() != Some(124), "the machine did not end within {TIME_LIMIT:?}");
    ensure!(passed, "the machine did not say `VM PASS`; {status}");
    Ok(())
}
