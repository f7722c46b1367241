//! How a container's namespace options and its pod's go together.

use model::{IdMapping, NamespaceMode, NamespaceOptions, UserNamespace};
use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType as Kind,
};

use crate::SpecError;

/// Where a container's PID namespace comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PidSource {
    /// The pod's shared one.
    Pod,
    /// One of its own.
    Container,
    /// The host's.
    Host,
    /// That of another container of the pod.
    Target,
}

/// Decides it. CRI: `POD` is what a container gets whose options are unset, and means what the pod
/// shares, which with `NODE` is the host's.
///
/// # Errors
/// [`SpecError::PidMode`] for a combination that nothing can be made of.
pub fn pid_source(
    pod: &NamespaceOptions,
    container: &NamespaceOptions,
) -> Result<PidSource, SpecError> {
    use NamespaceMode::{Container, Node, Pod, Target};
    match (container.pid, pod.pid) {
        (Container, _) => Ok(PidSource::Container),
        (Target, _) => Ok(PidSource::Target),
        (Pod, Pod) => Ok(PidSource::Pod),
        (Pod | Node, Node) => Ok(PidSource::Host),
        // The pod has no such namespace, or would be left by way of it.
        (Pod, Container | Target) | (Node, Pod | Container | Target) => {
            Err(SpecError::PidMode { container: container.pid, pod: pod.pid })
        }
    }
}

/// Refuses options of a container that its pod cannot give it.
pub(crate) fn check(pod: &NamespaceOptions, container: &NamespaceOptions) -> Result<(), SpecError> {
    for (field, mode) in
        [("namespace_options.network", container.network), ("namespace_options.ipc", container.ipc)]
    {
        match mode {
            NamespaceMode::Pod | NamespaceMode::Node => {}
            NamespaceMode::Container | NamespaceMode::Target => {
                return Err(SpecError::invalid(field, format!("{mode:?}"), "POD or NODE"));
            }
        }
    }
    pid_source(pod, container)?;
    let (of_container, of_pod) = (container.userns.as_ref(), pod.userns.as_ref());
    if same_users(of_container, of_pod) {
        Ok(())
    } else {
        Err(SpecError::UserNamespace { container: shown(of_container), pod: shown(of_pod) })
    }
}

/// CRI: unset means NODE, whose mappings mean nothing.
fn same_users(one: Option<&UserNamespace>, other: Option<&UserNamespace>) -> bool {
    let set = |users: Option<&UserNamespace>| {
        users.filter(|users| users.mode != NamespaceMode::Node).cloned()
    };
    set(one) == set(other)
}

fn shown(users: Option<&UserNamespace>) -> String {
    let Some(users) = users.filter(|users| users.mode != NamespaceMode::Node) else {
        return "none".to_owned();
    };
    let ranges =
        |map: &[IdMapping]| map.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    format!(
        "{:?}, uids {}, gids {}",
        users.mode,
        ranges(&users.maps.uids),
        ranges(&users.maps.gids)
    )
}

/// The namespace of the pod's users as a spec names it.
pub(crate) fn user(path: Option<&String>) -> Result<LinuxNamespace, SpecError> {
    let what = "user namespace of the pod";
    let path = path.ok_or(SpecError::Missing { what })?;
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(Kind::User).set_path(Some(path.into()));
    Ok(namespace)
}

/// In the words of the OCI specification.
pub(crate) fn mappings(map: &[IdMapping]) -> Result<Vec<LinuxIdMapping>, SpecError> {
    let mapping = |range: &IdMapping| {
        let mapping = LinuxIdMappingBuilder::default()
            .container_id(range.container_id)
            .host_id(range.host_id)
            .size(range.length);
        Ok(mapping.build()?)
    };
    map.iter().map(mapping).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_gets_the_pid_namespace_its_pod_can_give() {
        use NamespaceMode::{Container, Node, Pod, Target};
        let options = |pid| NamespaceOptions { pid, ..Default::default() };
        for (container, pod, want) in [
            (Pod, Pod, Some(PidSource::Pod)),
            (Pod, Node, Some(PidSource::Host)),
            (Pod, Container, None),
            (Container, Pod, Some(PidSource::Container)),
            (Container, Node, Some(PidSource::Container)),
            (Node, Node, Some(PidSource::Host)),
            (Node, Pod, None),
            (Node, Container, None),
            (Target, Container, Some(PidSource::Target)),
        ] {
            let got = pid_source(&options(pod), &options(container));
            assert_eq!(got.ok(), want, "{container:?} in {pod:?}");
        }
    }
}
