//! `cargo xtask vm`: knarr on Debian's kernel in a virtual machine, for what the kernel below
//! cannot show: cgroup v2 with every controller, every capability, AppArmor, and SELinux.
//!
//! No disk, no network, no KVM: everything the machine needs is in its initial memory disk, and it
//! says `VM PASS` or `VM FAIL` on its serial console.

mod boot;
mod machine;
mod powercut;
mod selinux;
mod summary;
mod systemd;
mod tree;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use test_support::packages;

use self::boot::{Board, Disk, Event, Machine};
use self::summary::Summary;
use crate::dist;
use crate::steps::step;

const PACKAGES: &[&str] = &[
    "binutils",
    "busybox-static",
    "containernetworking-plugins",
    "cpio",
    "docker-registry",
    "e2fsprogs",
    "gzip",
    "iproute2",
    "kmod",
    "nftables",
    "qemu-system-x86",
    "secilc",
    "systemd",
    "xfsprogs",
];

/// What the machine can run by itself, in this order; `systemd`, `selinux` and `powercut` are
/// machines of their own.
pub(crate) const PARTS: &[&str] =
    &["walk", "launch", "network", "node", SYSTEMD, SELINUX, POWERCUT];
/// systemd is the first process, and what it does to a service with pods is looked at.
const SYSTEMD: &str = "systemd";
/// Tests of the real daemon there, with its cgroup driver.
const SCOPES: &str = "scopes";
const SELINUX: &str = "selinux";
const POWERCUT: &str = "powercut";

/// Tests of the real daemon that `node` runs unless told otherwise: what the kernel below lacks, or
/// does otherwise.
const NODE_TESTS: &[&str] = &[
    "apparmor::",
    "devices::",
    "image_volumes::",
    "inspect::",
    "metrics::",
    "mounts::",
    "oom::",
    "privileges::",
    "resources::",
    "security::",
    "stats::",
    "systemd::",
    "users::",
];

/// Those that another cgroup driver changes.
const SCOPES_TESTS: &[&str] = &["oom::", "resources::", "restart::", "stats::", "systemd::"];

/// Those that only SELinux lets show something.
const SELINUX_TESTS: &[&str] = &["selinux::"];

/// What a machine is to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Request {
    /// Only these parts: `walk`, `launch`, `network`, `node`, `systemd`, `selinux`, `powercut`.
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
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    time_limit: u64,
    #[command(flatten)]
    cuts: powercut::Cuts,
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
    let work = work_dir(root);
    let kernel = step("kernel", || machine::kernel(&work))?;
    let mut summary = Summary::default();
    let (alone, parts): (Vec<_>, Vec<_>) =
        request.parts().into_iter().partition(|part| [SYSTEMD, SELINUX, POWERCUT].contains(part));
    let machine = |name: &str, parts: &[&str], change: Change<'_>, run: &mut Run<'_>| {
        let initrd = step(&format!("memory disk, {name}"), || {
            machine::initrd(root, &work, &kernel, request, parts)
        })?;
        let board = Board {
            kernel: &kernel.image,
            initrd: &initrd,
            kernel_args: &format!("{} {}", change.kernel_args, request.kernel_args),
            memory_mib: request.memory,
            disk: change.disk.map(Disk::File),
            reboots: change.disk.is_some(),
            saved: None,
            monitor: None,
            time_limit: Duration::from_secs(request.time_limit),
        };
        step(name, || run(board))
    };
    let plain = Change { kernel_args: "", disk: None };
    if !parts.is_empty() {
        machine("virtual machine", &parts, plain, &mut |board| boot(&board, &mut summary))?;
    }
    if alone.contains(&SYSTEMD) {
        let disk = systemd::disk(&work)?;
        let change = Change { kernel_args: systemd::KERNEL_ARGS, disk: Some(&disk) };
        let parts = [SYSTEMD, SCOPES];
        machine("with systemd", &parts, change, &mut |board| boot(&board, &mut summary))?;
    }
    if alone.contains(&SELINUX) {
        let change = Change { kernel_args: selinux::KERNEL_ARGS, disk: None };
        machine("with SELinux", &[SELINUX], change, &mut |board| boot(&board, &mut summary))?;
    }
    summary.print();
    if alone.contains(&POWERCUT) {
        let mut cuts = |board: Board<'_>| powercut::run(&request.cuts, board, &work);
        machine("power cuts", &[POWERCUT], plain, &mut cuts)?;
    }
    Ok(())
}

/// What one machine has that others have not.
#[derive(Debug, Clone, Copy)]
struct Change<'a> {
    kernel_args: &'a str,
    /// A disk that a reboot does not empty.
    disk: Option<&'a Path>,
}

/// Runs one machine to its end.
type Run<'r> = dyn FnMut(Board<'_>) -> Result<()> + 'r;

fn work_dir(root: &Path) -> PathBuf {
    root.join("target/vm")
}

/// Boots and shows the console until the machine switches itself off.
fn boot(board: &Board<'_>, summary: &mut Summary) -> Result<()> {
    let machine = Machine::start(board)?;
    let mut passed = false;
    loop {
        match machine.next()? {
            Event::Line(line) => {
                summary.take(&line);
                passed |= line == "VM PASS";
            }
            Event::Off => break,
            Event::Cut => {}
        }
    }
    if !passed {
        summary.print();
    }
    ensure!(passed, "the machine did not say `VM PASS`");
    Ok(())
}
