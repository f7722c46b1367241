//! `linux.uidMappings`, `linux.gidMappings`, the mappings of mounts, and who is mapped.

use launch::plan::{MountIds, UserNamespace};
use model::{IdMapping, IdMaps};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType as Kind, Mount, User};

use crate::namespaces::{Origin, origin};
use crate::{PlanContext, PlanError};

/// The kernel's limit on ranges per map.
const MAX_RANGES: usize = 340;

/// Where the user namespace comes from, and what it maps.
pub(crate) fn user_namespace(
    linux: &Linux,
    context: &PlanContext<'_>,
) -> Result<(UserNamespace, Option<IdMaps>), PlanError> {
    let uids = checked("linux.uidMappings", linux.uid_mappings())?;
    let gids = checked("linux.gidMappings", linux.gid_mappings())?;
    let user = match origin(linux, Kind::User)? {
        Origin::Host => {
            for (field, map) in [("linux.uidMappings", &uids), ("linux.gidMappings", &gids)] {
                if !map.is_empty() {
                    return Err(PlanError::invalid(field, "set", "none without a user namespace"));
                }
            }
            return Ok((UserNamespace::Inherit, None));
        }
        Origin::New => UserNamespace::New,
        Origin::Path(path) if context.pod_user == Some(path.as_str()) => UserNamespace::Pod,
        Origin::Path(path) => UserNamespace::Join(path),
    };
    let maps = IdMaps { uids, gids };
    if maps.host_uid(0).is_none() {
        return Err(PlanError::Missing { field: "linux.uidMappings of container id 0" });
    }
    if maps.host_gid(0).is_none() {
        return Err(PlanError::Missing { field: "linux.gidMappings of container id 0" });
    }
    Ok((user, Some(maps)))
}

/// What the mappings and options of a bind mount ask for.
pub(crate) fn mount_ids(
    mount: &Mount,
    field: &str,
    option: Option<Recursion>,
    own_users: bool,
) -> Result<Option<MountIds>, PlanError> {
    let uids = checked(&format!("{field}.uidMappings"), mount.uid_mappings())?;
    let gids = checked(&format!("{field}.gidMappings"), mount.gid_mappings())?;
    let recursive = option == Some(Recursion::Submounts);
    match (uids.is_empty(), gids.is_empty()) {
        (true, true) => match option {
            None => Ok(None),
            Some(_) if own_users => Ok(Some(MountIds { maps: None, recursive })),
            Some(_) => Err(PlanError::invalid(
                format!("{field}.options"),
                "idmap",
                "mappings of the mount's own where there is no user namespace",
            )),
        },
        (false, false) => Ok(Some(MountIds { maps: Some(IdMaps { uids, gids }), recursive })),
        (true, false) => Err(half(field, "uidMappings")),
        (false, true) => Err(half(field, "gidMappings")),
    }
}

fn half(field: &str, missing: &str) -> PlanError {
    let want = "both uidMappings and gidMappings, or neither";
    PlanError::invalid(format!("{field}.{missing}"), "unset", want)
}

/// How far `idmap` and `ridmap` reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recursion {
    /// The mount itself.
    Top,
    /// Its submounts too.
    Submounts,
}

/// Refuses a user nobody in the namespace can be.
pub(crate) fn check_user(user: &User, maps: Option<&IdMaps>) -> Result<(), PlanError> {
    let Some(maps) = maps else { return Ok(()) };
    let refuse = |field: &str, id, want| Err(PlanError::invalid(field, id, want));
    if maps.host_uid(user.uid()).is_none() {
        return refuse("process.user.uid", user.uid(), "an id that linux.uidMappings map");
    }
    let groups = user.additional_gids().iter().flatten().copied();
    for (field, gid) in std::iter::once(("process.user.gid", user.gid()))
        .chain(groups.map(|gid| ("process.user.additionalGids", gid)))
    {
        if maps.host_gid(gid).is_none() {
            return refuse(field, gid, "an id that linux.gidMappings map");
        }
    }
    Ok(())
}

/// The kernel takes no empty range and no two that overlap, on either side.
fn checked(
    field: &str,
    mappings: &Option<Vec<LinuxIdMapping>>,
) -> Result<Vec<IdMapping>, PlanError> {
    let mut ranges: Vec<IdMapping> = Vec::new();
    for mapping in mappings.iter().flatten() {
        let range = IdMapping {
            container_id: mapping.container_id(),
            host_id: mapping.host_id(),
            length: mapping.size(),
        };
        let shown = range.to_string();
        if range.length == 0 {
            return Err(PlanError::invalid(field, shown, "a length of at least 1"));
        }
        // The last id is no id: it stands for "none".
        let last = u32::MAX - range.length;
        if range.container_id > last || range.host_id > last {
            return Err(PlanError::invalid(field, shown, "ids below 4294967295"));
        }
        let overlap = |other: &IdMapping| {
            overlaps((range.container_id, other.container_id), (range.length, other.length))
                || overlaps((range.host_id, other.host_id), (range.length, other.length))
        };
        if ranges.iter().any(overlap) {
            return Err(PlanError::invalid(field, shown, "ranges that do not overlap"));
        }
        ranges.push(range);
    }
    if ranges.len() > MAX_RANGES {
        return Err(PlanError::invalid(field, ranges.len(), "at most 340 ranges"));
    }
    Ok(ranges)
}

fn overlaps((a, b): (u32, u32), (a_length, b_length): (u32, u32)) -> bool {
    if a <= b { b - a < a_length } else { a - b < b_length }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxIdMappingBuilder;

    use super::*;

    fn ranges(list: &[(u32, u32, u32)]) -> Option<Vec<LinuxIdMapping>> {
        let range = |(container, host, size): &(u32, u32, u32)| {
            let mapping = LinuxIdMappingBuilder::default();
            mapping.container_id(*container).host_id(*host).size(*size).build().unwrap()
        };
        Some(list.iter().map(range).collect())
    }

    #[test]
    fn ranges_the_kernel_refuses_are_refused_here() {
        for (list, word) in [
            (&[(0, 1000, 0)][..], "length"),
            (&[(0, u32::MAX, 1)], "below"),
            (&[(u32::MAX - 5, 0, 6)], "below"),
            (&[(0, 1000, 10), (9, 5000, 1)], "overlap"),
            (&[(9, 5000, 1), (0, 1000, 10)], "overlap"),
            (&[(0, 1000, 10), (10, 1009, 1)], "overlap"),
        ] {
            let error = checked("linux.uidMappings", &ranges(list)).unwrap_err().to_string();
            assert!(error.contains("linux.uidMappings") && error.contains(word), "{error}");
        }
        let fine = &[(0, 1000, 10), (10, 1010, 1), (u32::MAX - 5, 0, 5)];
        assert_eq!(checked("f", &ranges(fine)).unwrap().len(), 3);
    }
}
