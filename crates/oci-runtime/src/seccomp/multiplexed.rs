//! 32-bit x86 has `socketcall(2)` and `ipc(2)`, which carry many calls as their first argument.

use oci_spec::runtime::LinuxSeccompOperator;

use super::rules::Condition;

/// `socketcall` sub-calls by name (`linux/net.h`).
const SOCKETCALL: &[(&str, u64)] = &[
    ("socket", 1),
    ("bind", 2),
    ("connect", 3),
    ("listen", 4),
    ("accept", 5),
    ("getsockname", 6),
    ("getpeername", 7),
    ("socketpair", 8),
    ("send", 9),
    ("recv", 10),
    ("sendto", 11),
    ("recvfrom", 12),
    ("shutdown", 13),
    ("setsockopt", 14),
    ("getsockopt", 15),
    ("sendmsg", 16),
    ("recvmsg", 17),
    ("accept4", 18),
    ("recvmmsg", 19),
    ("sendmmsg", 20),
];

/// `ipc` sub-calls by name (`linux/ipc.h`).
const IPC: &[(&str, u64)] = &[
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];

/// The call that also carries `name`, and the condition under which it does.
pub(super) fn carrier(name: &str) -> Option<(&'static str, Condition)> {
    let find = |table: &[(&str, u64)]| {
        table.iter().find(|(known, _)| *known == name).map(|(_, call)| *call)
    };
    // The kernel reads `int call`; for ipc the upper half is an interface version.
    let condition = |mask: u64, call: u64| Condition {
        index: 0,
        op: LinuxSeccompOperator::ScmpCmpMaskedEq,
        value: mask,
        second: call,
    };
    find(SOCKETCALL)
        .map(|call| ("socketcall", condition(0xffff_ffff, call)))
        .or_else(|| find(IPC).map(|call| ("ipc", condition(0xffff, call))))
}
