//! `linux.devices` and `linux.resources.devices`: nodes, and who may open which.
//!
//! Rules are read in order and a later rule wins, decided for each of read, write and mknod by
//! itself: denying writing to a device leaves reading it as it was. Before the first rule nothing
//! is allowed. The devices every container needs are allowed right behind the last rule about
//! *all* devices, so that rules further on can still take them away.

mod program;
mod v1;

use launch::plan::{CgroupSetting, DeviceKind, DeviceNode};
use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use crate::PlanError;

const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// What a device rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Block,
    Char,
}

/// One rule about one class of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    class: Class,
    /// `None`: every major number.
    major: Option<u32>,
    minor: Option<u32>,
    /// Bits of [`ALL`].
    access: u8,
}

/// A device policy: rules, and what holds where none applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicePolicy {
    allow_others: bool,
    rules: Vec<Rule>,
}

/// Device numbers of the nodes the launcher makes in every container.
const STANDARD: &[(&str, i64, i64)] = &[
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Terminals: `/dev/ptmx` and everything in `/dev/pts`.
const TERMINALS: &[(u32, Option<u32>)] = &[(5, Some(2)), (136, None)];

/// Nodes to make besides the standard ones.
pub(crate) fn nodes(linux: &Linux) -> Result<Vec<DeviceNode>, PlanError> {
    let standard = |device: &&LinuxDevice| {
        device.typ() == LinuxDeviceType::C
            && STANDARD.iter().any(|(path, major, minor)| {
                device.path().as_os_str() == *path
                    && (device.major(), device.minor()) == (*major, *minor)
            })
    };
    // A link to the container's own terminals.
    let terminals = |device: &&LinuxDevice| device.path().as_os_str() == "/dev/ptmx";
    let listed = linux.devices().iter().flatten();
    listed.filter(|device| !standard(device) && !terminals(device)).map(node).collect()
}

fn node(device: &LinuxDevice) -> Result<DeviceNode, PlanError> {
    let field = format!("linux.devices[{}]", device.path().display());
    let path = device.path().to_str().filter(|path| path.starts_with('/'));
    let path = path.ok_or_else(|| PlanError::invalid(&field, "path", "an absolute path"))?;
    let kind = match device.typ() {
        LinuxDeviceType::B => DeviceKind::Block,
        LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
        LinuxDeviceType::P => DeviceKind::Fifo,
        LinuxDeviceType::A => return Err(PlanError::invalid(&field, "a", "type b, c, u or p")),
    };
    let number = |value: i64, what: &str| {
        let refuse = |_| PlanError::invalid(format!("{field}.{what}"), value, "a device number");
        u32::try_from(value).map_err(refuse)
    };
    Ok(DeviceNode {
        path: path.to_owned(),
        kind,
        major: number(device.major(), "major")?,
        minor: number(device.minor(), "minor")?,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

impl DevicePolicy {
    /// Reads the rules of `resources`.
    ///
    /// # Errors
    /// [`PlanError::Invalid`] for a rule about nothing the kernel controls.
    pub fn new(resources: Option<&LinuxResources>) -> Result<Self, PlanError> {
        let mut policy = Self { allow_others: false, rules: default_rules() };
        let listed = resources.and_then(|resources| resources.devices().as_ref());
        for rule in listed.into_iter().flatten() {
            policy.add(rule)?;
        }
        Ok(policy)
    }

    fn add(&mut self, rule: &LinuxDeviceCgroup) -> Result<(), PlanError> {
        let access = access(rule)?;
        let major = number(rule, rule.major())?;
        let minor = number(rule, rule.minor())?;
        let classes: &[Class] = match rule.typ() {
            None | Some(LinuxDeviceType::A) => &[Class::Block, Class::Char],
            Some(LinuxDeviceType::B) => &[Class::Block],
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => &[Class::Char],
            Some(LinuxDeviceType::P) => return Err(refused(rule, "type a, b or c")),
        };
        let everything = classes.len() == 2 && major.is_none() && minor.is_none() && access == ALL;
        if everything {
            self.allow_others = rule.allow();
            self.rules = if rule.allow() { Vec::new() } else { default_rules() };
        } else {
            let one =
                |class: &Class| Rule { allow: rule.allow(), class: *class, major, minor, access };
            self.rules.extend(classes.iter().map(one));
        }
        Ok(())
    }

    /// Whether nothing is refused.
    fn allows_everything(&self) -> bool {
        self.allow_others && self.rules.iter().all(|rule| rule.allow)
    }

    /// For v2: a `BPF_PROG_TYPE_CGROUP_DEVICE` program, `None` where nothing is refused.
    pub fn program(&self) -> Option<Vec<u8>> {
        (!self.allows_everything()).then(|| program::bytes(self))
    }

    /// For v1: values for `devices.allow` and `devices.deny`.
    ///
    /// # Errors
    /// [`PlanError::Unsupported`] for a rule that takes away a part of what an earlier, wider rule
    /// gave: v1 forgets only rules that are covered whole.
    pub fn settings(&self) -> Result<Vec<CgroupSetting>, PlanError> {
        v1::settings(self)
    }
}

fn default_rules() -> Vec<Rule> {
    let allow = |class, major, minor, access| Rule { allow: true, class, major, minor, access };
    let mut rules =
        vec![allow(Class::Char, None, None, MKNOD), allow(Class::Block, None, None, MKNOD)];
    for (_, major, minor) in STANDARD {
        let small = |number: &i64| u32::try_from(*number).ok();
        rules.push(allow(Class::Char, small(major), small(minor), ALL));
    }
    rules.extend(
        TERMINALS.iter().map(|(major, minor)| allow(Class::Char, Some(*major), *minor, ALL)),
    );
    rules
}

fn access(rule: &LinuxDeviceCgroup) -> Result<u8, PlanError> {
    let text = rule.access().as_deref().unwrap_or_default();
    let bits = text.chars().try_fold(0, |bits, letter| match letter {
        'm' => Some(bits | MKNOD),
        'r' => Some(bits | READ),
        'w' => Some(bits | WRITE),
        _ => None,
    });
    bits.filter(|bits| *bits != 0).ok_or_else(|| refused(rule, "an access of letters out of `rwm`"))
}

fn number(rule: &LinuxDeviceCgroup, value: Option<i64>) -> Result<Option<u32>, PlanError> {
    match value {
        // runc's word for "any".
        None | Some(-1) => Ok(None),
        // The filter compares with signed immediates.
        Some(value) => match u32::try_from(value) {
            Ok(small) if i32::try_from(value).is_ok() => Ok(Some(small)),
            Ok(_) | Err(_) => Err(refused(rule, "device numbers")),
        },
    }
}

fn refused(rule: &LinuxDeviceCgroup, want: &'static str) -> PlanError {
    PlanError::invalid("linux.resources.devices", rule, want)
}

#[cfg(test)]
mod tests;
