//! Capability names, the default set, and what a request makes of it.

use std::str::FromStr;

use model::Capabilities;
use oci_spec::runtime::{Capability, LinuxCapabilities};

use crate::SpecError;

/// Names without `CAP_`, at their numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container gets that asks for nothing.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Every capability this file names.
const KNOWN: u64 = (1 << NAMES.len()) - 1;

/// A container's capabilities as bit masks over capability numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapabilityMasks {
    /// Bounding, permitted and effective set.
    pub bounding: u64,
    /// Inheritable and ambient set, a part of `bounding`.
    pub ambient: u64,
}

/// The capabilities of a container that asks for `requested`, where `offered` can be given.
///
/// `ALL` is looked at before single names: add `ALL`, drop `X` is all but X, drop `ALL`, add `X`
/// is only X. A name both added and dropped is dropped. A privileged container gets everything.
///
/// # Errors
/// [`SpecError::UnknownCapability`].
pub fn capabilities(
    requested: &Capabilities,
    privileged: bool,
    offered: u64,
) -> Result<CapabilityMasks, SpecError> {
    let asked = asked(requested, privileged)?;
    Ok(CapabilityMasks { bounding: asked.bounding & offered, ambient: asked.ambient & offered })
}

/// Names of the capabilities that were asked for one by one and are not `offered`; for the log.
///
/// # Errors
/// [`SpecError::UnknownCapability`].
pub fn withheld_capabilities(
    requested: &Capabilities,
    offered: u64,
) -> Result<Vec<&'static str>, SpecError> {
    let asked = single(&requested.add)? | single(&requested.add_ambient)?;
    let withheld = asked & !single(&requested.drop)? & !offered;
    Ok((0u32..).zip(NAMES).filter(|(n, _)| withheld >> n & 1 == 1).map(|(_, name)| name).collect())
}

fn asked(requested: &Capabilities, privileged: bool) -> Result<CapabilityMasks, SpecError> {
    let (add, drop) = (single(&requested.add)?, single(&requested.drop)?);
    let mut base = DEFAULT.iter().filter_map(|name| bit(name)).fold(0, |mask, bit| mask | bit);
    if privileged || names_all(&requested.add) {
        base = KNOWN;
    }
    if names_all(&requested.drop) {
        base = 0;
    }
    let mut ambient = single(&requested.add_ambient)?;
    if names_all(&requested.add_ambient) {
        ambient = KNOWN;
    }
    if privileged {
        return Ok(CapabilityMasks { bounding: KNOWN, ambient });
    }
    Ok(CapabilityMasks { bounding: (base | add) & !drop | ambient, ambient })
}

fn names_all(names: &[String]) -> bool {
    names.iter().any(|name| name.eq_ignore_ascii_case("ALL"))
}

/// The single names among `names`.
fn single(names: &[String]) -> Result<u64, SpecError> {
    let single = names.iter().filter(|name| !name.eq_ignore_ascii_case("ALL"));
    single
        .map(|name| bit(name).ok_or_else(|| SpecError::UnknownCapability { name: name.clone() }))
        .try_fold(0, |mask, bit| Ok(mask | bit?))
}

fn bit(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == short).map(|number| 1 << number)
}

/// Whether `mask` holds the capability called `name`.
pub(crate) fn holds(mask: u64, name: &str) -> bool {
    bit(name).is_some_and(|bit| mask & bit != 0)
}

/// As the spec writes them.
pub(crate) fn to_oci(masks: CapabilityMasks) -> LinuxCapabilities {
    let set = |mask: u64| {
        let names = (0u32..).zip(NAMES).filter(|(number, _)| mask >> number & 1 == 1);
        Some(names.filter_map(|(_, name)| Capability::from_str(name).ok()).collect())
    };
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(set(masks.bounding))
        .set_permitted(set(masks.bounding))
        .set_effective(set(masks.bounding))
        .set_inheritable(set(masks.ambient))
        .set_ambient(set(masks.ambient));
    capabilities
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(add: &[&str], drop: &[&str]) -> Capabilities {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Capabilities { add: own(add), drop: own(drop), add_ambient: Vec::new() }
    }

    fn bounding(add: &[&str], drop: &[&str]) -> u64 {
        capabilities(&request(add, drop), false, u64::MAX).unwrap().bounding
    }

    #[test]
    fn every_name_is_known_to_the_spec_types() {
        for name in NAMES {
            assert!(Capability::from_str(name).is_ok(), "{name}");
        }
        assert_eq!(
            to_oci(CapabilityMasks { bounding: KNOWN, ambient: 0 })
                .bounding()
                .as_ref()
                .unwrap()
                .len(),
            41
        );
    }

    #[test]
    fn names_are_read_in_any_case_with_and_without_prefix() {
        for name in ["NET_ADMIN", "CAP_NET_ADMIN", "cap_net_admin", "Net_Admin"] {
            assert!(holds(bounding(&[name], &[]), "NET_ADMIN"), "{name}");
        }
        assert!(!holds(bounding(&[], &[]), "NET_ADMIN"));
    }

    #[test]
    fn all_is_looked_at_before_single_names() {
        assert_eq!(bounding(&["ALL"], &["NET_RAW"]), KNOWN & !(1 << 13));
        assert_eq!(bounding(&["CHOWN"], &["all"]), 1);
        assert_eq!(bounding(&[], &["ALL"]), 0);
        assert_eq!(bounding(&["ALL"], &["ALL"]), 0);
        assert!(!holds(bounding(&["NET_RAW"], &["NET_RAW"]), "NET_RAW"));
    }

    #[test]
    fn nothing_is_given_that_the_host_does_not_offer() {
        let offered = KNOWN & !(1 << 24);
        let masks = capabilities(&request(&["ALL"], &[]), false, offered).unwrap();
        assert_eq!(masks.bounding, offered);
        let masks = capabilities(&request(&[], &["ALL"]), true, offered).unwrap();
        assert_eq!(masks.bounding, offered, "privileged is everything offered");
        assert_eq!(
            withheld_capabilities(&request(&["SYS_RESOURCE", "CHOWN"], &[]), offered).unwrap(),
            ["SYS_RESOURCE"]
        );
    }

    #[test]
    fn ambient_capabilities_are_in_all_five_sets() {
        let mut requested = request(&[], &["ALL"]);
        requested.add_ambient = vec!["NET_BIND_SERVICE".into()];
        let masks = capabilities(&requested, false, u64::MAX).unwrap();
        assert_eq!(masks, CapabilityMasks { bounding: 1 << 10, ambient: 1 << 10 });
    }

    #[test]
    fn an_unknown_name_is_refused() {
        let refused = capabilities(&request(&["NOT_A_CAP"], &[]), false, u64::MAX);
        assert!(
            matches!(refused, Err(SpecError::UnknownCapability { name }) if name == "NOT_A_CAP")
        );
    }
}
