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
    mapped(input)
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

/// The seccomp profile; `None` is unconfined, which a privileged container always is.
pub(super) fn seccomp(
    input: &ContainerInput<'_>,
    bounding: u64,
) -> Result<Option<LinuxSeccomp>, SpecError> {
    match &input.config.security.seccomp {
        _ if input.privileged() => Ok(None),
        None | Some(SecurityProfile::Unconfined) => Ok(None),
        Some(SecurityProfile::RuntimeDefault | SecurityProfile::Localhost(_))
            if !input.runtime.seccomp =>
        {
            Err(SpecError::WithoutSeccomp)
        }
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
