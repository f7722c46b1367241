//! Which packets a table sees.

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4: `ip`.
    Ipv4,
    /// IPv6: `ip6`.
    Ipv6,
}

impl Family {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
        }
    }

    /// The family's name in `nft`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ip",
            Self::Ipv6 => "ip6",
        }
    }
}

/// The family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TableFamily {
    /// Packets of one IP version.
    Ip(Family),
    /// Frames that a bridge forwards: `bridge`.
    Bridge,
}

impl TableFamily {
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Ip(family) => family.number(),
            Self::Bridge => 7,
        }
    }

    /// The family's name in `nft`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ip(family) => family.name(),
            Self::Bridge => "bridge",
        }
    }
}

impl From<Family> for TableFamily {
    fn from(family: Family) -> Self {
        Self::Ip(family)
    }
}
