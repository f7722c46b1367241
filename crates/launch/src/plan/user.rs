//! User namespaces in a plan.

use minicbor::{Decode, Encode};
use model::IdMaps;

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

/// An id-mapped mount (`MOUNT_ATTR_IDMAP`).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct MountIds {
    /// From ids on the file system (`container_id`) to those the mount shows (`host_id`); `None`: as the
    /// container's user namespace maps them.
    #[n(0)]
    pub maps: Option<IdMaps>,
    /// Submounts too.
    #[n(1)]
    pub recursive: bool,
}

impl ProcessPlan {
    /// The process's user as the launcher's namespace numbers it: who its pipes belong to.
    pub fn host_uid(&self) -> u32 {
        let maps = self.user_ids.as_ref();
        maps.and_then(|maps| maps.host_uid(self.uid)).unwrap_or(self.uid)
    }
}

impl LaunchPlan {
    /// Whether the container is in a user namespace other than the launcher's.
    pub(crate) fn has_user_namespace(&self) -> bool {
        self.namespaces.user != UserNamespace::Inherit
    }
}
