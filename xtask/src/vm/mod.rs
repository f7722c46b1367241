//! `cargo xtask vm`: knarr on Debian's kernel in a virtual machine, for what the kernel below
//! cannot show: cgroup v2 with every controller, every capability, AppArmor, and SELinux.
//!
//! No disk, no network, no KVM: everything the machine needs is in its initial memory disk, and it
//! says `VM PASS` or `VM FAIL` on its serial console.

mod boot;
mod brief;
mod machine;
mod parts;
mod plant;
mod powercut;
mod selinux;
mod summary;
mod systemd;
mod tree;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use test_support::packages;

pub(crate) use self::brief::briefly;

use self::boot::{Board, Disk, Event, Machine};
use self::parts::{BOOTS, Boot, COMMAND, Kind};
use self::summary::Summary;
use crate::dist;
use crate::steps::step;

const PACKAGES: &[&str] = &[
    "binutils",
    "busybox-static",
    "containernetworking-plugins",
    "cpio",
    "crun",
    "dbus",
    "docker-registry",
    "e2fsprogs",
    "gzip",
    "iproute2",
    "iptables",
    "kmod",
    "nftables",
    "qemu-system-x86",
    "runc",
    "secilc",
    "systemd",
    "xfsprogs",
];

/// What a machine is to run.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Request {
    /// Only these parts; all of them if none is named. Each `systemd…` has systemd as first process.
    #[arg(value_parser = parts::names())]
    parts: Vec<String>,
    /// Run just the tests of `tests/tests/node`, or of the failpoints, whose names contain this, in the
    /// parts named or in `node`; can be given again.
    #[arg(long, value_name = "NAME")]
    tests: Vec<String>,
    /// Just the short run that is part of `cargo xtask test`.
    #[arg(long, conflicts_with_all = ["parts", "tests", "run", "with"])]
    brief: bool,
    /// A directory to find in the machine as `/with/<its name>`; can be given again.
    #[arg(long, value_name = "DIR")]
    with: Vec<PathBuf>,
    /// A shell command to run in the machine, instead of the parts.
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["parts", "tests"])]
    run: Option<String>,
    /// `--run`: with systemd as the first process.
    #[arg(long, requires = "run")]
    systemd: bool,
    /// Take `knarr` and `knarr-shim` from here instead of building them for release.
    #[arg(long, value_name = "DIR")]
    dist: Option<PathBuf>,
    /// More words for the kernel's command line.
    #[arg(long, value_name = "WORDS", default_value = "")]
    kernel_args: String,
    /// The machine's memory, which holds its files too.
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory: u32,
    /// How long each machine may run, if not as long as it is known to need. Without KVM it is some twenty
    /// times slower.
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<u64>,
    #[command(flatten)]
    cuts: powercut::Cuts,
}

impl Request {
    /// The machines to run, each with what of its parts is asked for.
    fn boots(&self) -> Vec<(Boot, Vec<&'static str>)> {
        if self.run.is_some() {
            let kind = if self.systemd { Kind::Systemd } else { Kind::Plain };
            return vec![(
                Boot { name: "virtual machine", kind, parts: &[], minutes: 30 },
                vec![COMMAND],
            )];
        }
        let asked = |part: &str| match (&self.parts[..], &self.tests[..]) {
            ([], []) => true,
            ([], _tests) => part == "node",
            (parts, _) => parts.iter().any(|one| one == part),
        };
        let of = |boot: &Boot| boot.parts.iter().copied().filter(|part| asked(part)).collect();
        let all = BOOTS.iter().map(|boot| (*boot, of(boot)));
        all.filter(|(_, parts): &(_, Vec<_>)| !parts.is_empty()).collect()
    }
}

pub(crate) fn run(root: &Path, request: &Request) -> Result<()> {
    step("packages", || packages::ensure(PACKAGES))?;
    if request.dist.is_none() {
        dist::run(root)?;
    }
    if request.brief {
        return briefly(root, request.dist.as_deref());
    }
    let work = work_dir(root);
    let kernel = step("kernel", || machine::kernel(&work))?;
    let mut summary = Summary::default();
    let mut failed = Vec::new();
    for (boot, parts) in request.boots() {
        let initrd = step(&format!("memory disk, {}", boot.name), || {
            machine::initrd(root, &work, &kernel, request, (boot.kind, &parts))
        })?;
        let disk = (boot.kind == Kind::Systemd).then(|| systemd::disk(&work)).transpose()?;
        let own_args = kernel_args(boot.kind);
        let board = Board {
            kernel: &kernel.image,
            initrd: &initrd,
            kernel_args: &format!("{own_args} {}", request.kernel_args),
            memory_mib: request.memory,
            disk: disk.as_deref().map(Disk::File),
            reboots: disk.is_some(),
            saved: None,
            monitor: None,
            time_limit: Duration::from_secs(request.time_limit.unwrap_or(60 * boot.minutes)),
            quiet: false,
        };
        // The others are run all the same.
        let ended = step(boot.name, || match boot.kind {
            Kind::PowerCuts => powercut::run(&request.cuts, board, &work, &mut summary),
            Kind::Plain | Kind::Systemd | Kind::Selinux => live(&board, &mut summary).map(drop),
        });
        if let Err(error) = ended {
            println!("    {error:#}");
            failed.push(boot.name);
        }
    }
    summary.print();
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn kernel_args(kind: Kind) -> &'static str {
    match kind {
        Kind::Plain | Kind::PowerCuts => "",
        Kind::Systemd => systemd::KERNEL_ARGS,
        Kind::Selinux => selinux::KERNEL_ARGS,
    }
}

fn work_dir(root: &Path) -> PathBuf {
    root.join("target/vm")
}

/// Boots and waits until the machine switches itself off; what its console has said.
fn live(board: &Board<'_>, summary: &mut Summary) -> Result<Vec<String>> {
    let machine = Machine::start(board)?;
    let mut console = Vec::new();
    let ended = loop {
        match machine.next() {
            Ok(Event::Line(line)) => {
                summary.take(&line);
                console.push(line);
            }
            Ok(Event::Off) => break Ok(()),
            Ok(Event::Cut) => {}
            Err(error) => break Err(error),
        }
    };
    let ended = ended.and_then(|()| {
        ensure!(console.iter().any(|line| line == "VM PASS"), "the machine did not say `VM PASS`");
        Ok(())
    });
    if board.quiet && ended.is_err() {
        console.iter().for_each(|line| println!("    {line}"));
    }
    ended.map(|()| console)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        request: Request,
    }

    #[track_caller]
    fn check(words: &[&str], want: &[&[&str]]) {
        let line = Line::parse_from([&["vm"], words].concat());
        let parts: Vec<_> = line.request.boots().into_iter().map(|(_, parts)| parts).collect();
        assert_eq!(parts, want, "{words:?}");
    }

    #[test]
    fn machines_are_those_whose_parts_are_asked_for() {
        check(&["scopes", "launch", "node"], &[&["launch", "node"], &["scopes"]]);
        check(&["--tests", "oom::"], &[&["node"]]);
        check(&["scopes", "--tests", "oom::"], &[&["scopes"]]);
        check(&["--run", "true", "--systemd"], &[&["command"]]);
        let all = Line::parse_from(["vm"]).request.boots();
        assert_eq!(all.len(), BOOTS.len());
        check(&["systemd-node"], &[&["systemd-node"]]);
    }
}
