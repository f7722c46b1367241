//! Who may ask for what, and the profiles of the security modules.

use model::SecurityProfile;
use oci_spec::runtime::LinuxSeccomp;

use super::seccomp;
use crate::{ContainerInput, SpecError, namespaces};

/// Refuses what knarr cannot honour, before anything is built.
pub(super) fn admit(input: &ContainerInput<'_>) -> Result<(), SpecError> {
    let security = &input.config.security;
    if security.privileged && !input.pod.security.privileged {
        return Err(SpecError::PrivilegedContainer);
    }
    namespaces::check(&input.pod.security.namespaces, &security.namespaces)?;
    mapped(input)?;
    // SELinux would have to label the process and everything mounted for it.
    let labels = input.host.selinux && !security.privileged;
    for (present, what) in [(labels, "an SELinux label on a host with SELinux enabled")] {
        if present {
            return Err(SpecError::Unsupported { what });
        }
    }
    Ok(())
}

/// Refuses a user that does not exist in the pod's user namespace.
fn mapped(input: &ContainerInput<'_>) -> Result<(), SpecError> {
    let Some(users) = input.users() else { return Ok(()) };
    let user = input.user;
    if users.host_uid(user.uid).is_none() {
        return Err(SpecError::Unmapped { field: "user", id: user.uid });
    }
    let mut groups = std::iter::once(&user.gid).chain(&user.groups);
    match groups.find(|gid| users.host_gid(**gid).is_none()) {
        Some(gid) => Err(SpecError::Unmapped { field: "group", id: *gid }),
        None => Ok(()),
    }
}

/// The AppArmor profile to run in; `None` is unconfined.
pub(super) fn apparmor(input: &ContainerInput<'_>) -> Result<Option<String>, SpecError> {
    let asked = input.config.security.apparmor.as_ref();
    match (asked, &input.host.apparmor) {
        (Some(SecurityProfile::Localhost(profile)), None) => {
            Err(SpecError::AppArmorProfile { profile: profile.clone() })
        }
        (Some(SecurityProfile::Localhost(profile)), Some(facts)) => {
            if facts.loaded.contains(profile) {
                Ok(Some(profile.clone()))
            } else {
                Err(SpecError::AppArmorProfile { profile: profile.clone() })
            }
        }
        (Some(SecurityProfile::Unconfined), _) | (_, None) => Ok(None),
        (Some(SecurityProfile::RuntimeDefault) | None, Some(_)) if input.privileged() => Ok(None),
        (Some(SecurityProfile::RuntimeDefault) | None, Some(facts)) => {
            Ok(Some(facts.default_profile.clone()))
        }
    }
}

/// The seccomp profile; `None` is unconfined, which a privileged container always is.
pub(super) fn seccomp(
    input: &ContainerInput<'_>,
    bounding: u64,
) -> Result<Option<LinuxSeccomp>, SpecError> {
    match &input.config.security.seccomp {
        _ if input.privileged() => Ok(None),
        None | Some(SecurityProfile::Unconfined) => Ok(None),
        Some(SecurityProfile::RuntimeDefault) => {
            seccomp::default_profile(bounding, input.host.kernel).map(Some)
        }
        Some(SecurityProfile::Localhost(profile)) => {
            let what = "text of the Localhost seccomp profile";
            let text = input.localhost_seccomp.ok_or(SpecError::Missing { what })?;
            seccomp::parse(profile, text).map(Some)
        }
    }
}
