//! The spec as a whole; each part in a module of its own.

mod annotations;
mod devices;
mod linux;
mod mounts;
mod process;
mod resources;
pub(crate) mod seccomp;
mod security;

#[cfg(test)]
mod tests;

use model::ContainerConfig;
use oci_spec::runtime::{Mount, Root, Spec};

use crate::{
    ContainerInput, SelinuxLabels, SpecError, capability, selinux, selinux_labels, selinux_merged,
};

pub use mounts::image_volumes;
pub use process::{environment, process_args};
pub use resources::limits;

/// Refuses what no host could make of a container, before anything is looked up or made for it.
///
/// # Errors
/// [`SpecError`] names the field and its value.
pub fn check_container(config: &ContainerConfig) -> Result<(), SpecError> {
    process::check(config)?;
    mounts::check(&config.mounts)?;
    resources::check(&config.resources)?;
    config.security.selinux.as_ref().map_or(Ok(()), selinux::check)
}

/// Builds the spec of one container.
///
/// # Errors
/// [`SpecError`] names what cannot be honoured.
pub fn container_spec(input: &ContainerInput<'_>) -> Result<Spec, SpecError> {
    check_container(input.config)?;
    security::admit(input)?;
    let requested = &input.config.security.capabilities;
    let capabilities =
        capability::capabilities(requested, input.privileged(), input.host.bounding_caps)?;
    let labels = labels(input)?;
    let mounts = mounts::mounts(input)?;
    let version = version(input, &mounts);

    let mut root = Root::default();
    root.set_path(input.root_path.into());
    root.set_readonly(Some(input.config.security.readonly_rootfs));

    // The type's default is a sample configuration: every field is set here.
    let mut spec = Spec::default();
    spec.set_version(version.to_owned())
        .set_root(Some(root))
        .set_process(Some(process::process(input, capabilities, labels.as_ref())?))
        .set_hostname(None)
        .set_mounts(Some(mounts))
        .set_annotations(Some(annotations::annotations(input)))
        .set_linux(Some(linux::linux(input, capabilities, labels)?));
    Ok(spec)
}

/// The SELinux labels of one container; `None` on hosts without SELinux.
///
/// # Errors
/// [`SpecError::Invalid`] for what can be no part of a label.
fn labels(input: &ContainerInput<'_>) -> Result<Option<SelinuxLabels>, SpecError> {
    let asked =
        selinux_merged(input.config.security.selinux.as_ref(), input.pod.security.selinux.as_ref());
    selinux_labels(asked.as_ref(), input.selinux_level, input.privileged(), input.host)
}

/// The oldest version of the specification that knows everything the spec uses: older runtimes
/// refuse a spec that says it is newer than they are.
fn version(input: &ContainerInput<'_>, mounts: &[Mount]) -> &'static str {
    let recursive = mounts
        .iter()
        .flat_map(|mount| mount.options().iter().flatten())
        .any(|option| option == "rro");
    let mapped = mounts.iter().any(|mount| mount.uid_mappings().is_some());
    let unified = !input.config.resources.unified.is_empty();
    if recursive || mapped || unified { "1.1.0" } else { "1.0.2" }
}
