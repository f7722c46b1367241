//! `linux.cgroupsPath` in systemd's form: `slice:prefix:name`.

use model::{ScopeName, Slice};
use oci_spec::runtime::Spec;

use crate::PlanError;

/// Where containers are that name no slice.
const DEFAULT_SLICE: &str = "system.slice";
/// What begins the names of scopes of containers that name none.
const DEFAULT_PREFIX: &str = "knarr-oci";

/// A scope that systemd is to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemdScope {
    /// The slice it is in.
    pub slice: Slice,
    /// Its name.
    pub name: ScopeName,
}

impl SystemdScope {
    /// Its cgroup below the hierarchy's root.
    pub fn path(&self) -> String {
        format!("{}/{}", self.slice.path(), self.name.as_str())
    }

    /// In the form of `linux.cgroupsPath` for a container that has none.
    pub fn default_form(id: &str) -> String {
        format!("{DEFAULT_SLICE}:{DEFAULT_PREFIX}:{id}")
    }
}

/// The scope a path names, if it has systemd's form.
pub(super) fn parse(path: &str) -> Result<Option<SystemdScope>, PlanError> {
    let parts: Vec<&str> = path.split(':').collect();
    let [slice, prefix, name] = parts[..] else { return Ok(None) };
    if path.starts_with('/') {
        return Ok(None);
    }
    let refused = |_| {
        let want = "slice:prefix:name, of which systemd can make a slice and a scope";
        PlanError::invalid("linux.cgroupsPath", path, want)
    };
    let slice = if slice.is_empty() { DEFAULT_SLICE } else { slice };
    Ok(Some(SystemdScope {
        slice: Slice::parse(slice).map_err(refused)?,
        name: ScopeName::new(prefix, name).map_err(refused)?,
    }))
}

/// The scope of a container whose cgroup systemd is to make.
///
/// # Errors
/// [`PlanError`] when the specification names a cgroup in another form.
pub fn scope(spec: &Spec, id: &str) -> Result<SystemdScope, PlanError> {
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
    let text = match path.map(|path| path.to_str()) {
        None | Some(Some("")) => SystemdScope::default_form(id),
        Some(Some(text)) => text.to_owned(),
        Some(None) => String::new(),
    };
    let want = "slice:prefix:name, as systemd is to make it";
    parse(&text)?.ok_or_else(|| PlanError::invalid("linux.cgroupsPath", text, want))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_lies_in_its_slice() {
        let path = |text| parse(text).unwrap().unwrap().path();
        assert_eq!(path("a-b.slice:cri:7"), "/a.slice/a-b.slice/cri-7.scope");
        assert_eq!(path(":cri:7"), "/system.slice/cri-7.scope");
        assert_eq!(path("-.slice::7"), "/7.scope");
    }

    #[test]
    fn other_forms_are_directories_and_nonsense_is_refused() {
        for path in ["/a:b:c", "a/b", "a:b", ""] {
            assert_eq!(parse(path).unwrap(), None, "{path}");
        }
        for path in ["a:b:c", "a.slice:b:", "a.slice:../b:c", "a--b.slice:c:d"] {
            parse(path).unwrap_err();
        }
    }
}
