//! Namespaces, users, capabilities and profiles.

use cri_api::v1;
use model::{
    Capabilities, ContainerSecurity, GroupsPolicy, IdMapping, IdMaps, NamespaceMode,
    NamespaceOptions, PodSecurity, RunAs, SecurityProfile, SelinuxOptions, UserNamespace,
};

use super::{ConvertError, known};

fn mode(field: &'static str, value: i32) -> Result<NamespaceMode, ConvertError> {
    Ok(match known::<v1::NamespaceMode>(field, value)? {
        v1::NamespaceMode::Pod => NamespaceMode::Pod,
        v1::NamespaceMode::Container => NamespaceMode::Container,
        v1::NamespaceMode::Node => NamespaceMode::Node,
        v1::NamespaceMode::Target => NamespaceMode::Target,
    })
}

pub(super) fn mode_to_cri(mode: NamespaceMode) -> i32 {
    match mode {
        NamespaceMode::Pod => v1::NamespaceMode::Pod,
        NamespaceMode::Container => v1::NamespaceMode::Container,
        NamespaceMode::Node => v1::NamespaceMode::Node,
        NamespaceMode::Target => v1::NamespaceMode::Target,
    }
    .into()
}

pub(crate) fn mapping(mapping: &v1::IdMapping) -> IdMapping {
    IdMapping {
        host_id: mapping.host_id,
        container_id: mapping.container_id,
        length: mapping.length,
    }
}

pub(crate) fn mapping_to_cri(mapping: &IdMapping) -> v1::IdMapping {
    v1::IdMapping {
        host_id: mapping.host_id,
        container_id: mapping.container_id,
        length: mapping.length,
    }
}

fn namespaces(options: v1::NamespaceOption) -> Result<NamespaceOptions, ConvertError> {
    let userns = options.userns_options.map(|userns| {
        Ok(UserNamespace {
            mode: mode("userns_options.mode", userns.mode)?,
            maps: IdMaps {
                uids: userns.uids.iter().map(mapping).collect(),
                gids: userns.gids.iter().map(mapping).collect(),
            },
        })
    });
    Ok(NamespaceOptions {
        network: mode("namespace_options.network", options.network)?,
        pid: mode("namespace_options.pid", options.pid)?,
        ipc: mode("namespace_options.ipc", options.ipc)?,
        target_id: options.target_id,
        userns: userns.transpose()?,
    })
}

pub(crate) fn namespaces_to_cri(options: &NamespaceOptions) -> v1::NamespaceOption {
    v1::NamespaceOption {
        network: mode_to_cri(options.network),
        pid: mode_to_cri(options.pid),
        ipc: mode_to_cri(options.ipc),
        target_id: options.target_id.clone(),
        userns_options: options.userns.as_ref().map(|userns| v1::UserNamespace {
            mode: mode_to_cri(userns.mode),
            uids: userns.maps.uids.iter().map(mapping_to_cri).collect(),
            gids: userns.maps.gids.iter().map(mapping_to_cri).collect(),
        }),
    }
}

fn profile(
    field: &'static str,
    profile: v1::SecurityProfile,
) -> Result<SecurityProfile, ConvertError> {
    let kind = known::<v1::ProfileType>(field, profile.profile_type)?;
    let reference = profile.localhost_ref;
    match kind {
        v1::ProfileType::Localhost => {
            let name = reference.strip_prefix("localhost/").unwrap_or(&reference);
            if name.is_empty() {
                return Err(ConvertError::Missing("localhost_ref of a Localhost profile"));
            }
            Ok(SecurityProfile::Localhost(name.to_owned()))
        }
        _ if !reference.is_empty() => Err(ConvertError::OutOfRange {
            field: "localhost_ref",
            value: reference,
            want: "an empty text unless the profile type is Localhost",
        }),
        v1::ProfileType::RuntimeDefault => Ok(SecurityProfile::RuntimeDefault),
        v1::ProfileType::Unconfined => Ok(SecurityProfile::Unconfined),
    }
}

fn selinux(options: v1::SeLinuxOption) -> SelinuxOptions {
    SelinuxOptions {
        user: options.user,
        role: options.role,
        r#type: options.r#type,
        level: options.level,
    }
}

fn policy(value: i32) -> Result<GroupsPolicy, ConvertError> {
    Ok(match known::<v1::SupplementalGroupsPolicy>("supplemental_groups_policy", value)? {
        v1::SupplementalGroupsPolicy::Merge => GroupsPolicy::Merge,
        v1::SupplementalGroupsPolicy::Strict => GroupsPolicy::Strict,
    })
}

pub(super) fn policy_to_cri(policy: GroupsPolicy) -> i32 {
    match policy {
        GroupsPolicy::Merge => v1::SupplementalGroupsPolicy::Merge,
        GroupsPolicy::Strict => v1::SupplementalGroupsPolicy::Strict,
    }
    .into()
}

/// The deprecated text form: `runtime/default`, `unconfined`, `localhost/NAME`.
fn deprecated_profile(
    field: &'static str,
    text: &str,
) -> Result<Option<SecurityProfile>, ConvertError> {
    match text {
        "" => Ok(None),
        // Docker's word for the same.
        "runtime/default" | "docker/default" => Ok(Some(SecurityProfile::RuntimeDefault)),
        "unconfined" => Ok(Some(SecurityProfile::Unconfined)),
        other => match other.strip_prefix("localhost/") {
            Some(name) if !name.is_empty() => Ok(Some(SecurityProfile::Localhost(name.to_owned()))),
            Some(_) | None => Err(ConvertError::OutOfRange {
                field,
                value: other.to_owned(),
                want: "runtime/default, unconfined or localhost/NAME",
            }),
        },
    }
}

/// The deprecated field counts only where the new one is not set.
fn seccomp(
    new: Option<v1::SecurityProfile>,
    text: &str,
) -> Result<Option<SecurityProfile>, ConvertError> {
    match new {
        Some(new) => profile("seccomp.profile_type", new).map(Some),
        None => deprecated_profile("seccomp_profile_path", text),
    }
}

/// An unset context means: namespaces of the pod, root, unconfined.
pub(crate) fn pod(
    context: Option<v1::LinuxSandboxSecurityContext>,
) -> Result<PodSecurity, ConvertError> {
    let Some(context) = context else { return Ok(PodSecurity::default()) };
    #[expect(deprecated, reason = "older clients set only the text form")]
    let seccomp_text = context.seccomp_profile_path;
    Ok(PodSecurity {
        namespaces: context.namespace_options.map(namespaces).transpose()?.unwrap_or_default(),
        selinux: context.selinux_options.map(selinux),
        run_as: RunAs {
            user: context.run_as_user.map(|id| id.value),
            group: context.run_as_group.map(|id| id.value),
            username: String::new(),
            supplemental_groups: context.supplemental_groups,
            groups_policy: policy(context.supplemental_groups_policy)?,
        },
        readonly_rootfs: context.readonly_rootfs,
        privileged: context.privileged,
        seccomp: seccomp(context.seccomp, &seccomp_text)?,
        apparmor: context.apparmor.map(|p| profile("apparmor.profile_type", p)).transpose()?,
    })
}

pub(crate) fn container(
    context: Option<v1::LinuxContainerSecurityContext>,
) -> Result<ContainerSecurity, ConvertError> {
    let Some(context) = context else { return Ok(ContainerSecurity::default()) };
    let capabilities = context.capabilities.unwrap_or_default();
    #[expect(deprecated, reason = "older clients set only the text form")]
    let (apparmor_text, seccomp_text) = (&context.apparmor_profile, &context.seccomp_profile_path);
    let apparmor = match context.apparmor {
        Some(new) => Some(profile("apparmor.profile_type", new)?),
        None => deprecated_profile("apparmor_profile", apparmor_text)?,
    };
    Ok(ContainerSecurity {
        capabilities: Capabilities {
            add: capabilities.add_capabilities,
            drop: capabilities.drop_capabilities,
            add_ambient: capabilities.add_ambient_capabilities,
        },
        privileged: context.privileged,
        namespaces: context.namespace_options.map(namespaces).transpose()?.unwrap_or_default(),
        selinux: context.selinux_options.map(selinux),
        run_as: RunAs {
            user: context.run_as_user.map(|id| id.value),
            group: context.run_as_group.map(|id| id.value),
            username: context.run_as_username,
            supplemental_groups: context.supplemental_groups,
            groups_policy: policy(context.supplemental_groups_policy)?,
        },
        readonly_rootfs: context.readonly_rootfs,
        no_new_privs: context.no_new_privs,
        masked_paths: context.masked_paths,
        readonly_paths: context.readonly_paths,
        seccomp: seccomp(context.seccomp, seccomp_text)?,
        apparmor,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_namespace_mode_is_refused_by_field_and_number() {
        let context = v1::LinuxSandboxSecurityContext {
            namespace_options: Some(v1::NamespaceOption { pid: 7, ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(
            pod(Some(context)),
            Err(ConvertError::UnknownValue { field: "namespace_options.pid", value: 7 })
        );
    }

    #[test]
    fn older_clients_name_their_seccomp_profile_in_text() {
        let of = |new: Option<v1::SecurityProfile>, text: &str| seccomp(new, text);
        assert_eq!(of(None, ""), Ok(None));
        assert_eq!(of(None, "unconfined"), Ok(Some(SecurityProfile::Unconfined)));
        assert_eq!(of(None, "docker/default"), Ok(Some(SecurityProfile::RuntimeDefault)));
        let local = SecurityProfile::Localhost("/p.json".into());
        assert_eq!(of(None, "localhost//p.json"), Ok(Some(local)));
        assert!(of(None, "nonsense").is_err());
        let unconfined = v1::SecurityProfile { profile_type: 1, localhost_ref: String::new() };
        assert_eq!(
            of(Some(unconfined), "runtime/default"),
            Ok(Some(SecurityProfile::Unconfined)),
            "the new field wins"
        );
    }

    #[test]
    fn a_reference_without_a_localhost_profile_is_refused() {
        let text = v1::SecurityProfile { profile_type: 1, localhost_ref: "x".into() };
        assert!(profile("seccomp.profile_type", text).is_err());
        let empty = v1::SecurityProfile { profile_type: 2, localhost_ref: String::new() };
        assert!(profile("seccomp.profile_type", empty).is_err());
        let local = v1::SecurityProfile { profile_type: 2, localhost_ref: "localhost/a".into() };
        assert_eq!(
            profile("seccomp.profile_type", local),
            Ok(SecurityProfile::Localhost("a".into()))
        );
    }
}
