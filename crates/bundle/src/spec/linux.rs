//! `linux`: namespaces, paths, and the parts other modules make.

use model::NamespaceMode;
use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType as Kind};

use super::{devices, mounts, resources, security};
use crate::{
    ContainerInput, PidSource, SelinuxLabels, SpecError, capability::CapabilityMasks, pid_source,
};

pub(super) fn linux(
    input: &ContainerInput<'_>,
    capabilities: CapabilityMasks,
    labels: Option<SelinuxLabels>,
) -> Result<Linux, SpecError> {
    let security = &input.config.security;
    // Exactly the given lists; a privileged container sees everything.
    let paths = |paths: &Vec<String>| Some(paths.clone()).filter(|_| !input.privileged());

    // The type's default is a sample configuration: every field is set here.
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(input)?))
        .set_cgroups_path(Some(input.cgroup_path.into()))
        .set_resources(Some(resources::resources(input)?))
        .set_devices(Some(devices::nodes(input)))
        .set_seccomp(security::seccomp(input, capabilities.bounding)?)
        .set_mount_label(labels.map(|labels| labels.mount))
        .set_rootfs_propagation(mounts::rootfs_propagation(&input.config.mounts))
        .set_masked_paths(paths(&security.masked_paths))
        .set_readonly_paths(paths(&security.readonly_paths));
    if let Some(users) = input.users() {
        linux
            .set_uid_mappings(Some(crate::namespaces::mappings(&users.uids)?))
            .set_gid_mappings(Some(crate::namespaces::mappings(&users.gids)?));
    }
    Ok(linux)
}

fn namespaces(input: &ContainerInput<'_>) -> Result<Vec<LinuxNamespace>, SpecError> {
    let pod = &input.pod.security.namespaces;
    let paths = input.namespaces;
    let mut namespaces = vec![namespace(Kind::Mount, None)];
    namespaces.extend(pods(Kind::Network, pod.network, paths.net.as_ref())?);
    namespaces.extend(pods(Kind::Ipc, pod.ipc, paths.ipc.as_ref())?);
    // The host name belongs to the network identity.
    namespaces.extend(pods(Kind::Uts, pod.network, paths.uts.as_ref())?);
    if input.users().is_some() {
        namespaces.push(crate::namespaces::user(paths.user.as_ref())?);
    }
    match pid_source(pod, &input.config.security.namespaces)? {
        PidSource::Container => namespaces.push(namespace(Kind::Pid, None)),
        PidSource::Host => {}
        PidSource::Pod | PidSource::Target => {
            let what = "PID namespace to join";
            let path = paths.pid.as_ref().ok_or(SpecError::Missing { what })?;
            namespaces.push(namespace(Kind::Pid, Some(path)));
        }
    }
    if input.host.cgroup.is_v2() && !input.privileged() {
        namespaces.push(namespace(Kind::Cgroup, None));
    }
    Ok(namespaces)
}

/// A namespace that the pod has made or shares with the host.
fn pods(
    kind: Kind,
    mode: NamespaceMode,
    path: Option<&String>,
) -> Result<Option<LinuxNamespace>, SpecError> {
    match mode {
        NamespaceMode::Node => Ok(None),
        NamespaceMode::Pod => {
            let what = "namespace of the pod to join";
            let path = path.ok_or(SpecError::Missing { what })?;
            Ok(Some(namespace(kind, Some(path))))
        }
        NamespaceMode::Container | NamespaceMode::Target => {
            Err(SpecError::invalid("namespace_options", kind, "POD or NODE"))
        }
    }
}

fn namespace(kind: Kind, path: Option<&String>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind).set_path(path.map(Into::into));
    namespace
}
