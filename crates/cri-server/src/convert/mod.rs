//! CRI protobuf ⇄ knarr's own words. Nothing behind this module knows protobuf.

pub(crate) mod container;
pub(crate) mod dump;
pub(crate) mod image;
pub(crate) mod metrics;
pub(crate) mod pod;
pub(crate) mod resources;
pub(crate) mod security;
pub(crate) mod signal;
pub(crate) mod stats;

use sandbox::LookupError;

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
    /// A part of an image where there is none.
    #[error("mounts.image_sub_path is `{sub_path}`, but mounts.image of the mount is empty")]
    SubPathOfNoImage {
        /// As given.
        sub_path: String,
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

/// A filter that cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilterError {
    /// It says something knarr has no word for.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// Its id fits several objects.
    #[error(transparent)]
    Lookup(#[from] LookupError),
}

/// The id a filter asks for. CRI: a unique prefix will do wherever an id is taken; an id nobody
/// has fits nothing, and is no error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WantedId {
    Any,
    This(String),
    Nobodys,
}

impl WantedId {
    pub(crate) fn new(
        id: &str,
        find: impl FnOnce(&str) -> Result<String, LookupError>,
    ) -> Result<Self, LookupError> {
        if id.is_empty() {
            return Ok(Self::Any);
        }
        match find(id) {
            Ok(whole) => Ok(Self::This(whole)),
            Err(LookupError::NotFound { .. }) => Ok(Self::Nobodys),
            Err(error @ (LookupError::Ambiguous { .. } | LookupError::Empty { .. })) => Err(error),
        }
    }

    pub(crate) fn fits(&self, id: &str) -> bool {
        match self {
            Self::Any => true,
            Self::This(wanted) => wanted == id,
            Self::Nobodys => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filters_id_is_whole_or_a_unique_prefix_or_nobodys() {
        let find = |_: &str| Ok("abc".to_owned());
        assert_eq!(WantedId::new("", find), Ok(WantedId::Any));
        let unique = WantedId::new("a", find).unwrap();
        assert!(unique.fits("abc") && !unique.fits("abd"));
        let absent = |id: &str| Err(LookupError::NotFound { kind: "container", id: id.into() });
        assert!(!WantedId::new("x", absent).unwrap().fits("x"));
        let several = |id: &str| {
            let (first, second) = ("a1".into(), "a2".into());
            Err(LookupError::Ambiguous { kind: "container", id: id.into(), first, second })
        };
        assert!(WantedId::new("a", several).is_err());
    }
}
