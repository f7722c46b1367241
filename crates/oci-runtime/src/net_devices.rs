//! `linux.netDevices`: devices of the host that become the container's.

use std::collections::HashMap;

use launch::plan::{Namespace, Namespaces, NetDevice};
use oci_spec::runtime::{Linux, LinuxNetDevice};

use crate::{PlanContext, PlanError};

/// `IFNAMSIZ` without the zero at the end.
const LONGEST: usize = 15;

/// Sorted by name.
pub(crate) fn net_devices(
    linux: &Linux,
    namespaces: &Namespaces,
    context: &PlanContext<'_>,
) -> Result<Vec<NetDevice>, PlanError> {
    let none = HashMap::new();
    let asked = linux.net_devices().as_ref().unwrap_or(&none);
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    if context.in_pod {
        return Err(PlanError::unsupported("linux.netDevices in a pod"));
    }
    if namespaces.net == Namespace::Inherit {
        let want = "none without a network namespace";
        return Err(PlanError::invalid("linux.netDevices", "set", want));
    }
    let mut devices = asked.iter().map(device).collect::<Result<Vec<_>, _>>()?;
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    let taken = |(at, device): (usize, &NetDevice)| {
        devices.iter().take(at).any(|other| other.inside == device.inside)
    };
    if devices.iter().enumerate().any(taken) {
        return Err(PlanError::invalid("linux.netDevices", "a name twice", "each name once"));
    }
    Ok(devices)
}

fn device((name, device): (&String, &LinuxNetDevice)) -> Result<NetDevice, PlanError> {
    let inside = device.name().as_ref().filter(|name| !name.is_empty()).unwrap_or(name);
    for name in [name, inside] {
        // The kernel's rules, which also make it a name in /sys and not a path.
        let bad = |c: char| c == '/' || c == ':' || c.is_ascii_whitespace() || c == '\0';
        let reserved = matches!(name.as_str(), "" | "." | "..");
        if reserved || name.len() > LONGEST || name.contains(bad) {
            let want = "the name of a network device";
            return Err(PlanError::invalid("linux.netDevices", name, want));
        }
    }
    Ok(NetDevice { name: name.clone(), inside: inside.clone() })
}
