//! `cargo xtask vm`: knarr on Debian's kernel in a virtual machine, for what the kernel below
//! cannot show: cgroup v2 with every controller, every capability, AppArmor, and SELinux.
//!
//! No disk, no network, no KVM: everything the machine needs is in its initial memory disk, and it
//! says `VM PASS` or `VM FAIL` on its serial console.

mod boot;
mod machine;
mod powercut;
mod selinux;
mod tree;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use test_support::packages;

use self::boot::{Board, Event, Machine};
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
    "xfsprogs",
];

/// What the machine can run by itself, in this order; `selinux` and `powercut` are machines of
/// their own.
pub(crate) const PARTS: &[&str] = &["walk", "launch", "network", "node", SELINUX, POWERCUT];
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
    "users::",
];

/// Those that only SELinux lets show something.
const SELINUX_TESTS: &[&str] = &["selinux::"];

/// What a machine is to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Request {
    /// Only these parts: `walk`, `launch`, `network`, `node`, `selinux`, `powercut`.
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
    let (alone, parts): (Vec<_>, Vec<_>) =
        request.parts().into_iter().partition(|part| [SELINUX, POWERCUT].contains(part));
    let machine = |name: &str, parts: &[&str], args: &str, run: &Run<'_>| {
        let initrd = step(&format!("memory disk, {name}"), || {
            machine::initrd(root, &work, &kernel, request, parts)
        })?;
        let board = Board {
            kernel: &kernel.image,
            initrd: &initrd,
            kernel_args: &format!("{args} {}", request.kernel_args),
            memory_mib: request.memory,
            disk: None,
            saved: None,
            monitor: None,
            time_limit: Duration::from_secs(request.time_limit),
        };
        step(name, || run(board))
    };
    if !parts.is_empty() {
        machine("virtual machine", &parts, "", &|board| boot(&board))?;
    }
    if alone.contains(&SELINUX) {
        machine("with SELinux", &[SELINUX], selinux::KERNEL_ARGS, &|board| boot(&board))?;
    }
    if alone.contains(&POWERCUT) {
        let cuts = |board: Board<'_>| powercut::run(&request.cuts, board, &work);
        machine("power cuts", &[POWERCUT], "", &cuts)?;
    }
    Ok(())
}

/// Runs one machine to its end.
type Run<'r> = dyn Fn(Board<'_>) -> Result<()> + 'r;

fn work_dir(root: &Path) -> PathBuf {
    root.join("target/vm")
}

/// Boots and shows the console until the machine switches itself off.
fn boot(board: &Board<'_>) -> Result<()> {
    let machine = Machine::start(board)?;
    let mut passed = false;
    loop {
        match machine.next()? {
            Event::Line(line) => passed |= line == "VM PASS",
            Event::Off => break,
            Event::Cut => {}
        }
    }
    ensure!(passed, "the machine did not say `VM PASS`");
    Ok(())
}
