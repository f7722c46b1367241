//! From a profile's entries to the outcome of every call number.

use std::collections::{BTreeMap, HashMap};

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompOperator, LinuxSyscall};

use super::{SeccompError, action, arch::Architecture, multiplexed, ret, table};

const ENOSYS: u32 = 38;

/// A test of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0…5.
    pub(super) index: u32,
    pub(super) op: LinuxSeccompOperator,
    /// Right-hand side; the mask for a masked comparison.
    pub(super) value: u64,
    /// What the masked argument is compared with.
    pub(super) second: u64,
}

/// All conditions hold: this action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clause {
    pub(super) conditions: Vec<Condition>,
    pub(super) action: u32,
}

/// A profile's entry, checked.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    names: &'a [String],
    action: u32,
    /// Any of these; empty: without conditions.
    clauses: Vec<Clause>,
}

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Leaf {
    /// Always this action.
    Action(u32),
    /// The first clause that holds, else `otherwise`.
    Conditional { clauses: Vec<Clause>, otherwise: u32 },
}

/// The entries of `profile` that say something its default action does not.
pub(super) fn entries(
    profile: &LinuxSeccomp,
    default: u32,
) -> Result<Vec<Entry<'_>>, SeccompError> {
    let mut entries = Vec::new();
    for syscall in profile.syscalls().iter().flatten() {
        let action = action(syscall.action(), syscall.errno_ret())?;
        let clauses = clauses(syscall, action)?;
        if action != default {
            entries.push(Entry { names: syscall.names(), action, clauses });
        }
    }
    Ok(entries)
}

fn clauses(syscall: &LinuxSyscall, action: u32) -> Result<Vec<Clause>, SeccompError> {
    let mut conditions = Vec::new();
    for arg in syscall.args().iter().flatten() {
        let index =
            u32::try_from(arg.index()).ok().filter(|index| *index < 6).ok_or_else(|| {
                SeccompError::Argument {
                    syscall: syscall.names().first().cloned().unwrap_or_default(),
                    index: arg.index(),
                }
            })?;
        let second = arg.value_two().unwrap_or(0);
        conditions.push(Condition { index, op: arg.op(), value: arg.value(), second });
    }
    let repeated = (0..6)
        .any(|index| conditions.iter().filter(|condition| condition.index == index).count() > 1);
    Ok(if conditions.is_empty() {
        Vec::new()
    } else if repeated {
        conditions.into_iter().map(|one| Clause { conditions: vec![one], action }).collect()
    } else {
        vec![Clause { conditions, action }]
    })
}

/// Outcomes by call number.
#[derive(Debug)]
pub(super) struct Leaves {
    default: u32,
    by_number: BTreeMap<u32, Leaf>,
    /// Everything from [`table::X32`] to the sign bit ends the process.
    refuse_x32: bool,
    /// First and last number of calls that the profile's writer cannot have known.
    newer: Vec<(u32, u32)>,
}

impl Leaves {
    pub(super) fn new(default: u32) -> Self {
        Self { default, by_number: BTreeMap::new(), refuse_x32: false, newer: Vec::new() }
    }

    pub(super) fn refuse_x32(&mut self) {
        self.refuse_x32 = true;
    }

    /// Calls of `arch` that are newer than every one the profile names are not there: programs then do
    /// without, as they do on older kernels, where any other error would confuse them.
    pub(super) fn unknown_above(&mut self, profile: &LinuxSeccomp, arch: Architecture) {
        if self.default & 0xffff_0000 != ret::ERRNO {
            return;
        }
        let names = profile.syscalls().iter().flatten().flat_map(|rule| rule.names());
        let newest = names.filter_map(|name| table::number(name, arch)).max();
        let last = if arch == Architecture::X32 { 0x7fff_ffff } else { table::X32 - 1 };
        if let Some(first) = newest.and_then(|newest| newest.checked_add(1)).filter(|n| *n <= last)
        {
            self.newer.push((first, last));
        }
    }

    fn always(&mut self, number: u32, action: u32) {
        // The first entry without conditions stays; it also replaces those with conditions.
        if !matches!(self.by_number.get(&number), Some(Leaf::Action(_))) {
            self.by_number.insert(number, Leaf::Action(action));
        }
    }

    fn under(&mut self, number: u32, clause: &Clause) {
        let fresh = || Leaf::Conditional { clauses: Vec::new(), otherwise: self.default };
        match self.by_number.entry(number).or_insert_with(fresh) {
            Leaf::Action(_) => {}
            Leaf::Conditional { clauses, .. } => clauses.push(clause.clone()),
        }
    }

    /// First number and outcome of each range, the first range starting at 0.
    pub(super) fn into_ranges(self) -> Vec<(u32, Leaf)> {
        let background = |number: u32| {
            let x32 = (table::X32..0x8000_0000).contains(&number);
            let newer = self.newer.iter().any(|(first, last)| (*first..=*last).contains(&number));
            Leaf::Action(match (self.refuse_x32 && x32, newer) {
                (true, _) => ret::KILL_PROCESS,
                (false, true) => ret::ERRNO | ENOSYS,
                (false, false) => self.default,
            })
        };
        let mut points: BTreeMap<u32, Leaf> =
            [0, table::X32, 0x8000_0000].map(|start| (start, background(start))).into();
        points.extend(self.newer.iter().map(|(first, _)| (*first, background(*first))));
        for number in self.by_number.keys() {
            if let Some(next) = number.checked_add(1) {
                points.insert(next, background(next));
            }
        }
        points.extend(self.by_number);
        let mut ranges: Vec<(u32, Leaf)> = points.into_iter().collect();
        ranges.dedup_by(|later, earlier| later.1 == earlier.1);
        ranges
    }
}

/// Adds what `entries` say about the calls of `arch`.
pub(super) fn add(leaves: &mut Leaves, entries: &[Entry<'_>], arch: Architecture) {
    let mut carried: HashMap<u32, Vec<Clause>> = HashMap::new();
    for entry in entries {
        for name in entry.names {
            if let Some(number) = table::number(name, arch) {
                if entry.clauses.is_empty() {
                    leaves.always(number, entry.action);
                }
                for clause in &entry.clauses {
                    leaves.under(number, clause);
                }
            }
            if arch == Architecture::X86
                && let Some((number, clause)) = carried_by(name, entry)
            {
                carried.entry(number).or_default().push(clause);
            }
        }
    }
    for (number, clauses) in carried {
        for clause in clauses {
            leaves.under(number, &clause);
        }
    }
}

/// What `entry` means for the 32-bit x86 call that also carries `name`.
///
/// The carrier's own arguments are behind a pointer, so an entry with conditions cannot be
/// told there: one that lets calls pass is left out, one that refuses some refuses all.
fn carried_by(name: &str, entry: &Entry<'_>) -> Option<(u32, Clause)> {
    let (carrier, condition) = multiplexed::carrier(name)?;
    let number = table::number(carrier, Architecture::X86)?;
    let sayable = entry.clauses.is_empty() || ret::refuses(entry.action);
    sayable.then(|| (number, Clause { conditions: vec![condition], action: entry.action }))
}
