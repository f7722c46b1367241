//! Versions, and since when something may be used.

use crate::spec::{Edits, Spec, SpecError};

/// All released versions, oldest first. Before 0.3.0 the form was another.
const VERSIONS: &[&str] = &["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

/// Refuses versions that do not exist and specs that use what theirs does not have.
pub(crate) fn check(spec: &Spec) -> Result<(), SpecError> {
    let version = spec.cdi_version.trim_start_matches('v');
    let rank = |version: &str| VERSIONS.iter().position(|known| *known == version);
    let Some(given) = rank(version) else {
        return Err(SpecError::UnknownVersion { version: spec.cdi_version.clone() });
    };
    let too_low = |(_, needed, used): &(_, &'static str, bool)| *used && rank(needed) > Some(given);
    match uses(spec).into_iter().find(too_low) {
        None => Ok(()),
        Some((uses, needed, _)) => {
            Err(SpecError::VersionTooLow { version: version.to_owned(), uses, needed })
        }
    }
}

/// What, since when, whether this spec does.
fn uses(spec: &Spec) -> [(&'static str, &'static str, bool); 9] {
    let edits = |used: fn(&Edits) -> bool| spec.all_edits().any(used);
    let class_with_dot = spec.kind.split_once('/').is_some_and(|(_, class)| class.contains('.'));
    let annotated = spec.devices.iter().any(|device| !device.annotations.is_empty());
    let numbered =
        spec.devices.iter().any(|device| device.name.starts_with(|c: char| c.is_ascii_digit()));
    [
        ("the type of a mount", "0.4.0", edits(|e| e.mounts.iter().any(|m| m.kind.is_some()))),
        (
            "hostPath of a device node",
            "0.5.0",
            edits(|e| e.device_nodes.iter().any(|node| node.host_path.is_some())),
        ),
        ("a device name that begins with a digit", "0.5.0", numbered),
        ("annotations", "0.6.0", !spec.annotations.is_empty() || annotated),
        ("a class with a dot", "0.6.0", class_with_dot),
        ("intelRdt", "0.7.0", edits(|e| e.intel_rdt.is_some())),
        ("additionalGids", "0.7.0", edits(|e| !e.additional_gids.is_empty())),
        (
            "schemata or enableMonitoring of intelRdt",
            "1.1.0",
            edits(|e| {
                e.intel_rdt
                    .as_ref()
                    .is_some_and(|rdt| !rdt.schemata.is_empty() || rdt.enable_monitoring)
            }),
        ),
        ("netDevices", "1.1.0", edits(|e| !e.net_devices.is_empty())),
    ]
}
