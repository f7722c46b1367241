//! Security contexts: from YAML, and of pod and container together.

use cri_api::v1;

use super::{
    fields::{Fields, Place},
    manifest::{ContainerSecurity, Identity, PodSecurity},
};

/// Where Kubernetes keeps the seccomp profiles that manifests name.
const SECCOMP_ROOT: &str = "/var/lib/kubelet/seccomp";
const MAX_ID: i64 = i32::MAX as i64;

pub(super) fn pod(fields: Option<Fields<'_>>) -> PodSecurity {
    let Some(mut fields) = fields else { return PodSecurity::default() };
    let policies = [
        ("Merge", v1::SupplementalGroupsPolicy::Merge),
        ("Strict", v1::SupplementalGroupsPolicy::Strict),
    ];
    let identity = identity(&mut fields);
    let supplemental_groups = fields.integers("supplementalGroups");
    if let Some(group) = supplemental_groups.iter().find(|group| !(0..=MAX_ID).contains(*group)) {
        let place = fields.place.clone();
        fields.problem(&place, format!("has the impossible group {group}"));
    }
    let mut security = PodSecurity {
        identity,
        supplemental_groups,
        groups_policy: fields.choice("supplementalGroupsPolicy", &policies),
        fs_group: fields.within("fsGroup", 0..=MAX_ID),
        sysctls: Default::default(),
    };
    for mut sysctl in fields.objects("sysctls") {
        let name = sysctl.word("name");
        let value = sysctl.text("value");
        let name = sysctl.require("name", name);
        let value = sysctl.require("value", value);
        sysctl.finish(&[]);
        if let (Some(name), Some(value)) = (name, value) {
            security.sysctls.insert(name, value);
        }
    }
    fields.finish(&["fsGroupChangePolicy", "seLinuxChangePolicy", "windowsOptions"]);
    security
}

pub(super) fn container(fields: Option<Fields<'_>>) -> ContainerSecurity {
    let Some(mut fields) = fields else { return ContainerSecurity::default() };
    let identity = identity(&mut fields);
    let mut security = ContainerSecurity {
        identity,
        privileged: fields.flag("privileged").unwrap_or_default(),
        readonly_rootfs: fields.flag("readOnlyRootFilesystem").unwrap_or_default(),
        allow_escalation: fields.flag("allowPrivilegeEscalation"),
        unmasked_proc: fields
            .choice("procMount", &[("Default", false), ("Unmasked", true)])
            .unwrap_or_default(),
        ..ContainerSecurity::default()
    };
    if let Some(mut capabilities) = fields.fields("capabilities") {
        security.add_capabilities = capabilities.texts("add");
        security.drop_capabilities = capabilities.texts("drop");
        capabilities.finish(&[]);
    }
    if security.privileged && security.allow_escalation == Some(false) {
        let place = fields.place.clone();
        fields.problem(&place, "is privileged and forbids privilege escalation");
    }
    fields.finish(&["windowsOptions"]);
    security
}

fn identity(fields: &mut Fields<'_>) -> Identity {
    Identity {
        user: fields.within("runAsUser", 0..=MAX_ID),
        group: fields.within("runAsGroup", 0..=MAX_ID),
        non_root: fields.flag("runAsNonRoot"),
        seccomp: fields
            .fields("seccompProfile")
            .and_then(|profile| self::profile(profile, |name| format!("{SECCOMP_ROOT}/{name}"))),
        apparmor: fields
            .fields("appArmorProfile")
            .and_then(|profile| self::profile(profile, str::to_owned)),
        selinux: fields.fields("seLinuxOptions").map(selinux),
    }
}

fn profile(
    mut fields: Fields<'_>,
    localhost: impl FnOnce(&str) -> String,
) -> Option<v1::SecurityProfile> {
    let types = [
        ("RuntimeDefault", v1::ProfileType::RuntimeDefault),
        ("Unconfined", v1::ProfileType::Unconfined),
        ("Localhost", v1::ProfileType::Localhost),
    ];
    let kind = fields.choice("type", &types);
    let kind = fields.require("type", kind);
    let name = fields.word("localhostProfile");
    let place = fields.place.clone();
    let is_local = kind == Some(v1::ProfileType::Localhost);
    match &name {
        Some(name) if name.starts_with('/') || name.split('/').any(|part| part == "..") => {
            let at = Place { path: format!("{}.localhostProfile", place.path), ..place };
            fields.problem(&at, "must be relative and without `..`");
        }
        Some(_) if !is_local => {
            fields.problem(&place, "names a profile but is not of type Localhost")
        }
        None if is_local => {
            fields.require::<()>("localhostProfile", None);
        }
        Some(_) | None => {}
    }
    fields.finish(&[]);
    Some(v1::SecurityProfile {
        profile_type: kind?.into(),
        localhost_ref: name.filter(|_| is_local).as_deref().map(localhost).unwrap_or_default(),
    })
}

fn selinux(mut fields: Fields<'_>) -> v1::SeLinuxOption {
    let options = v1::SeLinuxOption {
        user: fields.text("user").unwrap_or_default(),
        role: fields.text("role").unwrap_or_default(),
        r#type: fields.text("type").unwrap_or_default(),
        level: fields.text("level").unwrap_or_default(),
    };
    fields.finish(&[]);
    options
}

/// What holds for a container: its own word, else the pod's.
pub(super) fn effective(pod: &Identity, container: &Identity) -> Identity {
    let container = container.clone();
    let pod = pod.clone();
    Identity {
        user: container.user.or(pod.user),
        group: container.group.or(pod.group),
        non_root: container.non_root.or(pod.non_root),
        seccomp: container.seccomp.or(pod.seccomp),
        apparmor: container.apparmor.or(pod.apparmor),
        selinux: container.selinux.or(pod.selinux),
    }
}
