//! Control groups and systemd's scopes of pods and containers that nobody knows, where only pods of knarr
//! have theirs.

use std::collections::BTreeSet;

use model::{CgroupDriver, CgroupLayout, SandboxId, Slice};

use crate::cgroups;
use crate::context::{DEFAULT_PARENT, cgroup_parent};
use crate::record::PodRecord;
use crate::scopes::{DEFAULT_SLICE, in_slice};

/// Who there is, and where to look.
#[derive(Debug)]
pub(super) struct Known {
    /// Below these containers have their groups, and pods without a parent of kubelet's.
    parents: BTreeSet<String>,
    /// In these pods have their scopes.
    slices: BTreeSet<String>,
    /// Ids.
    names: BTreeSet<String>,
}

/// A group of nobody's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unknown {
    /// Absolute, as containers see it in `cgroupsPath`.
    pub(super) path: String,
    /// Whose it would be.
    pub(super) id: String,
    /// Whether a process lives there.
    pub(super) inhabited: bool,
}

impl Known {
    /// Nobody, and where pods have their groups if nobody chooses another place.
    pub(super) fn nobody() -> Self {
        let slice = Slice::parse(DEFAULT_SLICE).map(|slice| slice.path());
        Self {
            parents: BTreeSet::from([DEFAULT_PARENT.to_owned()]),
            slices: slice.into_iter().collect(),
            names: BTreeSet::new(),
        }
    }

    /// A pod, whatever it is named as, and where others beside it have theirs.
    pub(super) fn add_pod(&mut self, record: &PodRecord) {
        let parent = cgroup_parent(record);
        match record.cgroup_driver {
            CgroupDriver::Systemd => {
                self.slices.extend(parent.rsplit_once('/').map(|(slice, _)| slice.to_owned()));
            }
            CgroupDriver::Cgroupfs => {}
        }
        self.parents.insert(parent);
        self.names.insert(record.id.to_string());
    }

    /// A pod or a container.
    pub(super) fn add_names(&mut self, ids: impl IntoIterator<Item = String>) {
        self.names.extend(ids);
    }

    /// Whether it is somebody's after all.
    pub(super) fn has(&self, group: &Unknown) -> bool {
        self.names.contains(&group.id)
    }

    /// The groups of all others, by path.
    pub(super) fn others(&self, layout: &CgroupLayout) -> Vec<Unknown> {
        let groups = self.parents.iter().flat_map(|parent| {
            let names = cgroups::children(layout, parent).into_iter();
            let ids = names.filter(|name| SandboxId::parse(name).is_ok());
            ids.map(move |name| (format!("{parent}/{name}"), name))
        });
        let scopes = self.slices.iter().flat_map(|slice| in_slice(layout, slice));
        let scopes = scopes.map(|(path, pod)| (path, pod.to_string()));
        let unknown: BTreeSet<(String, String)> =
            groups.chain(scopes).filter(|(_, id)| !self.names.contains(id)).collect();
        let look = |(path, id): (String, String)| {
            let inhabited = cgroups::any_inhabited(layout, &path);
            Unknown { path, id, inhabited }
        };
        unknown.into_iter().map(look).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use model::CgroupHierarchy;

    use super::*;
    use crate::view::test_pod;

    fn pod(number: u8, driver: CgroupDriver, parent: &str) -> PodRecord {
        let mut record = PodRecord::clone(&test_pod().record);
        record.id = SandboxId::from_random([number; 32]);
        record.cgroup_driver = driver;
        parent.clone_into(&mut Arc::make_mut(&mut record.config).cgroup_parent);
        record
    }

    fn group(top: &Path, path: &str, processes: &str) {
        let dir = top.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("cgroup.procs"), processes).unwrap();
    }

    #[test]
    fn groups_and_scopes_of_nobody_are_told_beside_those_of_pods_and_by_default() {
        let dir = tempfile::tempdir().unwrap();
        let layout = CgroupLayout::V2(CgroupHierarchy {
            mountpoint: dir.path().to_str().unwrap().to_owned(),
            controllers: Vec::new(),
        });
        let ids = |number: u8| SandboxId::from_random([number; 32]).to_string();
        let kubelets = "/kubepods.slice/kubepods-pod1.slice";
        let scoped = pod(1, CgroupDriver::Systemd, "kubepods-pod1.slice");
        let placed = pod(2, CgroupDriver::Cgroupfs, "/kubepods/pod2");
        let mut known = Known::nobody();
        known.add_pod(&scoped);
        known.add_pod(&placed);
        known.add_names([ids(3)]);
        let scope = |number: u8| format!("knarr-{}.scope", ids(number));
        for (path, processes) in [
            // Those of pods and of containers that are known.
            (format!("{kubelets}/{}", scope(1)), ""),
            (format!("{kubelets}/{}/{}", scope(1), ids(3)), "7\n"),
            (format!("/kubepods/pod2/{}", ids(3)), ""),
            // Nobody's.
            (format!("{kubelets}/{}", scope(4)), ""),
            (format!("{kubelets}/{}/shim", scope(4)), "8\n"),
            (format!("{kubelets}/{}/{}", scope(1), ids(5)), ""),
            (format!("/kubepods/pod2/{}", ids(6)), "9\n"),
            (format!("/knarr.slice/{}", scope(7)), ""),
            (format!("/knarr/{}", ids(8)), ""),
            // Somebody else's, as the names tell.
            (format!("{kubelets}/cri-containerd-{}.scope", ids(9)), ""),
            ("/knarr/other".to_owned(), ""),
        ] {
            group(dir.path(), &path, processes);
        }
        let told: BTreeSet<_> =
            known.others(&layout).into_iter().map(|it| (it.path, it.inhabited)).collect();
        let want = BTreeSet::from([
            (format!("{kubelets}/{}", scope(4)), true),
            (format!("{kubelets}/{}/{}", scope(1), ids(5)), false),
            (format!("/kubepods/pod2/{}", ids(6)), true),
            (format!("/knarr.slice/{}", scope(7)), false),
            (format!("/knarr/{}", ids(8)), false),
        ]);
        assert_eq!(told, want);
    }
}
