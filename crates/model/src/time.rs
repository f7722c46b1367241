//! Points in time as the CRI counts them.

/// Nanoseconds since the Unix epoch, UTC. CRI: every timestamp is an int64 of this unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct UnixNanos(pub i64);
