//! systemd's units that are control groups: where a slice is, what a scope is called.

/// Longest name of a unit (`UNIT_NAME_MAX`), with its end.
const LONGEST: usize = 255;

/// The name of a slice: `kubepods-burstable.slice`. Its parts are its parents.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Slice(String);

/// The name of a scope: `knarr-7.scope`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ScopeName(String);

/// A text that is no slice's name, or no scope's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not the name of a systemd {kind}, such as `{example}`", .name.escape_debug())]
pub struct SliceError {
    /// As given.
    name: String,
    kind: &'static str,
    example: &'static str,
}

impl Slice {
    /// systemd.slice(5): parts joined by single dashes, none of them empty; `-.slice` is the root.
    ///
    /// # Errors
    /// [`SliceError`].
    pub fn parse(name: &str) -> Result<Self, SliceError> {
        let good = |stem: &str| {
            name.len() <= LONGEST
                && (stem == "-" || stem.split('-').all(|part| !part.is_empty() && is_plain(part)))
        };
        match name.strip_suffix(".slice") {
            Some(stem) if good(stem) => Ok(Self(name.to_owned())),
            _ => Err(SliceError {
                name: name.to_owned(),
                kind: "slice",
                example: "kubepods-burstable.slice",
            }),
        }
    }

    /// With `.slice`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Absolute path of its cgroup below the hierarchy's root: `/a.slice/a-b.slice`; empty for the
    /// root.
    pub fn path(&self) -> String {
        // Once: a part's own name may end so too.
        let stem = self.0.strip_suffix(".slice").unwrap_or(&self.0);
        let (mut path, mut name) = (String::new(), String::new());
        for part in stem.split('-').filter(|part| !part.is_empty()) {
            if !name.is_empty() {
                name.push('-');
            }
            name.push_str(part);
            path.push('/');
            path.push_str(&name);
            path.push_str(".slice");
        }
        path
    }
}

impl ScopeName {
    /// `<prefix>-<name>.scope`, without the dash if there is no prefix.
    ///
    /// # Errors
    /// [`SliceError`].
    pub fn new(prefix: &str, name: &str) -> Result<Self, SliceError> {
        let dash = if prefix.is_empty() { "" } else { "-" };
        let whole = format!("{prefix}{dash}{name}.scope");
        let plain = [prefix, name].into_iter().all(is_plain);
        if plain && !name.is_empty() && whole.len() <= LONGEST {
            Ok(Self(whole))
        } else {
            Err(SliceError { name: whole, kind: "scope", example: "knarr-7.scope" })
        }
    }

    /// With `.scope`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a unit's name may hold (`VALID_CHARS` of systemd).
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":-_.\\".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_lies_in_those_it_is_named_after() {
        let path = |name| Slice::parse(name).unwrap().path();
        assert_eq!(path("-.slice"), "");
        assert_eq!(path("system.slice"), "/system.slice");
        assert_eq!(path("a-b.slice.slice"), "/a.slice/a-b.slice.slice");
        assert_eq!(
            path("kubepods-burstable-podab_cd.slice"),
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab_cd.slice"
        );
    }

    #[test]
    fn what_systemd_would_not_take_is_no_name() {
        for name in
            ["", ".slice", "a", "a-.slice", "-a.slice", "a--b.slice", "a/b.slice", "a b.slice"]
        {
            Slice::parse(name).unwrap_err();
        }
        Slice::parse(&format!("{}.slice", "a".repeat(250))).unwrap_err();
        ScopeName::new("knarr", "").unwrap_err();
        ScopeName::new("kn/arr", "a").unwrap_err();
        ScopeName::new("", "../a").unwrap_err();
    }

    #[test]
    fn a_scope_is_named_by_prefix_and_name() {
        let name = |prefix, name| ScopeName::new(prefix, name).unwrap().as_str().to_owned();
        assert_eq!(name("knarr", "a"), "knarr-a.scope");
        assert_eq!(name("", "a"), "a.scope");
    }
}
