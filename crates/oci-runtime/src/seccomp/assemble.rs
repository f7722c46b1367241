//! Classic BPF, written from its end to its beginning.
//!
//! BPF jumps only forward, so when an instruction is written all its targets exist already and
//! the distance is known. A conditional jump reaches 255 instructions; for a farther target a
//! copy of it (a return) or an unconditional jump, which reaches anywhere, is put in between.

use std::collections::HashMap;

use oci_spec::runtime::LinuxSeccompOperator as Op;

use super::{
    ret,
    rules::{Clause, Condition, Leaf},
};

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const IF_GREATER_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// One `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Insn {
    pub(super) code: u16,
    pub(super) yes: u8,
    pub(super) no: u8,
    pub(super) k: u32,
}

impl Insn {
    pub(super) fn to_bytes(self) -> [u8; 8] {
        let [c0, c1] = self.code.to_ne_bytes();
        let [k0, k1, k2, k3] = self.k.to_ne_bytes();
        [c0, c1, self.yes, self.no, k0, k1, k2, k3]
    }
}

/// What to do with the calls of one audit value.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) audit: u32,
    /// First number and outcome, ascending, starting at 0.
    pub(super) ranges: Vec<(u32, Leaf)>,
}

/// The whole filter.
pub(super) fn program(sections: &[Section]) -> Vec<Insn> {
    let mut code = Code::default();
    let starts: Vec<(u32, Label)> =
        sections.iter().rev().map(|section| (section.audit, code.section(section))).collect();
    let mut next = code.finish(ret::KILL_PROCESS);
    for (audit, start) in starts {
        next = code.branch(IF_EQUAL, audit, start, next);
    }
    code.load(ARCH, next);
    code.last_first.reverse();
    code.last_first
}

/// Where an instruction stands, counted from the end of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Label(usize);

#[derive(Debug, Default)]
struct Code {
    last_first: Vec<Insn>,
    /// The latest return of each action.
    returns: HashMap<u32, Label>,
}

impl Code {
    fn push(&mut self, insn: Insn) -> Label {
        self.last_first.push(insn);
        Label(self.last_first.len() - 1)
    }

    /// How many instructions a jump written now would skip to get to `target`.
    fn distance(&self, target: Label) -> usize {
        self.last_first.len() - target.0 - 1
    }

    /// A return of `action`, an existing one if a jump written soon can reach it.
    fn finish(&mut self, action: u32) -> Label {
        if let Some(label) = self.returns.get(&action)
            && self.distance(*label) < 128
        {
            return *label;
        }
        let label = self.push(Insn { code: RETURN, yes: 0, no: 0, k: action });
        self.returns.insert(action, label);
        label
    }

    fn jump(&mut self, target: Label) -> Label {
        match self.last_first.get(target.0) {
            Some(copy @ Insn { code: RETURN, .. }) => {
                let copy = *copy;
                self.push(copy)
            }
            Some(_) | None => {
                // A program of 2^32 instructions would not have fitted in memory.
                let k = u32::try_from(self.distance(target)).unwrap_or(u32::MAX);
                self.push(Insn { code: JUMP, yes: 0, no: 0, k })
            }
        }
    }

    /// A label for `target` that the next two instructions can reach.
    fn near(&mut self, target: Label) -> Label {
        if self.distance(target) <= 253 { target } else { self.jump(target) }
    }

    fn branch(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return yes;
        }
        let yes = self.near(yes);
        let no = self.near(no);
        // `near` leaves at most 254 to skip.
        let offset = |distance: usize| u8::try_from(distance).unwrap_or(u8::MAX);
        let (yes, no) = (offset(self.distance(yes)), offset(self.distance(no)));
        self.push(Insn { code, yes, no, k })
    }

    /// An instruction that goes on with `then`.
    fn step(&mut self, code: u16, k: u32, then: Label) -> Label {
        if self.distance(then) != 0 {
            self.jump(then);
        }
        self.push(Insn { code, yes: 0, no: 0, k })
    }

    fn load(&mut self, offset: u32, then: Label) -> Label {
        self.step(LOAD, offset, then)
    }

    fn section(&mut self, section: &Section) -> Label {
        let mut conditional: Vec<(&Leaf, Label)> = Vec::new();
        for (_, leaf) in &section.ranges {
            if let Leaf::Conditional { clauses, otherwise } = leaf
                && !conditional.iter().any(|(known, _)| *known == leaf)
            {
                let label = self.clauses(clauses, *otherwise);
                conditional.push((leaf, label));
            }
        }
        let start = self.search(&section.ranges, &conditional);
        self.load(NUMBER, start)
    }

    fn search(&mut self, ranges: &[(u32, Leaf)], conditional: &[(&Leaf, Label)]) -> Label {
        match ranges {
            [] => self.finish(ret::KILL_PROCESS),
            [(_, leaf)] => match leaf {
                Leaf::Action(action) => self.finish(*action),
                Leaf::Conditional { otherwise, .. } => {
                    match conditional.iter().find(|(known, _)| *known == leaf) {
                        Some((_, label)) => *label,
                        None => self.finish(*otherwise),
                    }
                }
            },
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let start = high.first().map_or(0, |(start, _)| *start);
                let yes = self.search(high, conditional);
                let no = self.search(low, conditional);
                self.branch(IF_GREATER_EQUAL, start, yes, no)
            }
        }
    }

    fn clauses(&mut self, clauses: &[Clause], otherwise: u32) -> Label {
        let mut next = self.finish(otherwise);
        for clause in clauses.iter().rev() {
            let mut holds = self.finish(clause.action);
            for condition in clause.conditions.iter().rev() {
                holds = self.condition(*condition, holds, next);
            }
            next = holds;
        }
        next
    }

    fn condition(&mut self, condition: Condition, yes: Label, no: Label) -> Label {
        let Condition { index, op, value, second } = condition;
        match op {
            Op::ScmpCmpEq => self.masked_equal(index, u64::MAX, value, yes, no),
            Op::ScmpCmpNe => self.masked_equal(index, u64::MAX, value, no, yes),
            Op::ScmpCmpMaskedEq => self.masked_equal(index, value, second & value, yes, no),
            Op::ScmpCmpGt => self.greater(index, IF_GREATER, value, yes, no),
            Op::ScmpCmpGe => self.greater(index, IF_GREATER_EQUAL, value, yes, no),
            Op::ScmpCmpLe => self.greater(index, IF_GREATER, value, no, yes),
            Op::ScmpCmpLt => self.greater(index, IF_GREATER_EQUAL, value, no, yes),
        }
    }

    fn masked_equal(&mut self, index: u32, mask: u64, value: u64, yes: Label, no: Label) -> Label {
        let low = self.half_equal(low_half(index), low(mask), low(value), yes, no);
        self.half_equal(high_half(index), high(mask), high(value), low, no)
    }

    fn half_equal(&mut self, offset: u32, mask: u32, value: u32, yes: Label, no: Label) -> Label {
        match mask {
            0 => yes,
            u32::MAX => {
                let test = self.branch(IF_EQUAL, value, yes, no);
                self.load(offset, test)
            }
            _ => {
                let test = self.branch(IF_EQUAL, value, yes, no);
                let masked = self.step(AND, mask, test);
                self.load(offset, masked)
            }
        }
    }

    /// `low_test` decides when the upper halves are equal.
    fn greater(&mut self, index: u32, low_test: u16, value: u64, yes: Label, no: Label) -> Label {
        let low_test = self.branch(low_test, low(value), yes, no);
        let low_test = self.load(low_half(index), low_test);
        let equal = self.branch(IF_EQUAL, high(value), low_test, no);
        let greater = self.branch(IF_GREATER, high(value), yes, equal);
        self.load(high_half(index), greater)
    }
}

fn low_half(index: u32) -> u32 {
    ARGUMENTS + 8 * index + if cfg!(target_endian = "little") { 0 } else { 4 }
}

fn high_half(index: u32) -> u32 {
    ARGUMENTS + 8 * index + if cfg!(target_endian = "little") { 4 } else { 0 }
}

fn low(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(u32::MAX)
}

fn high(value: u64) -> u32 {
    u32::try_from(value >> 32).unwrap_or(u32::MAX)
}
