//! User namespaces in a plan.

use minicbor::{Decode, Encode};

use super::{LaunchPlan, ProcessPlan};

/// Where the user namespace comes from. With any but the launcher's own the process's ids are
/// those of [`ProcessPlan::user_ids`], and its network, IPC and UTS namespaces should belong to it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub enum UserNamespace {
    /// The launcher's own.
    #[default]
    #[n(0)]
    Inherit,
    /// A new one.
    #[n(1)]
    New,
    /// The pod's, made by [`crate::Launcher::make_pod_user_namespace`].
    #[n(2)]
    Pod,
    /// That of a namespace file on the host.
    #[n(3)]
    Join(#[n(0)] String),
}

/// One range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct IdMapping {
    /// First id in the namespace.
    #[n(0)]
    pub inside: u32,
    /// First id outside it.
    #[n(1)]
    pub outside: u32,
    /// How many.
    #[n(2)]
    pub length: u32,
}

/// Which ids of a user namespace are which of the launcher's.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct IdMaps {
    /// Users.
    #[n(0)]
    pub uids: Vec<IdMapping>,
    /// Groups.
    #[n(1)]
    pub gids: Vec<IdMapping>,
}

impl IdMaps {
    /// A user as the launcher's namespace numbers it; `None` when it is not mapped.
    pub fn outside_uid(&self, uid: u32) -> Option<u32> {
        outside(&self.uids, uid)
    }

    /// A group as the launcher's namespace numbers it; `None` when it is not mapped.
    pub fn outside_gid(&self, gid: u32) -> Option<u32> {
        outside(&self.gids, gid)
    }

    /// For the kernel.
    pub(crate) fn in_kernel_words(&self) -> (Vec<model::IdMapping>, Vec<model::IdMapping>) {
        let words = |map: &[IdMapping]| {
            let word = |m: &IdMapping| model::IdMapping {
                host_id: m.outside,
                container_id: m.inside,
                length: m.length,
            };
            map.iter().map(word).collect()
        };
        (words(&self.uids), words(&self.gids))
    }
}

fn outside(map: &[IdMapping], id: u32) -> Option<u32> {
    map.iter().find_map(|range| {
        let offset = id.checked_sub(range.inside).filter(|offset| *offset < range.length)?;
        range.outside.checked_add(offset)
    })
}

/// An id-mapped mount (`MOUNT_ATTR_IDMAP`).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct MountIds {
    /// From ids on the file system (`inside`) to those the mount shows (`outside`); `None`: as the
    /// container's user namespace maps them.
    #[n(0)]
    pub maps: Option<IdMaps>,
    /// Submounts too.
    #[n(1)]
    pub recursive: bool,
}

impl ProcessPlan {
    /// The process's user as the launcher's namespace numbers it: who its pipes belong to.
    pub fn outside_uid(&self) -> u32 {
        let maps = self.user_ids.as_ref();
        maps.and_then(|maps| maps.outside_uid(self.uid)).unwrap_or(self.uid)
    }
}

impl LaunchPlan {
    /// Whether the container is in a user namespace other than the launcher's.
    pub(crate) fn has_user_namespace(&self) -> bool {
        self.namespaces.user != UserNamespace::Inherit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_looked_up_in_every_range_and_not_beyond() {
        let range = |inside, outside, length| IdMapping { inside, outside, length };
        let maps = IdMaps {
            uids: vec![range(0, 100_000, 10), range(1000, 1000, 1), range(2000, u32::MAX - 1, 9)],
            gids: vec![],
        };
        for (inside, outside) in [
            (0, Some(100_000)),
            (9, Some(100_009)),
            (10, None),
            (999, None),
            (1000, Some(1000)),
            (1001, None),
            (2001, Some(u32::MAX)),
            (2002, None),
        ] {
            assert_eq!(maps.outside_uid(inside), outside, "{inside}");
        }
        assert_eq!(maps.outside_gid(0), None);
    }
}
