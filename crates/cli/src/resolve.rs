//! From what was typed (an id, a unique part of its beginning, or a name) to one object.

use cri_api::v1;

use crate::{
    client::{Client, Limit, RpcError},
    human::short_id,
};

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A pod sandbox.
    Pod,
    /// A container.
    Container,
}

impl Kind {
    /// Its word in messages.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Container => "container",
        }
    }
}

/// One thing that can be named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Full id.
    pub id: String,
    /// Names it answers to, the fullest last.
    pub names: Vec<String>,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Ready or running.
    pub live: bool,
    /// Annotations.
    pub annotations: std::collections::BTreeMap<String, String>,
}

impl Object {
    /// The name that tells it from all others but its own predecessors.
    #[must_use]
    pub fn full_name(&self) -> &str {
        self.names.last().map_or(&self.id, String::as_str)
    }
}

/// Why nothing, or more than one thing, is meant.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Nothing is.
    #[error("no {wanted} has the id or name `{query}`")]
    Unknown {
        /// As typed.
        query: String,
        /// `pod`, `container`, …
        wanted: &'static str,
    },
    /// More than one thing is.
    #[error("`{query}` is ambiguous; it may mean\n  {}", candidates.join("\n  "))]
    Ambiguous {
        /// As typed.
        query: String,
        /// What it may mean, one line each.
        candidates: Vec<String>,
    },
}

/// Finds the one object that `query` names: a full id, else a name, else the beginning of an id.
/// Of several objects with one full name (a container and its predecessors) the newest is meant.
///
/// # Errors
/// [`ResolveError`]; `wanted` is its word for what was looked for.
pub fn resolve<'a>(
    query: &str,
    objects: &'a [Object],
    wanted: &'static str,
) -> Result<&'a Object, ResolveError> {
    if let Some(object) = objects.iter().find(|object| object.id == query) {
        return Ok(object);
    }
    let mut named: Vec<&Object> = Vec::new();
    for object in objects.iter().filter(|object| object.names.iter().any(|name| name == query)) {
        let same = |other: &&mut &Object| {
            other.kind == object.kind && other.full_name() == object.full_name()
        };
        match named.iter_mut().find(same) {
            Some(other) if other.created_at < object.created_at => *other = object,
            Some(_) => {}
            None => named.push(object),
        }
    }
    if named.is_empty() && !query.is_empty() {
        named = objects.iter().filter(|object| object.id.starts_with(query)).collect();
    }
    match named.as_slice() {
        [] => Err(ResolveError::Unknown { query: query.to_owned(), wanted }),
        [object] => Ok(object),
        several => {
            let line = |object: &&Object| {
                let id = short_id(&object.id);
                format!("{} {} ({id})", object.kind.word(), object.full_name())
            };
            let candidates = several.iter().map(line).collect();
            Err(ResolveError::Ambiguous { query: query.to_owned(), candidates })
        }
    }
}

/// All pods as objects.
#[must_use]
pub fn pod_objects(pods: &[v1::PodSandbox]) -> Vec<Object> {
    pods.iter()
        .map(|pod| {
            let metadata = pod.metadata.clone().unwrap_or_default();
            let full = format!("{}/{}", metadata.namespace, metadata.name);
            Object {
                kind: Kind::Pod,
                id: pod.id.clone(),
                names: vec![metadata.name, full],
                created_at: pod.created_at,
                live: pod.state() == v1::PodSandboxState::SandboxReady,
                annotations: pod.annotations.clone(),
            }
        })
        .collect()
}

/// All containers as objects; they also answer to `POD/NAME` and `NAMESPACE/POD/NAME`.
#[must_use]
pub fn container_objects(containers: &[v1::Container], pods: &[v1::PodSandbox]) -> Vec<Object> {
    containers
        .iter()
        .map(|container| {
            let name = container.metadata.clone().unwrap_or_default().name;
            let mut names = vec![name.clone()];
            let pod = pods.iter().find(|pod| pod.id == container.pod_sandbox_id);
            if let Some(pod) = pod.and_then(|pod| pod.metadata.as_ref()) {
                names.push(format!("{}/{name}", pod.name));
                names.push(format!("{}/{}/{name}", pod.namespace, pod.name));
            }
            Object {
                kind: Kind::Container,
                id: container.id.clone(),
                names,
                created_at: container.created_at,
                live: container.state() == v1::ContainerState::ContainerRunning,
                annotations: container.annotations.clone(),
            }
        })
        .collect()
}

/// Everything a runtime has, at one moment.
#[derive(Debug, Default)]
pub struct Inventory {
    /// Pods as the runtime lists them.
    pub pods: Vec<v1::PodSandbox>,
    /// Containers as the runtime lists them.
    pub containers: Vec<v1::Container>,
}

impl Inventory {
    /// Asks the runtime.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn fetch(client: &Client) -> Result<Self, RpcError> {
        let request = v1::ListPodSandboxRequest { filter: None };
        let pods = client
            .call("list pods", Limit::Standard, client.runtime().list_pod_sandbox(request))
            .await?
            .items;
        let request = v1::ListContainersRequest { filter: None };
        let containers = client
            .call("list containers", Limit::Standard, client.runtime().list_containers(request))
            .await?
            .containers;
        Ok(Self { pods, containers })
    }

    /// The container meant.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub fn container(&self, query: &str) -> Result<Object, ResolveError> {
        let objects = container_objects(&self.containers, &self.pods);
        resolve(query, &objects, "container").cloned()
    }

    /// The pod meant.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub fn pod(&self, query: &str) -> Result<Object, ResolveError> {
        resolve(query, &pod_objects(&self.pods), "pod").cloned()
    }

    /// The pod or container meant.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub fn either(&self, query: &str) -> Result<Object, ResolveError> {
        let mut objects = pod_objects(&self.pods);
        objects.extend(container_objects(&self.containers, &self.pods));
        resolve(query, &objects, "pod or container").cloned()
    }

    /// The pod a container belongs to.
    #[must_use]
    pub fn pod_of(&self, pod_sandbox_id: &str) -> Option<&v1::PodSandboxMetadata> {
        self.pods.iter().find(|pod| pod.id == pod_sandbox_id)?.metadata.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: Kind, id: &str, names: &[&str], created_at: i64) -> Object {
        Object {
            kind,
            id: id.into(),
            names: names.iter().map(|&name| name.into()).collect(),
            created_at,
            live: true,
            annotations: std::collections::BTreeMap::new(),
        }
    }

    fn world() -> Vec<Object> {
        vec![
            object(Kind::Pod, "aa11", &["web", "default/web"], 1),
            object(Kind::Pod, "aa22", &["db", "default/db"], 2),
            object(Kind::Pod, "bb33", &["db", "test/db"], 3),
            object(Kind::Container, "cc44", &["main", "web/main", "default/web/main"], 4),
            object(Kind::Container, "cc55", &["main", "web/main", "default/web/main"], 5),
            object(Kind::Container, "dd66", &["web", "db/web", "default/db/web"], 6),
        ]
    }

    #[test]
    fn ids_names_and_beginnings_find_their_object() {
        let world = world();
        for (query, id) in [
            ("aa11", "aa11"),
            ("bb", "bb33"),
            ("default/db", "aa22"),
            ("test/db", "bb33"),
            ("default/web", "aa11"),
            ("db/web", "dd66"),
            // The newer attempt of one container is meant.
            ("main", "cc55"),
            ("cc4", "cc44"),
        ] {
            assert_eq!(resolve(query, &world, "thing").unwrap().id, id, "{query}");
        }
    }

    #[test]
    fn what_may_mean_several_things_lists_them() {
        let world = world();
        for (query, lines) in [
            ("db", vec!["pod default/db (aa22)", "pod test/db (bb33)"]),
            ("aa", vec!["pod default/web (aa11)", "pod default/db (aa22)"]),
            ("web", vec!["pod default/web (aa11)", "container default/db/web (dd66)"]),
        ] {
            let error = resolve(query, &world, "thing").unwrap_err();
            let expected = lines.into_iter().map(str::to_owned).collect();
            assert_eq!(
                error,
                ResolveError::Ambiguous { query: query.into(), candidates: expected }
            );
        }
    }

    #[test]
    fn nothing_is_found_for_nothing() {
        for query in ["", "zz", "default/none"] {
            let error = resolve(query, &world(), "pod").unwrap_err();
            assert_eq!(error, ResolveError::Unknown { query: query.into(), wanted: "pod" });
        }
    }
}
