//! `linux.devices` and the rules about them.

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use crate::{ContainerInput, DeviceKind, HostDevice, SpecError, path};

/// Directories and nodes below `/dev` that every container gets of its own.
const OWN: &[&str] = &[
    "/dev/pts",
    "/dev/shm",
    "/dev/fd",
    "/dev/mqueue",
    "/dev/console",
    "/dev/ptmx",
    "/dev/stdin",
    "/dev/stdout",
    "/dev/stderr",
];

/// The nodes to make: what was asked for; privileged, all of the host's besides.
pub(super) fn nodes(input: &ContainerInput<'_>) -> Vec<LinuxDevice> {
    let mut nodes: Vec<LinuxDevice> = Vec::new();
    let hosts = input.host.devices.iter().filter(|device| input.privileged() && !is_own(device));
    for device in hosts.chain(input.devices.iter().map(|device| &device.node)) {
        let node = node(device);
        match nodes.iter_mut().find(|known| known.path() == node.path()) {
            Some(known) => *known = node,
            None => nodes.push(node),
        }
    }
    nodes
}

fn is_own(device: &HostDevice) -> bool {
    let below = |own: &str| {
        device.path.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    OWN.iter().any(|own| below(own))
}

fn node(device: &HostDevice) -> LinuxDevice {
    let mut node = LinuxDevice::default();
    node.set_path(path::clean(&device.path).into())
        .set_typ(kind(device.kind))
        .set_major(device.major.into())
        .set_minor(device.minor.into())
        .set_file_mode(Some(device.mode & 0o7777))
        .set_uid(Some(device.uid))
        .set_gid(Some(device.gid));
    node
}

fn kind(kind: DeviceKind) -> LinuxDeviceType {
    match kind {
        DeviceKind::Char => LinuxDeviceType::C,
        DeviceKind::Block => LinuxDeviceType::B,
    }
}

/// Everything is denied, then the requested devices are allowed; the runtime adds the standard
/// ones. Privileged: everything is allowed.
pub(super) fn rules(input: &ContainerInput<'_>) -> Result<Vec<LinuxDeviceCgroup>, SpecError> {
    let mut all = LinuxDeviceCgroup::default();
    all.set_allow(input.privileged()).set_access(Some("rwm".into()));
    all.set_typ(input.privileged().then_some(LinuxDeviceType::A));
    let mut rules = vec![all];
    for device in input.devices {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(true)
            .set_typ(Some(kind(device.node.kind)))
            .set_major(Some(device.node.major.into()))
            .set_minor(Some(device.node.minor.into()))
            .set_access(Some(permissions(&device.permissions)?));
        rules.push(rule);
    }
    Ok(rules)
}

fn permissions(text: &str) -> Result<String, SpecError> {
    match text {
        "" => Ok("rwm".into()),
        text if text.chars().all(|letter| "rwm".contains(letter)) => Ok(text.into()),
        text => Err(SpecError::invalid("devices.permissions", text, "letters out of `rwm`")),
    }
}
