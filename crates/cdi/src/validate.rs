//! Values of a spec that nothing can be made of.

use std::collections::BTreeSet;

use crate::name::{is_device, is_kind};
use crate::spec::{Edits, Spec, SpecError};

/// Points of a container's life at which hooks run.
pub(crate) const HOOKS: &[&str] =
    &["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

pub(crate) fn check(spec: &Spec) -> Result<(), SpecError> {
    if !is_kind(&spec.kind) {
        return refuse("kind", &spec.kind, "VENDOR/CLASS");
    }
    if spec.devices.is_empty() {
        return refuse("devices", "", "at least one");
    }
    edits("containerEdits", &spec.container_edits)?;
    let mut names = BTreeSet::new();
    for device in &spec.devices {
        let field = format!("device `{}`", device.name);
        if !is_device(&device.name) {
            return refuse("the name of a device", &device.name, "letters, digits and `_-.:`");
        }
        if !names.insert(device.name.as_str()) {
            return refuse("the name of a device", &device.name, "each name once");
        }
        if device.container_edits == Edits::default() {
            return refuse(&format!("containerEdits of {field}"), "", "at least one edit");
        }
        edits(&field, &device.container_edits)?;
    }
    Ok(())
}

fn refuse(field: &str, value: &str, want: &'static str) -> Result<(), SpecError> {
    Err(SpecError::Invalid { field: field.to_owned(), value: value.to_owned(), want })
}

fn edits(field: &str, edits: &Edits) -> Result<(), SpecError> {
    env(&format!("{field}: env"), &edits.env)?;
    for node in &edits.device_nodes {
        let at = |what: &str| format!("{field}: {what} of device node `{}`", node.path);
        absolute(&at("path"), &node.path)?;
        if let Some(path) = &node.host_path {
            absolute(&at("hostPath"), path)?;
        }
        let kind = node.kind.as_deref().unwrap_or_default();
        if !matches!(kind, "" | "b" | "c" | "u" | "p") {
            return refuse(&at("type"), kind, "b, c, u or p");
        }
        let permissions = node.permissions.as_deref().unwrap_or_default();
        if permissions != "none" && !permissions.chars().all(|letter| "rwm".contains(letter)) {
            return refuse(&at("permissions"), permissions, "letters out of `rwm`, or `none`");
        }
        for (what, value) in [("major", node.major), ("minor", node.minor)] {
            if let Some(value) = value.filter(|value| u32::try_from(*value).is_err()) {
                return refuse(&at(what), &value.to_string(), "a device number");
            }
        }
    }
    hooks(field, edits)?;
    for mount in &edits.mounts {
        let at = |what: &str| format!("{field}: {what} of mount `{}`", mount.container_path);
        absolute(&at("containerPath"), &mount.container_path)?;
        if mount.host_path.is_empty() {
            return refuse(&at("hostPath"), "", "a path");
        }
    }
    let mut names = BTreeSet::new();
    for device in &edits.net_devices {
        let both = [("host", &device.host_interface_name), ("container", &device.name)];
        for (side, name) in both {
            if name.is_empty() || !names.insert((side, name)) {
                return refuse(&format!("{field}: netDevices"), name, "each interface once");
            }
        }
    }
    Ok(())
}

fn hooks(field: &str, edits: &Edits) -> Result<(), SpecError> {
    for hook in &edits.hooks {
        let at = |what: &str| format!("{field}: {what} of hook `{}`", hook.path);
        if !HOOKS.contains(&hook.hook_name.as_str()) {
            return refuse(&at("hookName"), &hook.hook_name, "a hook of the OCI specification");
        }
        absolute(&at("path"), &hook.path)?;
        env(&at("env"), &hook.env)?;
        if let Some(timeout) = hook.timeout.filter(|timeout| *timeout <= 0) {
            return refuse(&at("timeout"), &timeout.to_string(), "more than 0 seconds");
        }
    }
    Ok(())
}

fn absolute(field: &str, path: &str) -> Result<(), SpecError> {
    if path.starts_with('/') && !path.contains('\0') {
        return Ok(());
    }
    refuse(field, path, "an absolute path")
}

fn env(field: &str, env: &[String]) -> Result<(), SpecError> {
    let wrong = |entry: &&String| entry.find('=').is_none_or(|at| at == 0) || entry.contains('\0');
    match env.iter().find(wrong) {
        None => Ok(()),
        Some(entry) => refuse(field, entry, "NAME=VALUE"),
    }
}
