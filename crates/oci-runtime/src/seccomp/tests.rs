//! Compiled programs run in a small BPF machine and are compared with a plain reading of the
//! profile.

use oci_spec::runtime::{
    Arch, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator as Op, LinuxSyscall,
};
use proptest::prelude::*;

use super::*;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const X32: u32 = 0x4000_0000;

/// `struct seccomp_data` without the instruction pointer.
#[derive(Debug, Clone, Copy)]
struct Call {
    arch: u32,
    number: u32,
    args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        let half = |arg: u64, upper: bool| {
            let half = if upper { arg >> 32 } else { arg & 0xffff_ffff };
            u32::try_from(half).unwrap()
        };
        match offset {
            0 => self.number,
            4 => self.arch,
            16..64 => half(self.args[((offset - 16) / 8) as usize], offset % 8 == 4),
            _ => panic!("load from offset {offset}"),
        }
    }
}

/// What the program returns.
fn run(plan: &SeccompPlan, call: &Call) -> u32 {
    execute(plan, call).0
}

/// What the program returns, after how many instructions.
fn execute(plan: &SeccompPlan, call: &Call) -> (u32, usize) {
    let program: Vec<&[u8]> = plan.program.chunks(8).collect();
    let (mut pc, mut a, mut steps) = (0usize, 0u32, 0usize);
    loop {
        let insn = program[pc];
        let code = u16::from_ne_bytes([insn[0], insn[1]]);
        let k = u32::from_ne_bytes([insn[4], insn[5], insn[6], insn[7]]);
        let jump = |taken: bool| usize::from(if taken { insn[2] } else { insn[3] });
        (pc, steps) = (pc + 1, steps + 1);
        match code {
            0x20 => a = call.word(k),
            0x54 => a &= k,
            0x05 => pc += k as usize,
            0x15 => pc += jump(a == k),
            0x25 => pc += jump(a > k),
            0x35 => pc += jump(a >= k),
            0x06 => return (k, steps),
            other => panic!("opcode {other:#x}"),
        }
    }
}

/// The profile's meaning, read entry by entry.
fn read(profile: &LinuxSeccomp, call: &Call) -> u32 {
    let value = |action, errno| super::action(action, errno).unwrap();
    let default = value(profile.default_action(), profile.default_errno_ret());
    let listed = profile.architectures().clone().unwrap_or_default();
    let arch = match (call.arch, call.number & X32 != 0 && call.number >> 31 == 0) {
        (X86_64, false) => Architecture::X86_64,
        (X86_64, true) if listed.contains(&Arch::ScmpArchX32) => Architecture::X32,
        (X86_64, true) if ret::refuses(default) => return default,
        (I386, _) if listed.contains(&Arch::ScmpArchX86) => Architecture::X86,
        _ => return ret::KILL_PROCESS,
    };
    let mut found = None;
    for rule in profile.syscalls().iter().flatten() {
        let action = value(rule.action(), rule.errno_ret());
        let named = rule.names().iter().any(|name| table::number(name, arch) == Some(call.number));
        if action == default || !named {
            continue;
        }
        let args = rule.args().clone().unwrap_or_default();
        if args.is_empty() {
            return action;
        }
        let repeated = (0..6).any(|i| args.iter().filter(|arg| arg.index() == i).count() > 1);
        let matches = |arg: &LinuxSeccompArg| holds(arg, call.args[arg.index()]);
        let applies = if repeated { args.iter().any(matches) } else { args.iter().all(matches) };
        // An entry without conditions further on still beats this one.
        if applies && found.is_none() {
            found = Some(action);
        }
    }
    let names = profile.syscalls().iter().flatten().flat_map(|rule| rule.names());
    let newest = names.filter_map(|name| table::number(name, arch)).max();
    let end = if arch == Architecture::X32 { 0x8000_0000 } else { X32 };
    let newer = newest.is_some_and(|newest| call.number > newest && call.number < end);
    let unknown = newer && default & 0xffff_0000 == ret::ERRNO;
    found.unwrap_or(if unknown { ret::ERRNO | 38 } else { default })
}

fn holds(arg: &LinuxSeccompArg, actual: u64) -> bool {
    let value = arg.value();
    match arg.op() {
        Op::ScmpCmpNe => actual != value,
        Op::ScmpCmpLt => actual < value,
        Op::ScmpCmpLe => actual <= value,
        Op::ScmpCmpEq => actual == value,
        Op::ScmpCmpGe => actual >= value,
        Op::ScmpCmpGt => actual > value,
        Op::ScmpCmpMaskedEq => actual & value == arg.value_two().unwrap_or(0) & value,
    }
}

fn arg(index: usize, op: Op, value: u64, second: u64) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default()
        .index(index)
        .op(op)
        .value(value)
        .value_two(second)
        .build()
        .unwrap()
}

fn rule(names: &[&str], action: Action, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|name| (*name).to_owned()).collect());
    rule.set_action(action).set_args(Some(args));
    rule
}

fn profile(default: Action, archs: &[Arch], rules: Vec<LinuxSyscall>) -> LinuxSeccomp {
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(default).set_architectures(Some(archs.to_vec()));
    profile.set_syscalls(Some(rules));
    profile
}

const ALL_X86: &[Arch] = &[Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32];

fn compiled(profile: &LinuxSeccomp) -> SeccompPlan {
    compile(profile, Architecture::X86_64).unwrap()
}

fn call(arch: u32, number: u32, first: u64) -> Call {
    Call { arch, number, args: [first, 0, 0, 0, 0, 0] }
}

/// Every number of every interface, and some that belong to none.
fn numbers() -> impl Iterator<Item = u32> {
    (0..600).chain(X32..X32 + 560).chain([0x3fff_ffff, 0x7fff_ffff, 0x8000_0000, u32::MAX])
}

fn same_as_read(profile: &LinuxSeccomp, args: &[[u64; 6]]) {
    let plan = compiled(profile);
    for arch in [X86_64, I386, 0xc000_00b7, 0, 0xffff_ffff] {
        for number in numbers() {
            for args in args {
                let call = Call { arch, number, args: *args };
                assert_eq!(run(&plan, &call), read(profile, &call), "{call:x?}");
            }
        }
    }
}

/// Names that are multiplexed on i386 have a test of their own.
const NAMES: &[&str] = &[
    "read",
    "write",
    "open",
    "close",
    "ioctl",
    "mount",
    "clone",
    "clone3",
    "personality",
    "ptrace",
    "rt_sigaction",
    "io_uring_setup",
    "futex",
    "exit_group",
    "landlock_create_ruleset",
    "mmap",
    "waitpid",
    "no_such_call",
    "file_setattr",
];

fn any_action() -> impl Strategy<Value = Action> {
    prop::sample::select(vec![
        Action::ScmpActAllow,
        Action::ScmpActErrno,
        Action::ScmpActKill,
        Action::ScmpActKillProcess,
        Action::ScmpActTrap,
        Action::ScmpActLog,
        Action::ScmpActTrace,
    ])
}

fn any_value() -> impl Strategy<Value = u64> {
    prop_oneof![
        prop::sample::select(vec![0, 1, 40, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0028, u64::MAX]),
        any::<u64>(),
    ]
}

fn any_arg() -> impl Strategy<Value = LinuxSeccompArg> {
    let ops = vec![
        Op::ScmpCmpNe,
        Op::ScmpCmpLt,
        Op::ScmpCmpLe,
        Op::ScmpCmpEq,
        Op::ScmpCmpGe,
        Op::ScmpCmpGt,
        Op::ScmpCmpMaskedEq,
    ];
    (0usize..3, prop::sample::select(ops), any_value(), any_value())
        .prop_map(|(index, op, value, second)| arg(index, op, value, second))
}

fn any_rule() -> impl Strategy<Value = LinuxSyscall> {
    let names = prop::collection::vec(prop::sample::select(NAMES.to_vec()), 1..6);
    let args = prop::collection::vec(any_arg(), 0..4);
    (names, any_action(), args, prop::option::of(0u32..4096)).prop_map(
        |(names, action, args, errno)| {
            let mut rule = rule(&names, action, args);
            rule.set_errno_ret(errno);
            rule
        },
    )
}

fn any_profile() -> impl Strategy<Value = LinuxSeccomp> {
    let archs = prop::sample::subsequence(ALL_X86.to_vec(), 0..=3);
    (any_action(), archs, prop::collection::vec(any_rule(), 0..12))
        .prop_map(|(default, archs, rules)| profile(default, &archs, rules))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn a_compiled_profile_decides_as_the_profile_reads(
        profile in any_profile(),
        args in prop::collection::vec(any_value(), 6),
    ) {
        let args: [u64; 6] = args.try_into().unwrap();
        same_as_read(&profile, &[args, [0; 6], [0x28, 1, 0xffff_ffff, 0, 0, 0]]);
    }
}

#[test]
fn a_profile_with_a_rule_per_call_needs_long_jumps_and_still_decides_right() {
    let names: Vec<String> = (0..500)
        .filter_map(|number| table::name_of(number, Architecture::X86_64))
        .map(str::to_owned)
        .collect();
    let rules = names.iter().enumerate().map(|(index, name)| {
        let args = vec![
            arg(0, Op::ScmpCmpGt, index as u64, 0),
            arg(1, Op::ScmpCmpMaskedEq, 0xff, index as u64),
        ];
        rule(&[name], Action::ScmpActAllow, args)
    });
    let profile = profile(Action::ScmpActErrno, &[Arch::ScmpArchX86_64], rules.collect());
    assert!(compiled(&profile).program.len() / 8 > 2000);
    same_as_read(&profile, &[[0; 6], [300, 7, 0, 0, 0, 0], [u64::MAX, 0x1_0000_0107, 0, 0, 0, 0]]);
}

#[test]
fn an_unknown_architecture_ends_the_process() {
    let plan = compiled(&profile(Action::ScmpActAllow, &[], vec![]));
    assert_eq!(run(&plan, &call(0xc000_00f3, 0, 0)), ret::KILL_PROCESS);
    assert_eq!(run(&plan, &call(I386, 0, 0)), ret::KILL_PROCESS);
    assert_eq!(run(&plan, &call(X86_64, 0, 0)), ret::ALLOW);
}

#[test]
fn a_deny_list_cannot_be_passed_by_x32_numbers() {
    let deny = rule(&["mount"], Action::ScmpActErrno, vec![]);
    let plan = compiled(&profile(Action::ScmpActAllow, &[Arch::ScmpArchX86_64], vec![deny]));
    let mount = table::number("mount", Architecture::X86_64).unwrap();
    assert_eq!(run(&plan, &call(X86_64, mount, 0)), ret::ERRNO | 1);
    assert_eq!(run(&plan, &call(X86_64, X32 | mount, 0)), ret::KILL_PROCESS);
}

#[test]
fn a_refused_socket_call_is_refused_through_socketcall_too() {
    let socketcall = table::number("socketcall", Architecture::X86).unwrap();
    let by_family = vec![arg(0, Op::ScmpCmpEq, 38, 0)];
    for args in [vec![], by_family] {
        let deny = rule(&["socket"], Action::ScmpActErrno, args);
        let plan = compiled(&profile(Action::ScmpActAllow, ALL_X86, vec![deny]));
        assert_eq!(run(&plan, &call(I386, socketcall, 1)), ret::ERRNO | 1);
        assert_eq!(run(&plan, &call(I386, socketcall, 2)), ret::ALLOW);
    }
}

#[test]
fn an_allowed_socket_call_is_allowed_through_socketcall_only_without_conditions() {
    let socketcall = table::number("socketcall", Architecture::X86).unwrap();
    for (args, want) in [(vec![], ret::ALLOW), (vec![arg(0, Op::ScmpCmpEq, 1, 0)], ret::ERRNO | 1)]
    {
        let allow = rule(&["socket"], Action::ScmpActAllow, args);
        let plan = compiled(&profile(Action::ScmpActErrno, ALL_X86, vec![allow]));
        assert_eq!(run(&plan, &call(I386, socketcall, 1)), want);
    }
}

#[test]
fn what_a_filter_cannot_do_is_refused() {
    let notify = profile(Action::ScmpActNotify, &[], vec![]);
    assert_eq!(compile(&notify, Architecture::X86_64), Err(SeccompError::NotifyByDefault));
    let mut nobody = profile(Action::ScmpActAllow, &[], vec![]);
    nobody.set_flags(Some(vec![LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv]));
    let refused = compile(&nobody, Architecture::X86_64);
    assert!(matches!(refused, Err(SeccompError::Flag { .. })), "{refused:?}");
    let index = rule(&["read"], Action::ScmpActAllow, vec![arg(6, Op::ScmpCmpEq, 0, 0)]);
    assert_eq!(
        compile(&profile(Action::ScmpActErrno, &[], vec![index]), Architecture::X86_64),
        Err(SeccompError::Argument { syscall: "read".into(), index: 6 })
    );
    let mut errno = profile(Action::ScmpActErrno, &[], vec![]);
    errno.set_default_errno_ret(Some(5000));
    assert_eq!(compile(&errno, Architecture::X86_64), Err(SeccompError::Errno { errno: 5000 }));
}

#[test]
fn listed_flags_replace_the_default_flag() {
    let mut plain = profile(Action::ScmpActAllow, &[], vec![]);
    assert_eq!(compiled(&plain).flags, 4);
    plain.set_flags(Some(vec![]));
    assert_eq!(compiled(&plain).flags, 0);
    plain.set_flags(Some(vec![LinuxSeccompFilterFlag::SeccompFilterFlagLog]));
    assert_eq!(compiled(&plain).flags, 2);
}

#[test]
fn a_call_that_asks_the_agent_is_told_from_others() {
    let ask = rule(&["mkdir"], Action::ScmpActNotify, vec![]);
    let mut profile = profile(Action::ScmpActAllow, &[], vec![ask]);
    assert!(asks(&profile) && !asks(&default_profile(0)));
    profile.set_flags(Some(vec![LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv]));
    let plan = compiled(&profile);
    assert_eq!(plan.flags, 32);
    let number = |name| table::number(name, Architecture::X86_64).unwrap();
    assert_eq!(run(&plan, &call(X86_64, number("mkdir"), 0)), ret::NOTIFY);
    assert_eq!(run(&plan, &call(X86_64, number("rmdir"), 0)), ret::ALLOW);
}

#[test]
fn calls_newer_than_the_profile_are_not_there() {
    let allow = rule(&["read", "clone3"], Action::ScmpActAllow, vec![]);
    let plan = compiled(&profile(Action::ScmpActErrno, ALL_X86, vec![allow.clone()]));
    let newest = table::number("clone3", Architecture::X86_64).unwrap();
    assert_eq!(run(&plan, &call(X86_64, newest - 1, 0)), ret::ERRNO | 1);
    assert_eq!(run(&plan, &call(X86_64, newest + 1, 0)), ret::ERRNO | 38);
    assert_eq!(run(&plan, &call(X86_64, X32 | (newest + 1), 0)), ret::ERRNO | 38);
    let kills = compiled(&profile(Action::ScmpActKillProcess, ALL_X86, vec![allow]));
    assert_eq!(run(&kills, &call(X86_64, newest + 1, 0)), ret::KILL_PROCESS);
}

fn default_profile(capabilities: u64) -> LinuxSeccomp {
    bundle::default_profile(capabilities, (6, 1)).unwrap()
}

#[test]
fn the_built_in_profile_compiles_to_what_it_says() {
    let families = (0..64).chain([0x1_0000_0026, 0xffff_ffff, 0x7e02_0000, 0x0100_0000]);
    let firsts: Vec<[u64; 6]> = families.map(|first| [first, 0, 0, 0, 0, 0]).collect();
    for capabilities in [0, 1 << 21] {
        let profile = default_profile(capabilities);
        assert!(compiled(&profile).program.len() / 8 < MAX_INSTRUCTIONS / 2);
        same_as_read(&profile, &firsts[..2]);
        let plan = compiled(&profile);
        for name in ["socket", "clone", "personality", "clone3", "read", "mount"] {
            let number = table::number(name, Architecture::X86_64).unwrap();
            for args in &firsts {
                let call = Call { arch: X86_64, number, args: *args };
                assert_eq!(run(&plan, &call), read(&profile, &call), "{name} {call:x?}");
            }
        }
    }
}

#[test]
fn the_built_in_profile_keeps_two_socket_families_out_whatever_the_upper_half_says() {
    let plan = compiled(&default_profile(0));
    let socket = table::number("socket", Architecture::X86_64).unwrap();
    for family in 0..48u64 {
        let want = if family == 38 || family == 40 { ret::ERRNO | 1 } else { ret::ALLOW };
        for upper in [0, 1 << 32, 0xffff_ffff << 32] {
            assert_eq!(run(&plan, &call(X86_64, socket, upper | family)), want, "{family}");
        }
    }
}

#[test]
fn every_call_is_decided_in_a_few_instructions() {
    let plan = compiled(&default_profile(0));
    let steps = |number| execute(&plan, &call(X86_64, number, 0)).1;
    assert!((0..470).map(steps).max().unwrap() < 40);
}
