//! What List and Status answer from: immutable snapshots, swapped in by each pod's owner.
//!
//! The lock is held to clone `Arc`s only. No slow stop, pull or dead mount ever holds it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use model::{ContainerId, DiskUsage, SandboxId};

use crate::record::{ContainerRecord, PodPhase, PodRecord};

/// A record as it is sent in lists: encoded by who first asks, for as long as that record is the current
/// one. A kubelet asks each second, and hardly any record has changed since.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listed(OnceLock<Bytes>);

impl Listed {
    fn of<R>(&self, record: &R, encode: impl FnOnce(&R) -> Vec<u8>) -> Bytes {
        self.0.get_or_init(|| encode(record).into()).clone()
    }
}

/// One pod as it is now.
#[derive(Debug, Clone)]
pub struct PodView {
    /// Its record.
    pub record: Arc<PodRecord>,
    /// Its network namespace is gone: no address is reported.
    pub network_closed: bool,
    /// Absolute path of its cgroup's parent, as containers see it in `cgroupsPath`.
    pub cgroup_parent: Arc<str>,
    /// Host pid of pause, where the pod has one.
    pub pause_pid: Option<i32>,
    /// Of this record.
    pub(crate) listed: Listed,
}

impl PodView {
    /// CRI READY.
    pub fn is_ready(&self) -> bool {
        self.record.phase == PodPhase::Ready
    }

    /// Its record as `encode` has it. Every caller must ask for the same encoding: it is remembered.
    pub fn listed(&self, encode: impl FnOnce(&PodRecord) -> Vec<u8>) -> Bytes {
        self.listed.of(&*self.record, encode)
    }
}

/// One container as it is now.
#[derive(Debug, Clone)]
pub struct ContainerView {
    /// Its record.
    pub record: Arc<ContainerRecord>,
    /// Absolute cgroup path relative to each hierarchy's mount point.
    pub cgroup_path: Arc<str>,
    /// Its writable layer, measured in the background.
    pub writable: Option<Arc<DiskUsage>>,
    /// It is being started: its processes may be there before its record says so.
    pub starting: bool,
    /// Of this record.
    listed: Listed,
}

impl ContainerView {
    /// Its record as `encode` has it. Every caller must ask for the same encoding: it is remembered.
    pub fn listed(&self, encode: impl FnOnce(&ContainerRecord) -> Vec<u8>) -> Bytes {
        self.listed.of(&*self.record, encode)
    }
}

/// An id that names nothing, or too much.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No such object.
    #[error("{kind} `{id}` is not known")]
    NotFound {
        /// `pod sandbox` or `container`.
        kind: &'static str,
        /// As given.
        id: String,
    },
    /// A prefix of several.
    #[error("{kind} id prefix `{id}` is ambiguous: it fits {first} and {second}")]
    Ambiguous {
        /// `pod sandbox` or `container`.
        kind: &'static str,
        /// As given.
        id: String,
        /// One of them.
        first: String,
        /// Another.
        second: String,
    },
    /// An empty id.
    #[error("the {kind} id is empty")]
    Empty {
        /// `pod sandbox` or `container`.
        kind: &'static str,
    },
}

/// Everything the daemon knows, for readers.
#[derive(Debug, Default)]
pub struct Index {
    inner: RwLock<Maps>,
}

#[derive(Debug, Default)]
struct Maps {
    pods: BTreeMap<SandboxId, Arc<PodView>>,
    containers: BTreeMap<ContainerId, Arc<ContainerView>>,
}

impl Index {
    fn read<T>(&self, f: impl FnOnce(&Maps) -> T) -> T {
        // Every change is one map operation, so a panic cannot leave a half-made one.
        f(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, f: impl FnOnce(&mut Maps) -> T) -> T {
        f(&mut self.inner.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Every pod, in id order.
    pub fn pods(&self) -> Vec<Arc<PodView>> {
        self.read(|maps| maps.pods.values().cloned().collect())
    }

    /// Every container, in id order.
    pub fn containers(&self) -> Vec<Arc<ContainerView>> {
        self.read(|maps| maps.containers.values().cloned().collect())
    }

    /// The containers of one pod.
    pub fn containers_of(&self, pod: &SandboxId) -> Vec<Arc<ContainerView>> {
        self.read(|maps| {
            maps.containers.values().filter(|c| c.record.sandbox == *pod).cloned().collect()
        })
    }

    /// The pod of an id or a unique prefix of one.
    ///
    /// # Errors
    /// [`LookupError`].
    pub fn pod(&self, id: &str) -> Result<Arc<PodView>, LookupError> {
        self.read(|maps| find(&maps.pods, "pod sandbox", id).cloned())
    }

    /// The container of an id or a unique prefix of one.
    ///
    /// # Errors
    /// [`LookupError`].
    pub fn container(&self, id: &str) -> Result<Arc<ContainerView>, LookupError> {
        self.read(|maps| find(&maps.containers, "container", id).cloned())
    }

    pub(crate) fn put_pod(&self, view: PodView) {
        self.write(|maps| maps.pods.insert(view.record.id.clone(), Arc::new(view)));
    }

    pub(crate) fn drop_pod(&self, id: &SandboxId) {
        self.write(|maps| {
            maps.pods.remove(id);
            maps.containers.retain(|_, container| container.record.sandbox != *id);
        });
    }

    /// Replaces a container's record and keeps what the background measured.
    pub(crate) fn put_container(&self, record: Arc<ContainerRecord>, cgroup_path: Arc<str>) {
        self.write(|maps| {
            let writable = maps.containers.get(&record.id).and_then(|old| old.writable.clone());
            let id = record.id.clone();
            let listed = Listed::default();
            let view = ContainerView { record, cgroup_path, writable, starting: false, listed };
            maps.containers.insert(id, Arc::new(view));
        });
    }

    /// A container is about to be started; that it was, or was not, is its next record.
    pub(crate) fn set_starting(&self, id: &ContainerId) {
        self.change(id, |view| view.starting = true);
    }

    /// Whatever does not change the record: it is still listed the same.
    fn change(&self, id: &ContainerId, f: impl FnOnce(&mut ContainerView)) {
        self.write(|maps| {
            if let Some(old) = maps.containers.get_mut(id) {
                let mut view = ContainerView::clone(old);
                f(&mut view);
                *old = Arc::new(view);
            }
        });
    }

    pub(crate) fn drop_container(&self, id: &ContainerId) {
        self.write(|maps| maps.containers.remove(id));
    }

    /// Stores a measurement, unless the container has gone meanwhile.
    pub(crate) fn set_writable(&self, id: &ContainerId, usage: DiskUsage) {
        self.change(id, |view| view.writable = Some(Arc::new(usage)));
    }
}

/// An exact id, else the only one that begins with `id`.
fn find<'m, K, V>(
    map: &'m BTreeMap<K, V>,
    kind: &'static str,
    id: &str,
) -> Result<&'m V, LookupError>
where
    K: Ord + std::borrow::Borrow<str> + std::fmt::Display,
{
    if id.is_empty() {
        return Err(LookupError::Empty { kind });
    }
    if let Some(value) = map.get(id) {
        return Ok(value);
    }
    let bounds = (std::ops::Bound::Included(id), std::ops::Bound::Unbounded);
    let mut fits = map.range::<str, _>(bounds).take_while(|(key, _)| {
        let key: &str = (*key).borrow();
        key.starts_with(id)
    });
    match (fits.next(), fits.next()) {
        (Some((_, value)), None) => Ok(value),
        (Some((first, _)), Some((second, _))) => Err(LookupError::Ambiguous {
            kind,
            id: id.to_owned(),
            first: first.to_string(),
            second: second.to_string(),
        }),
        (None, _) => Err(LookupError::NotFound { kind, id: id.to_owned() }),
    }
}

/// A READY pod of no particular kind.
#[cfg(test)]
pub(crate) fn test_pod() -> PodView {
    let name =
        model::PodName { name: "p".into(), namespace: "ns".into(), uid: "u".into(), attempt: 0 };
    let config = model::PodConfig::new(name);
    let record = PodRecord {
        id: SandboxId::from_random([1; 32]),
        config: Arc::new(config),
        handler: String::new(),
        runtime: crate::handler::Handler::default(),
        created_at: model::UnixNanos(1),
        boot_id: String::new(),
        phase: PodPhase::Ready,
        shim: None,
        attached: false,
        network: None,
        selinux_level: None,
        cgroup_driver: model::CgroupDriver::Cgroupfs,
        overhead: None,
        resources: None,
    };
    PodView {
        record: Arc::new(record),
        network_closed: false,
        cgroup_parent: "/p".into(),
        pause_pid: None,
        listed: Listed::default(),
    }
}

/// A container of that pod.
#[cfg(test)]
pub(crate) fn test_view(state: crate::record::ContainerState) -> ContainerView {
    let name = model::ContainerName { name: "c".into(), attempt: 0 };
    let config = model::ContainerConfig::new(name);
    let record = ContainerRecord {
        id: ContainerId::from_random([2; 32]),
        sandbox: SandboxId::from_random([1; 32]),
        config: Arc::new(config),
        image_id: model::Digest::from_sha256([3; 32]),
        image_name: String::new(),
        image_ref: String::new(),
        layers: Vec::new(),
        image_volumes: Vec::new(),
        user: model::ResolvedUser { uid: 0, gid: 0, groups: Vec::new(), home: None },
        stop_signal: model::Signal::TERM,
        log_path: None,
        created_at: model::UnixNanos(1),
        resources: model::Resources::default(),
        state,
    };
    let (record, cgroup_path) = (Arc::new(record), "/p/c".into());
    let listed = Listed::default();
    ContainerView { record, cgroup_path, writable: None, starting: false, listed }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::record::{ContainerState, ExitReason, ExitRecord};

    fn as_text<R: std::fmt::Debug>(record: &R) -> Vec<u8> {
        format!("{record:?}").into_bytes()
    }

    #[derive(Debug, Clone)]
    enum Step {
        Record { container: u8, state: ContainerState, limit: i64 },
        Starting(u8),
        Measured(u8, u64),
        Removed(u8),
        Pod(PodPhase),
        Listed,
    }

    fn states() -> impl Strategy<Value = ContainerState> {
        let running = (1..5, 1..5_i64).prop_map(|(pid, at)| ContainerState::Running {
            pid,
            started_at: model::UnixNanos(at),
        });
        let exited = (0..4).prop_map(|code| {
            ContainerState::Exited(ExitRecord {
                started_at: None,
                finished_at: model::UnixNanos(9),
                code,
                reason: ExitReason::Error,
                message: String::new(),
            })
        });
        prop_oneof![Just(ContainerState::Created), running, exited]
    }

    fn steps() -> impl Strategy<Value = Step> {
        const PHASES: &[PodPhase] = &[PodPhase::Creating, PodPhase::Ready, PodPhase::Stopped];
        prop_oneof![
            4 => (0..3_u8, states(), 0..3_i64)
                .prop_map(|(container, state, limit)| Step::Record { container, state, limit }),
            1 => (0..3_u8).prop_map(Step::Starting),
            1 => (0..3_u8, 0..9_u64).prop_map(|(container, bytes)| Step::Measured(container, bytes)),
            1 => (0..3_u8).prop_map(Step::Removed),
            2 => proptest::sample::select(PHASES).prop_map(Step::Pod),
            4 => Just(Step::Listed),
        ]
    }

    fn container(number: u8) -> ContainerId {
        ContainerId::from_random([number; 32])
    }

    fn take(index: &Index, step: Step) {
        match step {
            Step::Record { container: number, state, limit } => {
                let mut record = ContainerRecord::clone(&test_view(state).record);
                record.id = container(number);
                record.resources.memory_limit_bytes = limit;
                index.put_container(Arc::new(record), "/p/c".into());
            }
            Step::Starting(number) => index.set_starting(&container(number)),
            Step::Measured(number, used_bytes) => {
                let (at, mountpoint) = (model::UnixNanos(1), String::new());
                let usage = DiskUsage { at, mountpoint, used_bytes, inodes_used: 1 };
                index.set_writable(&container(number), usage);
            }
            Step::Removed(number) => index.drop_container(&container(number)),
            Step::Pod(phase) => {
                let mut pod = test_pod();
                pod.record = Arc::new(PodRecord { phase, ..PodRecord::clone(&pod.record) });
                index.put_pod(pod);
            }
            Step::Listed => assert_listed(index),
        }
    }

    fn assert_listed(index: &Index) {
        for view in index.containers() {
            assert_eq!(view.listed(as_text), as_text(&*view.record));
        }
        for view in index.pods() {
            assert_eq!(view.listed(as_text), as_text(&*view.record));
        }
    }

    proptest! {
        #[test]
        fn what_is_remembered_is_listed_as_the_record_is_now(steps in vec(steps(), 0..40)) {
            let index = Index::default();
            steps.into_iter().chain([Step::Listed]).for_each(|step| take(&index, step));
        }
    }

    #[test]
    fn a_record_is_encoded_once_whatever_is_learnt_beside_it() {
        let index = Index::default();
        let record = test_view(ContainerState::Created).record;
        let id = record.id.clone();
        index.put_container(record, "/p/c".into());
        let first = index.container(id.as_str()).unwrap().listed(as_text);
        index.set_starting(&id);
        let again = index.container(id.as_str()).unwrap().listed(|_| unreachable!("it is known"));
        assert_eq!(first, again);
    }

    #[test]
    fn an_id_is_found_whole_or_by_a_unique_prefix() {
        let ids = [[0xaa; 32], [0xab; 32]].map(ContainerId::from_random);
        let map: BTreeMap<ContainerId, u8> = ids.iter().cloned().zip(1..).collect();
        let get = |id: &str| find(&map, "container", id).copied();
        assert_eq!(get(ids[0].as_str()), Ok(1));
        assert_eq!(get("ab"), Ok(2));
        assert!(matches!(get("a"), Err(LookupError::Ambiguous { .. })));
        assert!(matches!(get("c"), Err(LookupError::NotFound { .. })));
        assert!(matches!(get(""), Err(LookupError::Empty { .. })));
        assert!(matches!(get(&"a".repeat(65)), Err(LookupError::NotFound { .. })));
    }
}
