//! What containers may do that ask for no profile of their own.
//!
//! Everything, except what reaches the host past its namespaces: kernel parameters and devices
//! through `/proc` and `/sys`, mounts, the kernel's crypto sockets, signals and tracing across the
//! profile's border. In AppArmor's own language the file rules would read:
//!
//! ```text
//! file, capability, network, umount,
//! deny network alg,
//! deny mount,
//! signal (receive) peer=<the daemon's>, signal peer=<this profile>, ptrace peer=<this profile>,
//! deny /proc/** w,       but not /proc/<pid>/**, /proc/sys/kernel/shm*
//! deny /sys/** wklx,     but not /sys/fs/cgroup/**
//! deny <SECRET> rwklx,
//! ```

use super::automaton::{Automaton, Verdict};
use super::pattern::{Bytes, Pattern};
use super::stream::Stream;

/// Policy format: the one with file and other rules in tables of their own, which every kernel
/// from 5.15 on reads.
const VERSION: u32 = 7;

/// `attach_disconnected`, `mediate_deleted`: files that are not below the container's root, or not
/// there any more, are judged by the path they had.
const PATH_FLAGS: u32 = 0x1_0004;

/// File permissions, once for the owner of a file and once for everybody else.
mod file {
    pub(super) const EXEC: u32 = 0x01;
    pub(super) const WRITE: u32 = 0x02;
    pub(super) const READ: u32 = 0x04;
    pub(super) const APPEND: u32 = 0x08;
    pub(super) const LINK: u32 = 0x10;
    pub(super) const LOCK: u32 = 0x20;
    /// In the second half of a link rule `LOCK`'s bit says that the link may permit no more than
    /// its target.
    pub(super) const SUBSET: u32 = 0x20;
    pub(super) const ALL: u32 = 0x7f;
    /// Executing keeps the profile.
    pub(super) const INHERIT: u32 = 0x200;
    /// Distance from the owner's bits to the others'.
    pub(super) const OTHERS: u32 = 14;
    /// Distance from permissions to the ones refused quietly.
    pub(super) const QUIET: u32 = 7;
}

/// Read here, the kernel gives away memory, hardware or its own rules.
const SECRET: &[&str] = &[
    "/proc/kcore",
    "/proc/sysrq-trigger",
    "/sys/devices/virtual/powercap/**",
    "/sys/firmware/**",
    "/sys/kernel/security/**",
];

/// A refusal and its exceptions.
struct Denied {
    paths: &'static [&'static str],
    but_not: &'static [&'static str],
    permissions: u32,
}

const DENIED: &[Denied] = &[
    Denied {
        paths: &["/proc/**"],
        but_not: &["/proc/#*/**", "/proc/sys/kernel/shm*"],
        permissions: file::WRITE | file::APPEND,
    },
    Denied {
        paths: &["/sys/**"],
        but_not: &["/sys/fs/cgroup/**"],
        permissions: file::WRITE | file::APPEND | file::LOCK | file::LINK | file::EXEC,
    },
    Denied {
        paths: SECRET,
        but_not: &[],
        permissions: file::WRITE | file::APPEND | file::READ | file::LOCK | file::LINK | file::EXEC,
    },
];

/// The policy stream of the profile `name`, which signals of the labels in `signallers` reach.
pub(super) fn policy(name: &str, signallers: &[String]) -> Vec<u8> {
    let mut stream = Stream::default();
    stream.name("version").number(VERSION);
    stream.name("profile").begin().text(name);
    // Not a hat, enforced, nothing audited beyond refusals.
    stream.name("flags").begin().number(0).number(0).number(0).end();
    stream.name("path_flags").number(PATH_FLAGS);
    // Capabilities: allowed, audited, refused quietly, a leftover; the seccomp profile and the
    // container's own sets decide about them.
    stream.number(u32::MAX).number(0).number(0).number(0);
    stream.name("caps64").begin().number(u32::MAX).number(0).number(0).number(0).end();
    stream.name("policydb").begin().automaton(&others(name, signallers)).end();
    stream.automaton(&files());
    stream.end();
    stream.finish()
}

/// File rules.
pub(super) fn files() -> Automaton {
    // Patterns 0 and 1 are what is allowed, then come refusals and their exceptions.
    let any = Pattern::path("/**");
    let pair = Pattern::path("/**").exactly(&[0]).many(Bytes::NAME);
    let mut patterns = vec![any, pair];
    let mut ranges = Vec::new();
    for Denied { paths, but_not, permissions } in DENIED {
        let begin = patterns.len();
        patterns.extend(paths.iter().map(|path| Pattern::path(path)));
        let middle = patterns.len();
        patterns.extend(but_not.iter().map(|path| Pattern::path(path)));
        ranges.push((begin..middle, middle..patterns.len(), *permissions));
    }
    Automaton::build(&patterns, |matches| {
        if matches(1) {
            return both(file::LINK | file::SUBSET, 0);
        }
        if !matches(0) {
            return Verdict::default();
        }
        let refused = ranges.iter().fold(0, |refused, (paths, but_not, permissions)| {
            let hit = paths.clone().any(matches) && !but_not.clone().any(matches);
            if hit { refused | permissions } else { refused }
        });
        both(file::ALL & !refused, refused)
    })
}

/// For owners and everybody else alike.
fn both(allow: u32, quiet: u32) -> Verdict {
    let inherit = if allow & file::EXEC == 0 { 0 } else { file::INHERIT };
    let twice = |bits: u32| bits | bits << file::OTHERS;
    Verdict { allow: twice(allow | inherit), quiet: twice(quiet << file::QUIET) }
}

/// Classes of requests besides files.
mod class {
    pub(super) const MOUNT: u8 = 7;
    pub(super) const PTRACE: u8 = 9;
    pub(super) const SIGNAL: u8 = 10;
    pub(super) const NETWORK: u8 = 14;
    /// Requests about another process: its class, then the other's label.
    pub(super) const LABEL: u8 = 16;
}

const MAY_MOUNT: u32 = 0x02;
const MAY_UMOUNT: u32 = 0x04;
const MAY_RECEIVE: u32 = 0x04;
const MAY_SEND: u32 = 0x02;
/// Trace, read, be traced, be read.
const MAY_PTRACE: u32 = 0x1e;
/// Everything one can do with a socket, spread as the kernel gathers it.
const MAY_NETWORK: u32 = 0x1f_c076;
const QUIET_NETWORK: u32 = MAY_NETWORK << 7;
const AF_ALG: [u8; 2] = [0, 38];

/// Rules about mounts, signals, tracing and sockets. What is of a class that does not appear is
/// not judged.
pub(super) fn others(name: &str, signallers: &[String]) -> Automaton {
    let start = |class: u8| Pattern::new().exactly(&[class]);
    let mount_part = |pattern: Pattern| pattern.many(Bytes::NAME).exactly(&[0]);
    let verdict = |allow: u32, quiet: u32| Verdict { allow, quiet };
    let mut rules = vec![
        (start(class::MOUNT).many(Bytes::NAME), verdict(MAY_UMOUNT, 0)),
        // Mount point, source, type, flags.
        (
            mount_part(mount_part(mount_part(start(class::MOUNT)))).many(Bytes::ANY),
            verdict(0, MAY_MOUNT << 7),
        ),
        (start(class::PTRACE), verdict(0, 0)),
        (
            start(class::LABEL).exactly(&[class::PTRACE]).exactly(name.as_bytes()),
            verdict(MAY_PTRACE, 0),
        ),
        // Family and type.
        (
            start(class::NETWORK).one(Bytes::ANY).one(Bytes::ANY).one(Bytes::ANY).one(Bytes::ANY),
            verdict(MAY_NETWORK, 0),
        ),
        (
            start(class::NETWORK).exactly(&AF_ALG).one(Bytes::ANY).one(Bytes::ANY),
            verdict(0, QUIET_NETWORK),
        ),
    ];
    let own = (name, MAY_SEND | MAY_RECEIVE);
    let peers = signallers.iter().map(|label| (label.as_str(), MAY_RECEIVE)).chain([own]);
    for (label, allow) in peers {
        let number = start(class::SIGNAL).one(Bytes::ANY).exactly(label.as_bytes());
        let label = start(class::LABEL).exactly(&[class::SIGNAL]).exactly(label.as_bytes());
        rules.extend([(number, verdict(allow, 0)), (label, verdict(allow, 0))]);
    }
    let patterns: Vec<Pattern> = rules.iter().map(|(pattern, _)| pattern.clone()).collect();
    Automaton::build(&patterns, |matches| {
        let told = rules.iter().enumerate().filter(|(number, _)| matches(*number));
        let sum = told.fold(Verdict::default(), |sum, (_, (_, verdict))| Verdict {
            allow: sum.allow | verdict.allow,
            quiet: sum.quiet | verdict.quiet,
        });
        // A refusal wins.
        let refused = sum.quiet >> file::QUIET;
        Verdict { allow: sum.allow & !refused, quiet: sum.quiet }
    })
}

#[cfg(test)]
mod tests;
