//! A look at the node when no daemon runs: records and kernel are read, and nothing is changed.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use model::{CgroupLayout, SandboxId};
use store::{Record, RecordFile};

use super::groups::{Known, Unknown};
use super::{Area, Case, Cases, Finding, Outcome, files, host, kernel, network};
use crate::error::chain;
use crate::paths::{NETNS, Paths};
use crate::record::{ContainerRecord, ContainerState, PodPhase, PodRecord};
use crate::shims;

/// Who starts finds and ends what is left.
const START: &str = "start knarr, which ends or takes over what it finds; then ask again";

/// What records and kernel say of each other while nobody serves `socket`. What a running daemon
/// would not count as wrong is advice. `network` knows the pods' networks by its configuration; or
/// why nobody does. Blocking.
pub fn examine_without_a_daemon(
    paths: &Paths,
    socket: &Path,
    network: &Result<cni::Engine, String>,
) -> Vec<Finding> {
    let mut look = Look { paths, out: Cases::default(), pods: BTreeMap::new(), all_known: true };
    let problem = "knarr does not run, so the records are compared with the kernel as they are";
    look.out.problem(Area::Host, &socket.display(), problem.to_owned(), "start knarr");
    look.records();
    look.processes();
    look.namespaces();
    look.states();
    let mut out = std::mem::take(&mut look.out);
    kernel::mounts(&mut out, paths, &look);
    match network {
        Ok(network) => {
            network::attachments(&mut out, network, &look);
            network::strays(&mut out, network, &look);
        }
        Err(reason) => {
            let problem = format!("addresses, links and host ports are not looked at: {reason}");
            out.problem(Area::Address, &"the pods' networks", problem, "name it by --config");
        }
    }
    look.out = out;
    look.layers();
    match crate::host::host_facts() {
        Ok(facts) => {
            look.cgroups(&facts.cgroup);
            host::look(&mut look.out, &facts);
            for dir in [paths.root(), paths.state()].into_iter().filter(|dir| dir.exists()) {
                host::room(&mut look.out, dir);
            }
        }
        Err(error) => look.out.unseen(Area::Host, &"the host", &error),
    }
    let mut findings: Vec<_> = look.out.0.into_iter().map(without_mending).collect();
    findings.sort_by_key(|finding| (finding.severity, finding.area));
    findings
}

/// What only a daemon mends.
fn without_mending(Case { mut finding, mend }: Case) -> Finding {
    if mend.is_some() {
        finding.outcome = Outcome::Found { mendable: false };
        DOCTOR_FIXES.clone_into(&mut finding.remedy);
    }
    finding
}

impl cni::Live for Look<'_> {
    fn is_live(&self, container: &str) -> bool {
        SandboxId::parse(container).is_ok_and(|id| self.pods.contains_key(&id))
    }

    fn all(&self) -> Vec<SandboxId> {
        self.pods.keys().cloned().collect()
    }
}

struct Look<'a> {
    paths: &'a Paths,
    out: Cases,
    /// Every pod that has a directory; those whose record can be read with it and their containers.
    pods: BTreeMap<SandboxId, Option<(PodRecord, Vec<ContainerRecord>)>>,
    /// Every record of a pod or a container can be read.
    all_known: bool,
}

impl Look<'_> {
    fn records(&mut self) {
        for name in names(&self.paths.pods()) {
            let path = self.paths.pods().join(&name);
            let Some(id) = SandboxId::parse(name.trim_end_matches(".bad")).ok() else { continue };
            if name.ends_with(".bad") {
                let problem = format!("the record of pod sandbox {id} was damaged");
                let remedy = "repair it, or start knarr and remove the pod: `knarr rm --force ID`";
                self.out.problem(Area::Record, &path.display(), problem, remedy);
                self.pods.insert(id, None);
                self.all_known = false;
                continue;
            }
            let record = self.read::<PodRecord>(&self.paths.pod_record(&id));
            let containers = names(&self.paths.containers(&id)).into_iter().filter_map(|name| {
                let path = self.paths.containers(&id).join(name).join("container.json");
                self.read::<ContainerRecord>(&path)
            });
            let containers = containers.collect();
            self.pods.insert(id, record.map(|record| (record, containers)));
        }
    }

    /// None: there is none, or it is told why it cannot be used.
    fn read<R: Record>(&mut self, path: &Path) -> Option<R> {
        match RecordFile::new(path).read(&store::RealDisk) {
            Ok(record) => record,
            Err(error) => {
                let problem = format!("cannot be used: {}", chain(&error));
                let remedy = "repair it, or start knarr, which sets it aside";
                self.out.problem(Area::Record, &path.display(), problem, remedy);
                self.all_known = false;
                None
            }
        }
    }

    fn processes(&mut self) {
        let running = match shims::running(&self.paths.pod_states()) {
            Ok(running) => running,
            Err(error) => return self.out.unseen(Area::Process, &"/proc", &error),
        };
        for shim in &running {
            if !self.pods.contains_key(&shim.sandbox) {
                let problem =
                    format!("a shim of pod sandbox {}, which has no record", shim.sandbox);
                self.out.problem(Area::Process, &shim.process.pid, problem, DOCTOR_FIXES);
            }
        }
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        for (id, known) in &self.pods {
            let Some((pod, containers)) = known else { continue };
            let has_shim = running.iter().any(|shim| shim.sandbox == *id);
            if pod.phase == PodPhase::Creating {
                let problem = format!("pod sandbox {id} was being made when knarr ended");
                self.out.advice(Area::Process, id, problem, "start knarr, which removes it");
            } else if pod.boot_id != boot.trim() && pod.phase == PodPhase::Ready {
                let problem = format!("pod sandbox {id} is of before the last reboot");
                self.out.advice(Area::Process, id, problem, "start knarr, which records its end");
            } else if pod.phase == PodPhase::Ready && !has_shim {
                let problem = format!("pod sandbox {id} is on record as ready and has no shim");
                self.out.problem(Area::Process, id, problem, START);
            }
            for container in containers {
                if let ContainerState::Running { pid, .. } = container.state
                    && has_shim
                    && !shims::lives(pid)
                {
                    let problem = format!("container {} has ended meanwhile", container.id);
                    let remedy = "start knarr, which hears from its shim how";
                    self.out.advice(Area::Process, &container.id, problem, remedy);
                }
            }
        }
    }

    fn namespaces(&mut self) {
        let shims = shims::everywhere().unwrap_or_default();
        for name in names(Path::new(NETNS)) {
            let id = name.strip_prefix("knarr-").and_then(|id| SandboxId::parse(id).ok());
            if let Some(id) = id.filter(|id| !self.pods.contains_key(id) && !shims.contains(id)) {
                let problem =
                    format!("the network namespace of pod sandbox {id}, without a record");
                let path = Path::new(NETNS).join(&name);
                self.out.problem(Area::Netns, &path.display(), problem, DOCTOR_FIXES);
            }
        }
    }

    fn states(&mut self) {
        for name in names(&self.paths.pod_states()) {
            let id = SandboxId::parse(&name).ok();
            if let Some(id) = id.filter(|id| !self.pods.contains_key(id)) {
                let problem = format!("the state of pod sandbox {id}, which has no record");
                self.out.advice(Area::State, &self.paths.pod_state(&id).display(), problem, START);
            }
        }
    }

    fn layers(&mut self) {
        let root = self.paths.root();
        let found = match snapshot::look(root) {
            Ok(found) => found,
            Err(error) => return self.out.unseen(Area::Layer, &root.display(), &error),
        };
        let unfinished = found.unsealed.iter().map(|path| (Area::Layer, path));
        for (area, path) in unfinished.chain(found.ingests.iter().map(|it| (Area::Ingest, it))) {
            let problem = "a layer that was on its way in or out when knarr ended".to_owned();
            self.out.advice(area, &path.display(), problem, "start knarr, which removes it");
        }
        let present: HashSet<_> = found.layers.into_iter().collect();
        let recorded = match image::recorded(root, |layer| present.contains(layer)) {
            Ok(recorded) => recorded,
            Err(error) => return self.out.unseen(Area::Record, &root.display(), &error),
        };
        for image in &recorded.unusable {
            let problem = format!("the record of image {}: {}", image.id, image.reason);
            let remedy = "start knarr, and pull the image again";
            self.out.advice(Area::Record, &image.path.display(), problem, remedy);
        }
        // What those stand on whose records cannot be read is not known to be unused.
        let all_known = recorded.unusable.is_empty() && self.all_known;
        let containers = self.pods.values().flatten().flat_map(|(_, containers)| containers);
        let used = all_known.then_some(recorded.layers);
        files::layers(&mut self.out, &present, containers, used);
    }

    fn cgroups(&mut self, layout: &CgroupLayout) {
        // Those of pods whose records cannot be read are not known to be nobody's.
        if self.pods.values().any(Option::is_none) {
            return;
        }
        let mut known = Known::nobody();
        for (pod, containers) in self.pods.values().flatten() {
            known.add_pod(pod);
            known.add_names(containers.iter().map(|container| container.id.to_string()));
        }
        let shims = shims::everywhere().unwrap_or_default();
        known.add_names(shims.iter().map(ToString::to_string));
        for Unknown { path, inhabited, .. } in known.others(layout) {
            let (problem, remedy) = if inhabited {
                ("processes of a pod or container without a record", kernel::END_THEM)
            } else {
                ("the control group of a pod or container without a record", DOCTOR_FIXES)
            };
            self.out.problem(Area::Cgroup, &path, problem.to_owned(), remedy);
        }
    }
}

/// What belongs to nobody even then.
const DOCTOR_FIXES: &str = "start knarr, and let `knarr doctor --fix` remove it";

/// What is in a directory; nothing where there is none.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_is_torn_is_told_and_nothing_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("root"), dir.path().join("state"));
        let id = SandboxId::from_random([7; 32]);
        std::fs::create_dir_all(paths.pod(&id)).unwrap();
        std::fs::write(paths.pod_record(&id), "{\"knarr\"").unwrap();
        std::fs::create_dir_all(paths.pod_state(&SandboxId::from_random([8; 32]))).unwrap();
        std::fs::create_dir_all(paths.root().join("ingest/3")).unwrap();
        let network = Err("no configuration".to_owned());
        let found = examine_without_a_daemon(&paths, Path::new("/run/knarr.sock"), &network);
        let of = |area| found.iter().filter(|it| it.area == area).collect::<Vec<_>>();
        assert_eq!(of(Area::Record).len(), 1, "{found:?}");
        assert_eq!(of(Area::State).len(), 1, "{found:?}");
        assert_eq!(of(Area::Ingest).len(), 1, "{found:?}");
        assert!(of(Area::Address)[0].problem.ends_with("no configuration"), "{found:?}");
        assert!(found.iter().any(|it| it.object == "/run/knarr.sock"), "{found:?}");
        assert!(paths.pod_record(&id).exists(), "it is moved aside");
    }
}
