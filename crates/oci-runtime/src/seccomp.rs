//! Seccomp profiles (OCI `linux.seccomp`) compiled to classic BPF.
//!
//! The program first tells the architecture apart (an unknown one ends the process), then finds
//! the call's number by binary search over ranges of numbers that share an outcome, and only for
//! rules with conditions looks at arguments.
//!
//! What a profile means is what runc with libseccomp makes of it:
//! - an entry whose action is the default action adds nothing;
//! - a call's first entry without conditions decides it, wherever it stands;
//! - otherwise the first entry whose conditions all hold decides, else the default action;
//! - an entry that tests one argument twice holds if *any* of its conditions holds;
//! - names the kernel's tables lack are skipped;
//! - the native architecture is always covered, also when not listed;
//! - where the default action is an error, calls newer than every call the profile names get
//!   `ENOSYS`.
//!
//! Differences, all towards refusing: x32 calls without `SCMP_ARCH_X32` get the default action,
//! or end the process where the default action would let them pass; conditions compare all 64
//! bits on 32-bit architectures too (the kernel zero-extends there).

mod arch;
mod assemble;
mod known;
mod multiplexed;
mod rules;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use launch::plan::SeccompPlan;
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag};

pub use arch::Architecture;
pub(crate) use known::program;

/// Why a profile cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeccompError {
    /// Every call would wait, those by which the container is set up too.
    #[error("SCMP_ACT_NOTIFY as the default action: nothing could be done without the agent")]
    NotifyByDefault,
    /// A flag that only makes sense with a listener.
    #[error("filter flag {flag} without SCMP_ACT_NOTIFY")]
    Flag {
        /// Its name.
        flag: &'static str,
    },
    /// System calls have six arguments.
    #[error("a rule for `{syscall}` tests argument {index}: there are arguments 0 to 5")]
    Argument {
        /// First name of the rule.
        syscall: String,
        /// The refused index.
        index: usize,
    },
    /// The kernel knows errno values up to 4095.
    #[error("errno {errno} is out of range: want 0 to 4095")]
    Errno {
        /// The refused value.
        errno: u32,
    },
    /// The kernel takes 4096 instructions.
    #[error("the compiled filter has {instructions} instructions: the kernel takes 4096")]
    TooLong {
        /// How many there would be.
        instructions: usize,
    },
    /// No system call table for the processor this runs on.
    #[error("no seccomp filters can be made for this processor")]
    Processor,
}

/// `SECCOMP_RET_*` values with their data.
pub(crate) mod ret {
    pub(crate) const KILL_PROCESS: u32 = 0x8000_0000;
    pub(crate) const KILL_THREAD: u32 = 0;
    pub(crate) const TRAP: u32 = 0x0003_0000;
    pub(crate) const ERRNO: u32 = 0x0005_0000;
    pub(crate) const NOTIFY: u32 = 0x7fc0_0000;
    pub(crate) const TRACE: u32 = 0x7ff0_0000;
    pub(crate) const LOG: u32 = 0x7ffc_0000;
    pub(crate) const ALLOW: u32 = 0x7fff_0000;

    /// Whether the call is refused or ended without anybody else's say.
    pub(crate) fn refuses(action: u32) -> bool {
        matches!(action & 0xffff_0000, KILL_PROCESS | KILL_THREAD | TRAP | ERRNO)
    }
}

const EPERM: u32 = 1;
const MAX_INSTRUCTIONS: usize = 4096;

/// Compiles `profile` for a machine whose 64-bit (or only) interface is `native`.
///
/// # Errors
/// [`SeccompError`] when the profile asks for what a filter cannot do.
pub fn compile(profile: &LinuxSeccomp, native: Architecture) -> Result<SeccompPlan, SeccompError> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    if default == ret::NOTIFY {
        return Err(SeccompError::NotifyByDefault);
    }
    let entries = rules::entries(profile, default)?;
    let program = assemble::program(&sections(profile, native, &entries, default));
    if program.len() > MAX_INSTRUCTIONS {
        return Err(SeccompError::TooLong { instructions: program.len() });
    }
    Ok(SeccompPlan {
        program: program.iter().flat_map(|insn| insn.to_bytes()).collect(),
        flags: flags(profile)?,
        listener: None,
    })
}

/// Whether a filter made of this profile asks a listener about some calls.
pub fn asks(profile: &LinuxSeccomp) -> bool {
    let rules = profile.syscalls().iter().flatten();
    rules.into_iter().any(|rule| rule.action() == LinuxSeccompAction::ScmpActNotify)
}

/// One section per audit value, the native one first.
fn sections(
    profile: &LinuxSeccomp,
    native: Architecture,
    entries: &[rules::Entry<'_>],
    default: u32,
) -> Vec<assemble::Section> {
    let listed = profile.architectures().iter().flatten();
    let mut covered: BTreeSet<Architecture> =
        listed.filter_map(|arch| Architecture::named(*arch, native)).collect();
    covered.insert(native);
    let mut audits = vec![native.audit()];
    audits.extend(covered.iter().map(|arch| arch.audit()).filter(|audit| *audit != native.audit()));
    audits.dedup();
    audits
        .into_iter()
        .map(|audit| {
            let mut leaves = rules::Leaves::new(default);
            for arch in covered.iter().filter(|arch| arch.audit() == audit) {
                leaves.unknown_above(profile, *arch);
                rules::add(&mut leaves, entries, *arch);
            }
            let x32_is_unfiltered = audit == Architecture::X32.audit()
                && !covered.contains(&Architecture::X32)
                && !ret::refuses(default);
            if x32_is_unfiltered {
                leaves.refuse_x32();
            }
            assemble::Section { audit, ranges: leaves.into_ranges() }
        })
        .collect()
}

/// The kernel's value of an action.
fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, SeccompError> {
    let data = errno.unwrap_or(EPERM);
    let with_data = |base: u32| {
        if data <= 4095 { Ok(base | data) } else { Err(SeccompError::Errno { errno: data }) }
    };
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            Ok(ret::KILL_THREAD)
        }
        LinuxSeccompAction::ScmpActKillProcess => Ok(ret::KILL_PROCESS),
        LinuxSeccompAction::ScmpActTrap => Ok(ret::TRAP),
        LinuxSeccompAction::ScmpActErrno => with_data(ret::ERRNO),
        LinuxSeccompAction::ScmpActTrace => with_data(ret::TRACE),
        LinuxSeccompAction::ScmpActLog => Ok(ret::LOG),
        LinuxSeccompAction::ScmpActAllow => Ok(ret::ALLOW),
        LinuxSeccompAction::ScmpActNotify => Ok(ret::NOTIFY),
    }
}

/// `SECCOMP_FILTER_FLAG_*`. Without a list: `SPEC_ALLOW`, as a filter would otherwise slow the
/// container down by the store-bypass mitigation older kernels tie to seccomp.
fn flags(profile: &LinuxSeccomp) -> Result<u32, SeccompError> {
    const TSYNC: u32 = 1;
    const LOG: u32 = 2;
    const SPEC_ALLOW: u32 = 4;
    const WAIT_KILLABLE: u32 = 32;
    let Some(listed) = profile.flags() else { return Ok(SPEC_ALLOW) };
    listed.iter().try_fold(0, |flags, flag| match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => Ok(flags | TSYNC),
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => Ok(flags | LOG),
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => Ok(flags | SPEC_ALLOW),
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if asks(profile) => {
            Ok(flags | WAIT_KILLABLE)
        }
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
            Err(SeccompError::Flag { flag: "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" })
        }
    })
}
