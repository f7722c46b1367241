//! Seccomp profiles: the built-in one, and Localhost ones.
//!
//! The built-in profile is an allow list by areas, with groups that come with a capability: what
//! the kernel would refuse without the capability anyway is not offered as attack surface either.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator as Op, LinuxSyscall,
};
use serde_json::Value;

use crate::{SpecError, capability};

mod calls;

const ENOSYS: u32 = 38;

/// Flags of `clone(2)` that make namespaces.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// Execution domains anybody may choose: Linux, short inode numbers off, 32-bit, both, and the
/// question which one is in force.
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Socket families except `AF_ALG` (38, holes in the kernel's crypto) and `AF_VSOCK` (40, talks to
/// the hypervisor) as (mask, value). The kernel reads the family from the lower half of the
/// register only; comparing ranges of the whole register would let 38 + 2^32 pass.
const FAMILIES: [(u64, u64); 7] = [
    (0xffff_ffe0, 0),  // 0–31
    (0xffff_fffc, 32), // 32–35
    (0xffff_fffe, 36), // 36–37
    (0xffff_ffff, 39),
    (0xffff_ffff, 41),
    (0xffff_fffe, 42), // 42–43
    (0xffff_fffc, 44), // 44–47
];

/// The profile of containers that ask for `RuntimeDefault`, for a container whose bounding set is
/// `bounding`, on a kernel of this version.
///
/// # Errors
/// [`SpecError::Build`], which does not happen with the values used here.
pub fn default_profile(bounding: u64, kernel: (u32, u32)) -> Result<LinuxSeccomp, SpecError> {
    let has = |name: &str| capability::holds(bounding, name);
    let mut rules = vec![allow(calls::ALWAYS)];
    rules.extend(calls::OF_PROCESSOR.map(|names| allow(&[names])));
    for family in FAMILIES {
        rules.push(allow_if("socket", arg(Op::ScmpCmpMaskedEq, family.0, family.1)?));
    }
    for personality in PERSONALITIES {
        rules.push(allow_if("personality", arg(Op::ScmpCmpEq, personality, 0)?));
    }
    // Older kernels let a traced process slip past its filter.
    if kernel >= (4, 8) {
        rules.push(allow(&[calls::TRACE]));
    }
    for (capability, names) in calls::WITH_CAPABILITY {
        if has(capability) {
            rules.push(allow(&[names]));
        }
    }
    if !has("SYS_ADMIN") {
        rules.push(allow_if("clone", arg(Op::ScmpCmpMaskedEq, NEW_NAMESPACES, 0)?));
        // Its flags are behind a pointer: libraries then fall back to clone.
        let mut clone3 = rule(&["clone3"], Action::ScmpActErrno);
        clone3.set_errno_ret(Some(ENOSYS));
        rules.push(clone3);
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(Action::ScmpActErrno)
        .set_architectures(Some(architectures()))
        .set_syscalls(Some(rules));
    Ok(profile)
}

fn architectures() -> Vec<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        "aarch64" => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        _ => vec![Arch::ScmpArchNative],
    }
}

/// `names` holds several names in each text.
fn rule(names: &[&str], action: Action) -> LinuxSyscall {
    let names = names.iter().flat_map(|area| area.split_whitespace()).map(str::to_owned);
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.collect()).set_action(action);
    rule
}

fn allow(areas: &[&str]) -> LinuxSyscall {
    rule(areas, Action::ScmpActAllow)
}

fn allow_if(name: &str, arg: LinuxSeccompArg) -> LinuxSyscall {
    let mut rule = rule(&[name], Action::ScmpActAllow);
    rule.set_args(Some(vec![arg]));
    rule
}

/// A test of the first argument.
fn arg(op: Op, value: u64, second: u64) -> Result<LinuxSeccompArg, SpecError> {
    let builder = LinuxSeccompArgBuilder::default().index(0usize).op(op).value(value);
    let builder = if op == Op::ScmpCmpMaskedEq { builder.value_two(second) } else { builder };
    Ok(builder.build()?)
}

/// Reads a Localhost profile.
///
/// Docker's own format looks alike but makes entries conditional; read as OCI the conditions would
/// be lost and more allowed than the author meant, so it is refused.
pub(crate) fn parse(profile: &str, text: &str) -> Result<LinuxSeccomp, SpecError> {
    let refuse = |source| SpecError::SeccompProfile { profile: profile.to_owned(), source };
    let value: Value = serde_json::from_str(text).map_err(refuse)?;
    let filled = |value: Option<&Value>| {
        value.is_some_and(|value| match value {
            Value::Null => false,
            Value::Array(items) => !items.is_empty(),
            Value::Object(members) => !members.is_empty(),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
        })
    };
    let entries = value.get("syscalls").and_then(Value::as_array).into_iter().flatten();
    for entry in entries {
        for key in ["includes", "excludes"] {
            if filled(entry.get(key)) {
                return Err(SpecError::SeccompFormat { profile: profile.to_owned(), key });
            }
        }
    }
    serde_json::from_value(value).map_err(refuse)
}

#[cfg(test)]
mod tests;
