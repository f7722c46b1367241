//! CRI protobuf ⇄ knarr's own words. Nothing behind this module knows protobuf.

pub(crate) mod container;
pub(crate) mod image;
pub(crate) mod pod;
pub(crate) mod resources;
pub(crate) mod security;
pub(crate) mod signal;
pub(crate) mod stats;

/// A request that says something knarr has no word for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConvertError {
    /// A message that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// An enum value this version does not know.
    #[error("{field} has the unknown value {value}")]
    UnknownValue {
        /// Which field.
        field: &'static str,
        /// The number on the wire.
        value: i32,
    },
    /// A mount of two things. Kubelet knows failed image volumes by the first word.
    #[error("ImageVolumeMountFailed: a mount has an image and the host_path `{host_path}`")]
    ImageAndHostPath {
        /// As given.
        host_path: String,
    },
    /// A value outside what the field allows.
    #[error("{field} is {value}: want {want}")]
    OutOfRange {
        /// Which field.
        field: &'static str,
        /// As given.
        value: String,
        /// What is allowed.
        want: &'static str,
    },
}

/// Where an enum of the wire becomes ours.
pub(crate) fn known<E: TryFrom<i32>>(field: &'static str, value: i32) -> Result<E, ConvertError> {
    E::try_from(value).map_err(|_| ConvertError::UnknownValue { field, value })
}
