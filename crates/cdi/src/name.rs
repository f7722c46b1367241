//! Qualified device names: `vendor.com/class=name`.

use std::collections::BTreeMap;
use std::fmt;

/// Annotations whose keys begin so ask for devices.
const ANNOTATION_PREFIX: &str = "cdi.k8s.io/";

/// What asks for one device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceName {
    /// `vendor.com/class`
    kind: String,
    device: String,
}

/// A text that names no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no CDI device: want VENDOR/CLASS=NAME")]
pub struct NameError {
    /// As given.
    pub text: String,
}

impl DeviceName {
    /// Reads a qualified name.
    ///
    /// # Errors
    /// [`NameError`] when a part is missing or has characters it may not have.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let refuse = || NameError { text: text.to_owned() };
        let (kind, device) = text.split_once('=').ok_or_else(refuse)?;
        if !is_kind(kind) || !is_device(device) {
            return Err(refuse());
        }
        Ok(Self { kind: kind.to_owned(), device: device.to_owned() })
    }

    pub(crate) fn new(kind: &str, device: &str) -> Self {
        Self { kind: kind.to_owned(), device: device.to_owned() }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

/// Vendor and class.
pub(crate) fn is_kind(text: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic()) && is_word(part, |c| "_-.".contains(c))
    };
    text.split_once('/').is_some_and(|(vendor, class)| part(vendor) && part(class))
}

pub(crate) fn is_device(text: &str) -> bool {
    is_word(text, |c| "_-.:".contains(c))
}

/// Letters, digits and what else `fits`, the latter not at the ends.
fn is_word(text: &str, fits: impl Fn(char) -> bool) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(plain) && text.ends_with(plain) && text.chars().all(|c| plain(c) || fits(c))
}

/// The devices a container asks for: those of the request's own field, then those of annotations
/// `cdi.k8s.io/*` (comma-separated) in the order of their keys; each once.
///
/// # Errors
/// [`NameError`] for the first text that names none.
pub fn requested<'a>(
    fields: impl IntoIterator<Item = &'a str>,
    annotations: &'a BTreeMap<String, String>,
) -> Result<Vec<DeviceName>, NameError> {
    let annotated = annotations.iter().filter(|(key, _)| key.starts_with(ANNOTATION_PREFIX));
    let annotated = annotated.flat_map(|(_, value)| value.split(','));
    let mut names: Vec<DeviceName> = Vec::new();
    for text in fields.into_iter().chain(annotated) {
        let name = DeviceName::parse(text)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_three_parts() {
        for text in ["vendor.com/gpu=0", "a/b=c", "v-1.x/c_2.d=gpu:1.0-a_b", "Vendor.com/GPU=MIG-1"]
        {
            assert_eq!(DeviceName::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "gpu",
            "vendor.com/gpu",
            "vendor.com=0",
            "vendor.com/gpu=",
            "/gpu=0",
            "/dev/null",
            "1v.com/gpu=0",
            "vendor.com/1=0",
            "vendor.com/gpu=-0",
            "vendor.com/gpu=0:",
            "vendor.com./gpu=0",
            "vendor.com/a/b=0",
            "vendor.com/gpu=a b",
            "vendor.com/gpu=0=1",
        ] {
            assert!(DeviceName::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn fields_come_first_and_duplicates_are_dropped() {
        let annotations = BTreeMap::from([
            ("cdi.k8s.io/b".to_owned(), "v/c=3,v/c=1".to_owned()),
            ("cdi.k8s.io/a".to_owned(), "v/c=2".to_owned()),
            ("other".to_owned(), "no device".to_owned()),
        ]);
        let names = requested(["v/c=1", "v/c=0", "v/c=1"], &annotations).unwrap();
        let texts: Vec<String> = names.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["v/c=1", "v/c=0", "v/c=2", "v/c=3"]);
        let wrong = BTreeMap::from([("cdi.k8s.io/x".to_owned(), "v/c=1, v/c=2".to_owned())]);
        assert_eq!(requested([], &wrong).unwrap_err().text, " v/c=2");
    }
}
