//! Processes, control groups, pinned namespaces and mounts, compared with the records.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cni::Live;
use model::{ContainerId, NamespaceMode, SandboxId};

use super::groups::{Known, Unknown};
use super::{Area, Cases, Examination, Mend, Severity};
use crate::cgroups;
use crate::context::Context;
use crate::host::start_ticks;
use crate::paths::Paths;
use crate::record::ContainerState;
use crate::shims;

/// Shims without a pod, pods without a shim, containers without a process and the reverse.
pub(super) fn processes(out: &mut Examination<'_>) {
    let states = out.cx.paths().pod_states();
    let running = match shims::running(&states) {
        Ok(running) => running,
        Err(error) => return out.unseen(Area::Process, &"/proc", &error),
    };
    for shim in &running {
        let (id, process) = (shim.sandbox.as_str(), shim.process);
        // One that has ended meanwhile may have taken its pod along.
        if !out.knows(id) && start_ticks(process.pid) == Some(process.start_ticks) {
            let problem = format!("a shim of pod sandbox {}, which is not known", shim.sandbox);
            let mend = Mend::EndShim(shim.process, shim.sandbox.clone());
            out.mendable(Area::Process, &shim.process.pid, (problem, "end it"), mend);
        }
    }
    for pod in out.cx.index.pods() {
        let id = &pod.record.id;
        if pod.is_ready() && !running.iter().any(|shim| shim.sandbox == *id) {
            let problem = format!("pod sandbox {id} is ready and has no shim");
            out.problem(Area::Process, &id, problem, "restart knarr, which records what has ended");
        }
    }
    let mut without = Vec::new();
    for seen in out.cx.index.containers() {
        let id = &seen.record.id;
        let inhabited = cgroups::inhabited(&out.cx.parts.host.cgroup, &seen.cgroup_path);
        // Looked up after its processes were: these may be of a start that had not begun before.
        let Ok(container) = out.cx.index.container(id.as_str()) else { continue };
        match &container.record.state {
            ContainerState::Running { pid, .. } if start_ticks(*pid).is_none() => {
                without.push((id.clone(), *pid));
            }
            ContainerState::Created | ContainerState::Exited(_)
                if inhabited && !container.starting =>
            {
                let problem = format!("container {id} does not run and has processes");
                let mend = Mend::EndLeftovers(id.clone());
                out.mendable(Area::Process, &id, (problem, "kill them"), mend);
            }
            ContainerState::Running { .. }
            | ContainerState::Created
            | ContainerState::Exited(_) => {}
        }
    }
    without_their_process(out, without);
}

/// An end is on record once the container's output is read to its end, for which its shim waits 3 s
/// where another process holds that; until then it is an end as well.
const RECORDED_WITHIN: Duration = Duration::from_secs(5);
const LOOKS_EVERY: Duration = Duration::from_millis(50);

/// Those whose end is not recorded in time are running on record only.
fn without_their_process(out: &mut Examination<'_>, mut found: Vec<(ContainerId, i32)>) {
    let until = Instant::now() + RECORDED_WITHIN;
    let runs = |out: &Examination<'_>, id: &ContainerId, was: i32| {
        let seen = out.cx.index.container(id.as_str());
        seen.is_ok_and(|seen| match seen.record.state {
            ContainerState::Running { pid, .. } => pid == was,
            ContainerState::Created | ContainerState::Exited(_) => false,
        })
    };
    loop {
        found.retain(|(id, pid)| runs(out, id, *pid));
        if found.is_empty() || Instant::now() >= until {
            break;
        }
        std::thread::sleep(LOOKS_EVERY);
    }
    for (id, pid) in found {
        let problem = format!("container {id} is running and process {pid} is not there");
        out.problem(Area::Process, &id, problem, "restart knarr, which asks its shim");
    }
}

/// Groups of pods and containers that are not known.
pub(super) fn cgroups(out: &mut Examination<'_>) {
    // Pods come and go meanwhile: whose owner is known before or afterwards is somebody's.
    let before = known_now(out.cx);
    let found = before.others(&out.cx.parts.host.cgroup);
    let after = known_now(out.cx);
    for Unknown { path, inhabited, .. } in found.into_iter().filter(|group| !after.has(group)) {
        if inhabited {
            let problem = "processes of a pod or container that is not known".to_owned();
            out.problem(Area::Cgroup, &path, problem, END_THEM);
        } else {
            let problem = "the control group of a pod or container that is not known".to_owned();
            let mend = Mend::RemoveCgroup(path.clone());
            out.mendable(Area::Cgroup, &path, (problem, "remove it"), mend);
        }
    }
}

/// Pods and containers of this daemon, and pods of others.
fn known_now(cx: &Context) -> Known {
    let mut known = Known::nobody();
    for pod in cx.index.pods() {
        known.add_pod(&pod.record);
    }
    let others = shims::everywhere().unwrap_or_default();
    known.add_names(others.iter().map(ToString::to_string));
    known.add_names(cx.index.containers().iter().map(|it| it.record.id.to_string()));
    for object in cx.quarantine.all() {
        known.add_names(object.cgroup_names());
    }
    known
}

/// What only a person can decide.
pub(super) const END_THEM: &str = "end them, unless another knarr serves this host";

/// Pins without a pod, and pods without a pin.
pub(super) fn namespaces(out: &mut Examination<'_>) {
    let dir = Path::new(crate::paths::NETNS);
    let pins = names(dir);
    // Whoever's they are: a pod has a shim from before its namespace is made.
    let shims = shims::everywhere().unwrap_or_default();
    for name in pins {
        let id = name.strip_prefix("knarr-").and_then(|id| SandboxId::parse(id).ok());
        let unknown = |id: &SandboxId| !out.knows(id.as_str()) && !shims.contains(id);
        // One that is gone by now went with its pod.
        let Some(id) = id.filter(|id| unknown(id) && dir.join(&name).exists()) else { continue };
        let problem = format!("the network namespace of pod sandbox {id}, which is not known");
        out.mendable(
            Area::Netns,
            &dir.join(&name).display(),
            (problem, "unpin it"),
            Mend::Unpin(id),
        );
    }
    for pod in out.cx.index.pods() {
        let own = pod.record.config.security.namespaces.network != NamespaceMode::Node;
        let pin = out.cx.paths().netns(&pod.record.id);
        if pod.is_ready() && own && !pin.exists() {
            let id = &pod.record.id;
            let problem =
                format!("pod sandbox {id} is ready and its network namespace is not there");
            out.problem(Area::Netns, &pin.display(), problem, "stop and remove the pod");
        }
    }
}

/// Nothing of ours is mounted on the host, but for the directories themselves.
pub(super) fn mounts(out: &mut Cases, paths: &Paths, live: &impl Live) {
    let table = match std::fs::read_to_string("/proc/self/mountinfo") {
        Ok(table) => table,
        Err(error) => return out.unseen(Area::Mount, &"/proc/self/mountinfo", &error),
    };
    let (root, states) = (paths.root(), paths.pod_states());
    let inner = ["layers", "fixups", "retired", "ingest", "pods", "images"];
    let inner = inner.map(|name| root.join(name));
    for point in table.lines().filter_map(mount_point) {
        let id = point.strip_prefix(&states).ok().and_then(|rest| rest.iter().next());
        let id = id.and_then(|id| SandboxId::parse(id.to_str()?).ok());
        if let Some(id) = id.filter(|id| !live.is_live(id.as_str())) {
            let problem = format!("a mount in the state of pod sandbox {id}, which is not known");
            let told = (problem, "unmount it");
            let mend = Some(Mend::Unmount(point.clone()));
            out.add(Area::Mount, Severity::Problem, &point.display(), told, mend);
        } else if inner.iter().any(|dir| point.starts_with(dir) && point != *dir) {
            let problem = "somebody mounted this within knarr's directories".to_owned();
            out.problem(
                Area::Mount,
                &point.display(),
                problem,
                "unmount it, unless you know better",
            );
        }
    }
}

/// `mountinfo`: the fifth field, with blanks as `\040`.
fn mount_point(line: &str) -> Option<PathBuf> {
    let field = line.split(' ').nth(4)?;
    Some(field.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\").into())
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_points_blanks_are_read() {
        let line = "36 35 98:0 / /run/a\\040b rw - tmpfs tmpfs rw";
        assert_eq!(mount_point(line), Some("/run/a b".into()));
        assert_eq!(mount_point("36 35"), None);
    }
}
