//! How this host lays out its cgroup hierarchies, and who makes groups in them.

/// Who makes control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum CgroupDriver {
    /// knarr itself.
    #[default]
    Cgroupfs,
    /// systemd, on knarr's request.
    Systemd,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CgroupHierarchy {
    /// Where it is mounted, e.g. `/sys/fs/cgroup/memory`.
    pub mountpoint: String,
    /// v1: its controllers (or one `name=…`); v2: the controllers it offers.
    pub controllers: Vec<String>,
}

/// The hierarchies containers are put into.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum CgroupLayout {
    /// The unified hierarchy alone, mounted at the usual place.
    V2(CgroupHierarchy),
    /// v1 hierarchies; on a hybrid host also a unified one without resource controllers.
    V1 {
        /// One per set of controllers.
        hierarchies: Vec<CgroupHierarchy>,
        /// The unified hierarchy of a hybrid host.
        unified: Option<CgroupHierarchy>,
    },
}

impl CgroupLayout {
    /// Whether this is the unified hierarchy alone.
    pub fn is_v2(&self) -> bool {
        matches!(self, Self::V2(_))
    }

    /// The hierarchy that offers `controller`, if any does.
    pub fn controller(&self, controller: &str) -> Option<&CgroupHierarchy> {
        let offers = |h: &&CgroupHierarchy| h.controllers.iter().any(|c| c == controller);
        match self {
            Self::V2(unified) => Some(unified).filter(offers),
            Self::V1 { hierarchies, unified } => {
                hierarchies.iter().find(offers).or_else(|| unified.as_ref().filter(offers))
            }
        }
    }
}
