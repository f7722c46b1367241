//! Control groups from outside: limits changed, and groups whose keeper has gone killed and
//! removed. Blocking.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use failpoint::Point;
use launch::plan::CgroupPlan;
use model::{CgroupHierarchy, CgroupLayout};
use rustix::fs::CWD;
use sys::cgroup::{CgroupError, Version};

/// A limit that the kernel does not take.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {path} to {value}")]
pub struct LimitError {
    /// The group's file.
    pub path: String,
    /// What was written.
    pub value: String,
    /// Why not.
    pub source: io::Error,
}

/// Limits that held before others were set, in the order in which they were changed.
#[derive(Debug, Default)]
pub(crate) struct Before(Vec<(String, String)>);

impl Before {
    /// Puts them back. What fails is logged: whoever asks for this has an error of its own to
    /// report.
    pub(crate) fn put_back(self) {
        for (path, value) in self.0.into_iter().rev() {
            let written = sys::fs::write_value(CWD, path.as_str(), value.as_bytes());
            if let Err(error) = written {
                tracing::error!(path, value, %error, "limit not put back");
            }
        }
    }
}

/// Writes a plan's settings into groups that exist: all of them or none. Values a host may lack
/// are passed over.
pub(crate) fn set_limits(plan: &CgroupPlan) -> Result<Before, LimitError> {
    let mut before = Before::default();
    for group in &plan.groups {
        for setting in &group.settings {
            let exists = |file: &str| Path::new(&group.path).join(file).exists();
            let (file, wanted) = setting.choose(exists);
            let path = format!("{}/{file}", group.path);
            let written = std::fs::read_to_string(&path).and_then(|value| {
                if file == MEMORY_MAX {
                    make_room(&group.path, wanted)?;
                }
                sys::fs::write_value(CWD, path.as_str(), wanted.as_bytes())?;
                Ok(value.trim_end().to_owned())
            });
            match written {
                Ok(value) => before.0.push((path, value)),
                Err(error) if !setting.required => {
                    tracing::warn!(path, value = wanted, %error, "limit not applied");
                }
                Err(source) => {
                    before.put_back();
                    return Err(LimitError { path, value: wanted.to_owned(), source });
                }
            }
        }
    }
    Ok(before)
}

/// The memory limit of cgroup v2.
const MEMORY_MAX: &str = "memory.max";

/// A limit below what is in use is refused, as v1 does by itself: v2 takes it, and makes room with
/// the OOM killer. CRI: a change that fails leaves everything as it was. What a container takes
/// from here to the write is not seen.
fn make_room(group: &str, limit: &str) -> io::Result<()> {
    // `max` is room enough.
    let Ok(limit) = limit.parse::<u64>() else { return Ok(()) };
    let group = Path::new(group);
    let used = || -> io::Result<u64> {
        let text = std::fs::read_to_string(group.join("memory.current"))?;
        text.trim_end().parse().map_err(|_| io::ErrorKind::InvalidData.into())
    };
    let mut in_use = used()?;
    if in_use > limit {
        // Caches may go. Kernels before 5.19 do not have the file, and it is an error that not all
        // was reclaimed: what counts is what is left.
        let excess = (in_use - limit).to_string();
        let reclaimed = sys::fs::write_value(CWD, group.join("memory.reclaim"), excess.as_bytes());
        if let Err(error) = reclaimed {
            tracing::debug!(group = %group.display(), excess, %error, "not all was reclaimed");
        }
        in_use = used()?;
    }
    if in_use > limit {
        let why = format!("{in_use} bytes are in use and cannot be reclaimed");
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
    }
    Ok(())
}

/// A cgroup path's directory in each hierarchy.
fn directories(layout: &CgroupLayout, path: &str) -> Vec<(Version, bool, String)> {
    let below = |hierarchy: &CgroupHierarchy, version: Version| {
        let freezer = hierarchy.controllers.iter().any(|name| name == "freezer");
        let dir = Path::new(&hierarchy.mountpoint).join(path.trim_start_matches('/'));
        (version, freezer, dir.to_string_lossy().into_owned())
    };
    let v1 = |hierarchy: &CgroupHierarchy| {
        let cpuset = hierarchy.controllers.iter().any(|name| name == "cpuset");
        below(hierarchy, Version::V1 { cpuset })
    };
    match layout {
        CgroupLayout::V2(unified) => vec![below(unified, Version::V2)],
        CgroupLayout::V1 { hierarchies, unified } => {
            let unified = unified.iter().map(|unified| below(unified, Version::V2));
            // The freezer first: a frozen group cannot fork away while it is killed.
            let mut all: Vec<_> = hierarchies.iter().map(v1).collect();
            all.sort_by_key(|(_, freezer, _)| !freezer);
            all.into_iter().chain(unified).collect()
        }
    }
}

/// Sends SIGKILL to every process of the group. Bounded.
pub(crate) fn kill(layout: &CgroupLayout, path: &str) -> Result<(), CgroupError> {
    for (version, freezer, dir) in directories(layout, path) {
        sys::cgroup::kill_all(version, &dir, freezer)?;
    }
    Ok(())
}

/// How long those that were killed are waited for.
pub(crate) const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// As [`kill`], and returns when nothing lives there any more.
pub(crate) fn end(layout: &CgroupLayout, path: &str) -> Result<(), CgroupError> {
    for (version, freezer, dir) in directories(layout, path) {
        end_in(version, freezer, &dir)?;
    }
    Ok(())
}

/// In one hierarchy.
fn end_in(version: Version, freezer: bool, dir: &str) -> Result<(), CgroupError> {
    sys::cgroup::kill_all(version, dir, freezer)?;
    let deadline = Instant::now() + ENDS_WITHIN;
    while sys::cgroup::any_alive(dir)? {
        if Instant::now() >= deadline {
            let source = io::ErrorKind::TimedOut.into();
            return Err(CgroupError { action: "kill", path: dir.to_owned(), source });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Kills and removes the groups `names` below `parent`, and `parent` itself if it is the pod's. One
/// that resists does not keep the others; the first such is the error.
pub(crate) fn sweep(
    layout: &CgroupLayout,
    parent: &str,
    names: &[String],
    own_parent: bool,
) -> Result<(), CgroupError> {
    failpoint::reach(Point::PodStopCgroups).map_err(|source| CgroupError {
        action: "remove",
        path: parent.to_owned(),
        source,
    })?;
    let mut groups: Vec<String> = names.iter().map(|name| format!("{parent}/{name}")).collect();
    if own_parent {
        groups.push(parent.to_owned());
    }
    let mut swept = Ok(());
    for group in groups {
        for (version, freezer, dir) in directories(layout, &group) {
            if Path::new(&dir).exists() {
                let gone = end_in(version, freezer, &dir).and_then(|()| sys::cgroup::remove(&dir));
                swept = swept.and(gone);
            }
        }
    }
    swept
}

/// Whether this process lives in the group. The dead keep their place in a v1 group until reaped.
pub(crate) fn holds(layout: &CgroupLayout, path: &str, pid: i32) -> bool {
    let wanted = pid.to_string();
    let listed = directories(layout, path).iter().any(|(_, _, dir)| {
        let processes = std::fs::read_to_string(Path::new(dir).join("cgroup.procs"));
        processes.is_ok_and(|text| text.lines().any(|line| line == wanted))
    });
    listed && crate::shims::lives(pid)
}

/// Whether a process lives in the group.
pub(crate) fn inhabited(layout: &CgroupLayout, path: &str) -> bool {
    directories(layout, path).iter().any(|(_, _, dir)| {
        let processes = std::fs::read_to_string(Path::new(dir).join("cgroup.procs"));
        processes.is_ok_and(|text| !text.trim().is_empty())
    })
}

/// Whether a process lives in the group or below it.
pub(crate) fn any_inhabited(layout: &CgroupLayout, path: &str) -> bool {
    let living = |(_, _, dir): &(Version, bool, String)| {
        sys::cgroup::pids(dir).is_ok_and(|pids| !pids.is_empty())
    };
    directories(layout, path).iter().any(living)
}

/// The names of the groups directly below one, in all hierarchies.
pub(crate) fn children(layout: &CgroupLayout, path: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (_, _, dir) in directories(layout, path) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                names.extend(entry.file_name().into_string());
            }
        }
    }
    names
}

/// Removes an empty group with all below it.
pub(crate) fn remove(layout: &CgroupLayout, path: &str) -> Result<(), CgroupError> {
    for (_, _, dir) in directories(layout, path) {
        if Path::new(&dir).exists() {
            sys::cgroup::remove(&dir)?;
        }
    }
    Ok(())
}

/// Kills and removes every group of one of these names, wherever it is. One that resists does not keep
/// the others; the first such is the error.
pub(crate) fn sweep_named(
    layout: &CgroupLayout,
    names: &HashSet<String>,
) -> Result<(), CgroupError> {
    let mut swept = Ok(());
    for (version, freezer, top) in directories(layout, "") {
        for dir in below(Path::new(&top)) {
            let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if names.contains(name) && dir.exists() {
                let dir = dir.to_string_lossy();
                let gone = end_in(version, freezer, &dir).and_then(|()| sys::cgroup::remove(&dir));
                swept = swept.and(gone);
            }
        }
    }
    swept
}

/// Every group below one. Groups that vanish meanwhile are not there.
pub(crate) fn below(top: &Path) -> Vec<PathBuf> {
    let (mut found, mut left) = (Vec::new(), vec![top.to_owned()]);
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(entry.path());
                found.push(entry.path());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use launch::plan::{CgroupDir, CgroupSetting, Hierarchy};

    fn setting(file: &str, required: bool) -> CgroupSetting {
        CgroupSetting { file: file.into(), value: "7".into(), required, fallback: None }
    }

    #[test]
    fn limits_are_set_all_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("there");
        let value = || std::fs::read_to_string(&there).unwrap();
        std::fs::write(&there, "5").unwrap();
        let mut plan = CgroupPlan {
            groups: vec![CgroupDir {
                hierarchy: Hierarchy::V2,
                path: dir.path().to_string_lossy().into_owned(),
                mountpoint: "/".into(),
                join_late: false,
                settings: vec![setting("optional", false), setting("there", true)],
            }],
            ..CgroupPlan::default()
        };
        set_limits(&plan).unwrap().put_back();
        assert_eq!(value(), "5");
        plan.groups[0].settings.push(setting("missing", true));
        let error = set_limits(&plan).unwrap_err();
        assert!(error.path.ends_with("/missing"), "{error}");
        assert_eq!(value(), "5");
        plan.groups[0].settings.pop();
        set_limits(&plan).unwrap();
        assert_eq!(value(), "7");
    }

    #[test]
    fn a_group_that_resists_does_not_keep_the_others() {
        let dir = tempfile::tempdir().unwrap();
        // No file system of cgroups: what has a file in it cannot be removed there.
        let names: HashSet<String> = ["a", "b", "c"].map(str::to_owned).into();
        let groups = ["a", "below/b", "c"].map(|name| dir.path().join(name));
        for group in &groups {
            std::fs::create_dir_all(group).unwrap();
            std::fs::write(group.join("cgroup.procs"), "").unwrap();
            std::fs::write(group.join("cgroup.kill"), "").unwrap();
        }
        let layout = CgroupLayout::V2(CgroupHierarchy {
            mountpoint: dir.path().to_string_lossy().into_owned(),
            controllers: Vec::new(),
        });
        let error = sweep_named(&layout, &names).unwrap_err();
        assert!(groups.iter().any(|group| error.path == group.to_string_lossy()), "{error}");
        // Every one of them was told to end.
        for group in &groups {
            assert_eq!(std::fs::read(group.join("cgroup.kill")).unwrap(), b"1", "{group:?}");
        }
    }

    #[test]
    fn memory_in_use_is_not_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let group = dir.path().to_str().unwrap();
        write("memory.current", "4096\n");
        make_room(group, "4096").unwrap();
        make_room(group, "max").unwrap();
        let refused = make_room(group, "4095").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ResourceBusy);
        assert!(refused.to_string().contains("4096 bytes"), "{refused}");
        write("memory.reclaim", "");
        make_room(group, "4000").unwrap_err();
        let asked = std::fs::read_to_string(dir.path().join("memory.reclaim")).unwrap();
        assert_eq!(asked, "96", "no more than has to go");
    }
}
