//! The v2 device filter as eBPF.
//!
//! The program keeps the wanted accesses in a register and walks the rules from the last to the
//! first: a rule that allows strikes out what it covers and lets the call pass once nothing is
//! left; a rule that denies refuses if it covers anything still left.

use super::{ALL, Class, DevicePolicy, Rule};

// Fields of `struct bpf_cgroup_dev_ctx`.
const ACCESS_AND_TYPE: i16 = 0;
const MAJOR: i16 = 4;
const MINOR: i16 = 8;

/// Opcodes, by their assembler form.
mod op {
    pub(super) const LOAD_WORD: u8 = 0x61; // dst = *(u32 *)(src + off)
    pub(super) const AND: u8 = 0x54; // (u32) dst &= imm
    pub(super) const SHIFT_RIGHT: u8 = 0x74; // (u32) dst >>= imm
    pub(super) const SET: u8 = 0xb7; // dst = imm
    pub(super) const JUMP: u8 = 0x05; // goto off
    pub(super) const IF_NOT_EQUAL: u8 = 0x55; // if dst != imm goto off
    pub(super) const IF_ANY_BIT: u8 = 0x45; // if dst & imm goto off
    pub(super) const EXIT: u8 = 0x95; // return r0
}

/// Registers.
mod reg {
    pub(super) const RESULT: u8 = 0;
    pub(super) const CONTEXT: u8 = 1;
    pub(super) const TYPE: u8 = 2;
    pub(super) const WANTED: u8 = 3;
    pub(super) const MAJOR: u8 = 4;
    pub(super) const MINOR: u8 = 5;
}

/// One `struct bpf_insn`.
#[derive(Debug, Clone, Copy)]
struct Insn {
    code: u8,
    dst: u8,
    src: u8,
    offset: i16,
    imm: i32,
}

impl Insn {
    fn to_bytes(self) -> [u8; 8] {
        let registers = if cfg!(target_endian = "little") {
            self.src << 4 | self.dst
        } else {
            self.dst << 4 | self.src
        };
        let [o0, o1] = self.offset.to_ne_bytes();
        let [i0, i1, i2, i3] = self.imm.to_ne_bytes();
        [self.code, registers, o0, o1, i0, i1, i2, i3]
    }
}

fn insn(code: u8, dst: u8, offset: i16, imm: i32) -> Insn {
    Insn { code, dst, src: 0, offset, imm }
}

fn load(dst: u8, offset: i16) -> Insn {
    Insn { code: op::LOAD_WORD, dst, src: reg::CONTEXT, offset, imm: 0 }
}

pub(super) fn bytes(policy: &DevicePolicy) -> Vec<u8> {
    let mut program = vec![
        load(reg::TYPE, ACCESS_AND_TYPE),
        load(reg::WANTED, ACCESS_AND_TYPE),
        insn(op::AND, reg::TYPE, 0, 0xffff),
        insn(op::SHIFT_RIGHT, reg::WANTED, 0, 16),
        load(reg::MAJOR, MAJOR),
        load(reg::MINOR, MINOR),
    ];
    for rule in policy.rules.iter().rev() {
        program.extend(block(rule));
    }
    program.extend(answer(policy.allow_others));
    program.iter().flat_map(|insn| insn.to_bytes()).collect()
}

fn answer(allow: bool) -> [Insn; 2] {
    [insn(op::SET, reg::RESULT, 0, allow.into()), insn(op::EXIT, 0, 0, 0)]
}

/// One rule: tests that jump behind it, then what it does.
fn block(rule: &Rule) -> Vec<Insn> {
    let class = match rule.class {
        Class::Block => 1, // BPF_DEVCG_DEV_BLOCK
        Class::Char => 2,  // BPF_DEVCG_DEV_CHAR
    };
    let mut tests = vec![(reg::TYPE, class)];
    // Numbers were checked to fit when the rule was read.
    let immediate = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    tests.extend(rule.major.map(|number| (reg::MAJOR, immediate(number))));
    tests.extend(rule.minor.map(|number| (reg::MINOR, immediate(number))));

    let effect = effect(rule);
    let mut block = Vec::new();
    for (index, (register, value)) in tests.iter().enumerate() {
        let skipped = tests.len() - index - 1 + effect.len();
        // At most three tests and four instructions.
        let offset = i16::try_from(skipped).unwrap_or(i16::MAX);
        block.push(insn(op::IF_NOT_EQUAL, *register, offset, *value));
    }
    block.extend(effect);
    block
}

fn effect(rule: &Rule) -> Vec<Insn> {
    let mut effect = match (rule.allow, rule.access) {
        (_, ALL) => Vec::new(),
        (true, access) => vec![
            insn(op::AND, reg::WANTED, 0, i32::from(!access & ALL)),
            insn(op::IF_NOT_EQUAL, reg::WANTED, 2, 0),
        ],
        (false, access) => {
            vec![insn(op::IF_ANY_BIT, reg::WANTED, 1, i32::from(access)), insn(op::JUMP, 0, 2, 0)]
        }
    };
    effect.extend(answer(rule.allow));
    effect
}
