//! Doing to an OCI spec what devices ask for.

use std::io;

use oci_spec::runtime as oci;

use crate::registry::Injection;
use crate::spec::{DeviceNode, Edits, Hook, IntelRdt, Mount};

/// Kind of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// Block device.
    Block,
    /// Character device.
    Char,
    /// Named pipe.
    Fifo,
}

impl NodeKind {
    fn to_oci(self) -> oci::LinuxDeviceType {
        match self {
            Self::Block => oci::LinuxDeviceType::B,
            Self::Char => oci::LinuxDeviceType::C,
            Self::Fifo => oci::LinuxDeviceType::P,
        }
    }
}

/// A device node of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostNode {
    /// Kind.
    pub kind: NodeKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
}

/// Why a device cannot be injected.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The host lacks a node, or has something else there.
    #[error("CDI device {device} needs the device node {path}")]
    Node {
        /// Whose edit it is.
        device: String,
        /// On the host.
        path: String,
        /// Why it cannot be had.
        source: io::Error,
    },
    /// The host has a node of another type.
    #[error("CDI device {device} needs {path} to be of type `{wanted}`")]
    NodeType {
        /// Whose edit it is.
        device: String,
        /// On the host.
        path: String,
        /// `b`, `c`, `u` or `p`.
        wanted: String,
    },
    /// The runtime lacks something.
    #[error("CDI device {device} asks for {edit}, which this runtime cannot do")]
    Unsupported {
        /// Whose edit it is.
        device: String,
        /// E.g. `netDevices eth1`.
        edit: String,
    },
}

impl Injection<'_> {
    /// Host paths that are bound into the container, with whose edit asks for it: the caller sees
    /// to it that they are there.
    pub fn bind_sources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.edits.iter().flat_map(|(device, edits)| {
            let bound = edits.mounts.iter().filter(|mount| is_bind(mount));
            bound.map(|mount| (device.as_str(), mount.host_path.as_str()))
        })
    }

    /// Applies all edits in their order: a later one replaces variables of the same name, and
    /// nodes and mounts at the same place. `node_at` tells what is at a path of the host.
    ///
    /// # Errors
    /// [`ApplyError`] names device and edit; the spec is then half changed.
    pub fn apply(
        &self,
        spec: &mut oci::Spec,
        node_at: &dyn Fn(&str) -> io::Result<HostNode>,
    ) -> Result<(), ApplyError> {
        for (device, edits) in &self.edits {
            refuse(device, edits)?;
            env(spec, &edits.env);
            for node in &edits.device_nodes {
                device_node(spec, device, node, node_at)?;
            }
            for mount in &edits.mounts {
                add_mount(spec, mount);
            }
            for hook in &edits.hooks {
                add_hook(spec, hook);
            }
            groups(spec, &edits.additional_gids);
            if let (Some(rdt), Some(linux)) = (&edits.intel_rdt, spec.linux_mut()) {
                linux.set_intel_rdt(Some(to_rdt(rdt)));
            }
        }
        if let Some(mounts) = spec.mounts_mut() {
            let depth = |mount: &oci::Mount| {
                let place = mount.destination().to_string_lossy();
                place.split('/').filter(|name| !name.is_empty()).count()
            };
            mounts.sort_by_cached_key(depth);
        }
        Ok(())
    }
}

/// What knarr's runtime does not do is said here, where it is known who asks for it.
fn refuse(device: &str, edits: &Edits) -> Result<(), ApplyError> {
    let refuse = |edit: String| Err(ApplyError::Unsupported { device: device.to_owned(), edit });
    if let Some(moved) = edits.net_devices.first() {
        return refuse(format!("netDevices ({})", moved.host_interface_name));
    }
    let inside = |hook: &&Hook| hook.hook_name == "startContainer";
    if let Some(hook) = edits.hooks.iter().find(inside) {
        return refuse(format!("a startContainer hook ({})", hook.path));
    }
    let rdt = edits.intel_rdt.as_ref();
    if rdt.is_some_and(|rdt| rdt.enable_monitoring || rdt.enable_cmt || rdt.enable_mbm) {
        return refuse("intelRdt with monitoring".to_owned());
    }
    Ok(())
}

fn env(spec: &mut oci::Spec, entries: &[String]) {
    let Some(process) = spec.process_mut() else { return };
    let mut env = process.env().clone().unwrap_or_default();
    for entry in entries {
        let name = |text: &str| text.split('=').next().unwrap_or_default().to_owned();
        match env.iter_mut().find(|known| name(known) == name(entry)) {
            Some(known) => known.clone_from(entry),
            None => env.push(entry.clone()),
        }
    }
    process.set_env(Some(env));
}

fn device_node(
    spec: &mut oci::Spec,
    device: &str,
    node: &DeviceNode,
    node_at: &dyn Fn(&str) -> io::Result<HostNode>,
) -> Result<(), ApplyError> {
    let path = node.host_path.as_deref().filter(|path| !path.is_empty()).unwrap_or(&node.path);
    let wanted = node.kind.as_deref().unwrap_or_default();
    // A vendor may say it all; then the host is asked for the mode alone, and need not have it.
    let major = node.major.filter(|major| *major != 0);
    let complete = !wanted.is_empty() && (major.is_some() || wanted == "p");
    let found = match node_at(path) {
        Ok(found) => Some(found),
        Err(_) if complete => None,
        Err(source) => {
            let path = path.to_owned();
            return Err(ApplyError::Node { device: device.to_owned(), path, source });
        }
    };
    let kind = match (wanted, found) {
        ("", Some(found)) => found.kind.to_oci(),
        ("b", _) => oci::LinuxDeviceType::B,
        ("p", _) => oci::LinuxDeviceType::P,
        ("u", _) => oci::LinuxDeviceType::U,
        (_, _) => oci::LinuxDeviceType::C,
    };
    if let Some(found) = found.filter(|_| !complete) {
        let same = matches!(
            (found.kind, kind),
            (NodeKind::Block, oci::LinuxDeviceType::B)
                | (NodeKind::Char, oci::LinuxDeviceType::C | oci::LinuxDeviceType::U)
                | (NodeKind::Fifo, oci::LinuxDeviceType::P)
        );
        if !same {
            return Err(ApplyError::NodeType {
                device: device.to_owned(),
                path: path.to_owned(),
                wanted: wanted.to_owned(),
            });
        }
    }
    let (major, minor) = match (major, found) {
        (Some(major), _) => (major, node.minor.unwrap_or(0)),
        (None, Some(found)) => (found.major.into(), found.minor.into()),
        (None, None) => (0, 0),
    };
    let mode = node.file_mode.or_else(|| found.map(|found| found.mode));
    add_node(spec, node, kind, (major, minor), mode);
    Ok(())
}

fn add_node(
    spec: &mut oci::Spec,
    node: &DeviceNode,
    kind: oci::LinuxDeviceType,
    (major, minor): (i64, i64),
    mode: Option<u32>,
) {
    // A node belongs to the container's user unless said otherwise.
    let user = spec.process().as_ref().map(|process| process.user().clone());
    let uid = user.as_ref().map(oci::User::uid).filter(|uid| *uid > 0);
    let gid = user.as_ref().map(oci::User::gid).filter(|gid| *gid > 0);
    let Some(linux) = spec.linux_mut() else { return };
    let mut new = oci::LinuxDevice::default();
    new.set_path(node.path.clone().into())
        .set_typ(kind)
        .set_major(major)
        .set_minor(minor)
        .set_file_mode(mode.map(|mode| mode & 0o7777))
        .set_uid(node.uid.or(uid))
        .set_gid(node.gid.or(gid));
    let mut devices = linux.devices().clone().unwrap_or_default();
    devices.retain(|device| device.path() != new.path());
    devices.push(new);
    linux.set_devices(Some(devices));

    let access = match node.permissions.as_deref().unwrap_or_default() {
        "" => "rwm",
        "none" => return,
        letters => letters,
    };
    if !matches!(kind, oci::LinuxDeviceType::B | oci::LinuxDeviceType::C | oci::LinuxDeviceType::U)
    {
        return;
    }
    let kind = if kind == oci::LinuxDeviceType::B { kind } else { oci::LinuxDeviceType::C };
    let mut rule = oci::LinuxDeviceCgroup::default();
    rule.set_allow(true)
        .set_typ(Some(kind))
        .set_major(Some(major))
        .set_minor(Some(minor))
        .set_access(Some(access.to_owned()));
    let mut resources = linux.resources().clone().unwrap_or_default();
    let mut rules = resources.devices().clone().unwrap_or_default();
    rules.push(rule);
    resources.set_devices(Some(rules));
    linux.set_resources(Some(resources));
}

/// A mount without a file system type is one of a host path.
fn is_bind(mount: &Mount) -> bool {
    let named = mount.options.iter().any(|option| matches!(option.as_str(), "bind" | "rbind"));
    named || matches!(mount.kind.as_deref().unwrap_or_default(), "" | "none" | "bind")
}

fn add_mount(spec: &mut oci::Spec, mount: &Mount) {
    let mut options = mount.options.clone();
    let named = options.iter().any(|option| matches!(option.as_str(), "bind" | "rbind"));
    if is_bind(mount) && !named {
        options.push("rbind".to_owned());
    }
    let kind = mount.kind.clone().filter(|kind| !kind.is_empty());
    let kind = kind.or_else(|| is_bind(mount).then(|| "bind".to_owned()));
    let mut new = oci::Mount::default();
    new.set_destination(mount.container_path.clone().into())
        .set_source(Some(mount.host_path.clone().into()))
        .set_typ(kind)
        .set_options(Some(options));
    // In a user namespace of its own the container would see files of nobody.
    if is_bind(mount)
        && let Some(linux) = spec.linux()
    {
        new.set_uid_mappings(linux.uid_mappings().clone())
            .set_gid_mappings(linux.gid_mappings().clone());
    }
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.retain(|known| known.destination() != new.destination());
    mounts.push(new);
    spec.set_mounts(Some(mounts));
}

#[allow(deprecated, reason = "specs of devices may still name prestart hooks")]
fn add_hook(spec: &mut oci::Spec, hook: &Hook) {
    let mut new = oci::Hook::default();
    let filled = |list: &[String]| Some(list.to_vec()).filter(|list| !list.is_empty());
    new.set_path(hook.path.clone().into())
        .set_args(filled(&hook.args))
        .set_env(filled(&hook.env))
        .set_timeout(hook.timeout);
    let mut hooks = spec.hooks().clone().unwrap_or_default();
    let with = |list: &Option<Vec<oci::Hook>>| {
        Some(list.iter().flatten().cloned().chain([new.clone()]).collect())
    };
    match hook.hook_name.as_str() {
        "prestart" => hooks.set_prestart(with(hooks.prestart())),
        "createRuntime" => hooks.set_create_runtime(with(hooks.create_runtime())),
        "createContainer" => hooks.set_create_container(with(hooks.create_container())),
        "startContainer" => hooks.set_start_container(with(hooks.start_container())),
        "poststart" => hooks.set_poststart(with(hooks.poststart())),
        // Others have been refused when the file was read.
        _ => hooks.set_poststop(with(hooks.poststop())),
    };
    spec.set_hooks(Some(hooks));
}

fn groups(spec: &mut oci::Spec, gids: &[u32]) {
    let Some(process) = spec.process_mut() else { return };
    let mut user = process.user().clone();
    let mut groups = user.additional_gids().clone().unwrap_or_default();
    for gid in gids.iter().filter(|gid| **gid != 0) {
        if !groups.contains(gid) {
            groups.push(*gid);
        }
    }
    user.set_additional_gids(Some(groups));
    process.set_user(user);
}

fn to_rdt(rdt: &IntelRdt) -> oci::LinuxIntelRdt {
    let filled = |list: &[String]| Some(list.to_vec()).filter(|list| !list.is_empty());
    let mut to = oci::LinuxIntelRdt::default();
    to.set_clos_id(rdt.clos_id.clone())
        .set_l3_cache_schema(rdt.l3_cache_schema.clone())
        .set_mem_bw_schema(rdt.mem_bw_schema.clone())
        .set_schemata(filled(&rdt.schemata));
    to
}

#[cfg(test)]
mod tests;
