//! Which ids of a user namespace are which of the host's.

/// One range of ids of a user namespace. In a plan "the host" is the launcher's own namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "cbor", derive(minicbor::Encode, minicbor::Decode))]
pub struct IdMapping {
    /// First id on the host.
    #[cfg_attr(feature = "cbor", n(1))]
    pub host_id: u32,
    /// First id in the container.
    #[cfg_attr(feature = "cbor", n(0))]
    pub container_id: u32,
    /// How many.
    #[cfg_attr(feature = "cbor", n(2))]
    pub length: u32,
}

impl IdMapping {
    /// The host's number of an id in the container, if this range has it.
    pub fn host_id_of(&self, container_id: u32) -> Option<u32> {
        let offset = container_id.checked_sub(self.container_id)?;
        if offset < self.length { self.host_id.checked_add(offset) } else { None }
    }
}

/// `container:host:length`, as errors and status show it.
impl std::fmt::Display for IdMapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.container_id, self.host_id, self.length)
    }
}

/// The maps of a user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "cbor", derive(minicbor::Encode, minicbor::Decode))]
pub struct IdMaps {
    /// Users.
    #[cfg_attr(feature = "cbor", n(0))]
    pub uids: Vec<IdMapping>,
    /// Groups.
    #[cfg_attr(feature = "cbor", n(1))]
    pub gids: Vec<IdMapping>,
}

impl IdMaps {
    /// A user as the host numbers it; `None` when it is not mapped.
    pub fn host_uid(&self, uid: u32) -> Option<u32> {
        self.uids.iter().find_map(|range| range.host_id_of(uid))
    }

    /// A group as the host numbers it; `None` when it is not mapped.
    pub fn host_gid(&self, gid: u32) -> Option<u32> {
        self.gids.iter().find_map(|range| range.host_id_of(gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_looked_up_in_every_range_and_not_beyond() {
        let range = |container_id, host_id, length| IdMapping { host_id, container_id, length };
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
            assert_eq!(maps.host_uid(inside), outside, "{inside}");
        }
        assert_eq!(maps.host_gid(0), None);
    }
}
