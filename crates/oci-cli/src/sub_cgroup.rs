//! `exec --cgroup`: a place below the container's own cgroup.

use launch::plan::{CgroupDir, CgroupPlan, Hierarchy};

use crate::error::OciError;

/// The groups of a process that goes below those of its container.
pub(crate) fn below(mut plan: CgroupPlan, wanted: &[String]) -> Result<CgroupPlan, OciError> {
    for text in wanted {
        let (controllers, path) =
            text.split_once(':').map_or((None, text.as_str()), |(names, path)| (Some(names), path));
        let names = checked(path)?;
        match controllers {
            None => plan.groups.iter_mut().for_each(|group| descend(group, &names)),
            Some(list) => {
                for controller in list.split(',') {
                    let group = plan.groups.iter_mut().find(|group| has(group, controller));
                    let unknown = || OciError::UnknownController { name: controller.to_owned() };
                    let group = group.ok_or_else(unknown)?;
                    // Two that share a hierarchy may both be named.
                    if !group.path.ends_with(&format!("/{}", names.join("/"))) {
                        descend(group, &names);
                    }
                }
            }
        }
    }
    Ok(plan)
}

fn checked(path: &str) -> Result<Vec<&str>, OciError> {
    let names: Vec<&str> = path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    if names.contains(&"..") || path.contains('\0') {
        return Err(OciError::BadSubCgroup { path: path.to_owned() });
    }
    Ok(names)
}

fn descend(group: &mut CgroupDir, names: &[&str]) {
    for name in names {
        group.path.push('/');
        group.path.push_str(name);
    }
}

fn has(group: &CgroupDir, controller: &str) -> bool {
    match &group.hierarchy {
        Hierarchy::V1(names) => names.iter().any(|name| {
            name == controller || name.strip_prefix("name=").is_some_and(|name| name == controller)
        }),
        Hierarchy::V2 => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> CgroupPlan {
        let dir = |name: &str, controllers: &[&str]| CgroupDir {
            hierarchy: Hierarchy::V1(controllers.iter().map(|c| (*c).to_owned()).collect()),
            mountpoint: format!("/c/{name}"),
            path: format!("/c/{name}/id"),
            settings: Vec::new(),
            join_late: false,
        };
        let groups = vec![dir("cpu,cpuacct", &["cpu", "cpuacct"]), dir("memory", &["memory"])];
        CgroupPlan { groups, ..CgroupPlan::default() }
    }

    fn paths(wanted: &[&str]) -> Result<Vec<String>, OciError> {
        let wanted: Vec<String> = wanted.iter().map(|text| (*text).to_owned()).collect();
        let plan = below(plan(), &wanted)?;
        Ok(plan.groups.into_iter().map(|group| group.path).collect())
    }

    #[test]
    fn all_groups_or_some_are_below() {
        assert_eq!(paths(&["/"]).unwrap(), ["/c/cpu,cpuacct/id", "/c/memory/id"]);
        assert_eq!(paths(&["a/b"]).unwrap(), ["/c/cpu,cpuacct/id/a/b", "/c/memory/id/a/b"]);
        let some = paths(&["cpu,cpuacct:x", "memory:y"]).unwrap();
        assert_eq!(some, ["/c/cpu,cpuacct/id/x", "/c/memory/id/y"]);
    }

    #[test]
    fn places_outside_and_controllers_nobody_has_are_refused() {
        assert!(matches!(paths(&[".."]), Err(OciError::BadSubCgroup { .. })));
        assert!(matches!(paths(&["cpu:a/../../b"]), Err(OciError::BadSubCgroup { .. })));
        assert!(matches!(paths(&["none:/"]), Err(OciError::UnknownController { .. })));
    }
}
