//! What the host's security modules know, asked anew where it may have changed. Blocking.

use std::path::Path;

use bundle::{AppArmorFacts, HostFacts, SelinuxFacts, SpecError};
use lsm::apparmor::{self, AppArmorError, DEFAULT_PROFILE, Presence};
use lsm::selinux::{self, RelabelError};
use model::SecurityProfile;

use crate::files::{self, FileError};
use crate::paths::Paths;
use crate::record::PodRecord;

/// What is known about AppArmor at start. The default profile is loaded here; without it pods
/// that name no other profile are refused, one by one and with the reason.
pub(crate) fn apparmor_at_start() -> Option<AppArmorFacts> {
    let apparmor = match apparmor::detect() {
        Presence::Off => return None,
        Presence::Unreachable => {
            tracing::warn!(
                "AppArmor is enabled, but /sys/kernel/security is not mounted here: \
                 containers run without a profile"
            );
            return None;
        }
        Presence::On(apparmor) => apparmor,
    };
    match apparmor.load_default() {
        Ok(()) => tracing::info!(profile = DEFAULT_PROFILE, "AppArmor profile loaded"),
        Err(error) => tracing::error!(
            error = crate::error::chain(&error),
            "containers that ask for no other AppArmor profile will be refused"
        ),
    }
    let loaded = apparmor.loaded().unwrap_or_default();
    Some(AppArmorFacts { default_profile: DEFAULT_PROFILE.to_owned(), loaded })
}

/// `host` with the AppArmor profiles that are loaded now, which is looked at when `asked` needs
/// one. Tools that tidy AppArmor up remove profiles they do not know: the default one is loaded
/// again then.
pub(crate) fn refreshed(
    host: &HostFacts,
    asked: Option<&SecurityProfile>,
    privileged: bool,
) -> Result<HostFacts, AppArmorError> {
    let mut host = host.clone();
    let by_default = bundle::wants_default_apparmor(asked, privileged);
    let named = matches!(asked, Some(SecurityProfile::Localhost(_)));
    if let Some(facts) = host.apparmor.as_mut()
        && (by_default || named)
        && let Presence::On(apparmor) = apparmor::detect()
    {
        facts.loaded = apparmor.loaded()?;
        if by_default && !facts.loaded.contains(&facts.default_profile) {
            apparmor.load_default()?;
            facts.loaded = apparmor.loaded()?;
        }
    }
    Ok(host)
}

/// What the SELinux policy calls containers; `None` without SELinux.
pub(crate) fn selinux_at_start() -> Option<SelinuxFacts> {
    let labels = selinux::detect()?;
    tracing::info!(process = labels.process, file = labels.file, "SELinux labels of containers");
    Some(SelinuxFacts { process: labels.process, file: labels.file })
}

/// Below the root: what images bring, and what containers add to it.
const STORAGE: &[&str] = &["fixups", "ingest", "layers", "pods"];

/// Gives the places where files of images and containers are kept a label that lets containers
/// read them; what is made in them from then on inherits it. Their root file systems have labels
/// of their own, but the kernel looks at the files below when it maps a program. Nothing is done
/// without SELinux. Blocking.
///
/// # Errors
/// The pods' directory cannot be made. A policy without such a label is logged: what comes of it
/// is each container's error.
pub fn label_storage(paths: &Paths) -> Result<(), FileError> {
    let Some(labels) = selinux::detect() else { return Ok(()) };
    files::make_dir(&paths.pods())?;
    for name in STORAGE {
        if let Err(error) = selinux::label_file(&paths.root().join(name), &labels.shared_file) {
            tracing::error!(
                error = crate::error::chain(&error),
                "containers will not be able to run programs of images unpacked here"
            );
        }
    }
    Ok(())
}

/// The SELinux label of a pod's own files; `None` without SELinux.
pub(crate) fn pod_file_label(
    host: &HostFacts,
    pod: &PodRecord,
) -> Result<Option<String>, SpecError> {
    let asked = pod.config.security.selinux.as_ref();
    let labels = bundle::selinux_labels(asked, pod.selinux_level.as_deref(), false, host)?;
    Ok(labels.map(|labels| labels.mount))
}

/// Labels the files that a pod's containers find in `/etc`.
pub(crate) fn label_pod_files(dir: &Path, label: &str) -> Result<(), RelabelError> {
    for name in ["hostname", "hosts", "resolv.conf"] {
        selinux::label_file(&dir.join(name), label)?;
    }
    Ok(())
}
