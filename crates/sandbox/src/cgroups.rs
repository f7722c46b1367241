//! Control groups whose keeper has gone: killed and removed from outside. Blocking.

use std::path::Path;

use model::{CgroupHierarchy, CgroupLayout};
use sys::cgroup::{CgroupError, Version};

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

/// Kills and removes the groups `names` below `parent`, and `parent` itself if it is the pod's.
pub(crate) fn sweep(
    layout: &CgroupLayout,
    parent: &str,
    names: &[String],
    own_parent: bool,
) -> Result<(), CgroupError> {
    let mut groups: Vec<String> = names.iter().map(|name| format!("{parent}/{name}")).collect();
    if own_parent {
        groups.push(parent.to_owned());
    }
    for group in groups {
        for (version, freezer, dir) in directories(layout, &group) {
            if Path::new(&dir).exists() {
                sys::cgroup::kill_all(version, &dir, freezer)?;
                sys::cgroup::remove(&dir)?;
            }
        }
    }
    Ok(())
}
