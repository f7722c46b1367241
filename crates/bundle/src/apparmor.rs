//! Which AppArmor profile a process runs in.

use model::SecurityProfile;

use crate::{HostFacts, SpecError};

/// Whether a process that asks for `asked` runs in the runtime's own profile where the host has
/// AppArmor. CRI: as if `RuntimeDefault` were asked for where nothing is; a privileged one only
/// gets what it names.
#[must_use]
pub fn wants_default_apparmor(asked: Option<&SecurityProfile>, privileged: bool) -> bool {
    match asked {
        Some(SecurityProfile::RuntimeDefault) | None => !privileged,
        Some(SecurityProfile::Unconfined | SecurityProfile::Localhost(_)) => false,
    }
}

/// The profile to run in; `None` is unconfined.
pub(crate) fn profile(
    asked: Option<&SecurityProfile>,
    privileged: bool,
    host: &HostFacts,
) -> Result<Option<String>, SpecError> {
    let name = match (asked, &host.apparmor) {
        (Some(SecurityProfile::Localhost(profile)), None) => {
            return Err(SpecError::NoAppArmor { profile: profile.clone() });
        }
        (Some(SecurityProfile::Localhost(profile)), Some(_)) => profile,
        (_, Some(facts)) if wants_default_apparmor(asked, privileged) => &facts.default_profile,
        (_, Some(_) | None) => return Ok(None),
    };
    // What is not loaded could not be entered.
    match &host.apparmor {
        Some(facts) if facts.loaded.contains(name) => Ok(Some(name.clone())),
        Some(_) | None => Err(SpecError::AppArmorProfile { profile: name.clone() }),
    }
}
