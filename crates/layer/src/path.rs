//! Names as the tar writes them, cleaned into paths below the layer root.

const WHITEOUT: &[u8] = b".wh.";
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A path below the layer root: components joined by `/`, none of them empty, `.` or `..`.
/// Empty for the root itself. It may still lead through symbolic links.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LayerPath(Vec<u8>);

/// Why a name is not a path below the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathFault {
    Climbs,
    Nul,
}

impl LayerPath {
    /// Cleans a name lexically: `./`, leading, double and trailing slashes vanish, `a/..` cancels.
    pub(crate) fn clean(raw: &[u8]) -> Result<Self, PathFault> {
        let mut path = Self(Vec::with_capacity(raw.len()));
        if raw.contains(&0) {
            return Err(PathFault::Nul);
        }
        for component in raw.split(|&byte| byte == b'/') {
            if component == b".." && path.is_root() {
                return Err(PathFault::Climbs);
            }
            path.push(component);
        }
        Ok(path)
    }

    /// Where a symbolic link at a child of `self` leads, followed by `rest`; `..` stops at the
    /// root, as it does for the kernel in a chroot.
    pub(crate) fn follow(&self, target: &[u8], rest: &[u8]) -> Self {
        let mut path = if target.starts_with(b"/") { Self(Vec::new()) } else { self.clone() };
        for part in [target, rest] {
            part.split(|&byte| byte == b'/').for_each(|component| path.push(component));
        }
        path
    }

    fn push(&mut self, component: &[u8]) {
        match component {
            b"" | b"." => {}
            b".." => self.0.truncate(self.0.iter().rposition(|&byte| byte == b'/').unwrap_or(0)),
            name => {
                if !self.0.is_empty() {
                    self.0.push(b'/');
                }
                self.0.extend_from_slice(name);
            }
        }
    }

    pub(crate) fn root() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// A name in the directory `self`.
    pub(crate) fn join(&self, name: &[u8]) -> Self {
        let mut path = self.clone();
        path.push(name);
        path
    }

    /// Bounds of the sorted paths below this one: from the first to the one behind the last.
    pub(crate) fn range_below(&self) -> (Self, Self) {
        let with = |byte| Self([&*self.0, &[byte]].concat());
        (with(b'/'), with(b'/' + 1))
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The directory the path lies in, and its name there. The root has no name.
    pub(crate) fn split(&self) -> (Self, &[u8]) {
        match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (Self(self.0[..slash].to_vec()), &self.0[slash + 1..]),
            None => (Self(Vec::new()), &self.0),
        }
    }

    /// Every prefix from the first component to the whole path, with what follows it.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = (Self, &[u8])> {
        let slashes = self.0.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let inner = slashes.map(|(at, _)| (Self(self.0[..at].to_vec()), &self.0[at + 1..]));
        inner.chain((!self.is_root()).then(|| (self.clone(), &[][..])))
    }

    /// What the name means in a layer; `None` for a whiteout that is none.
    pub(crate) fn role(&self) -> Option<Role> {
        let (parent, name) = self.split();
        if name == OPAQUE {
            return (!parent.is_whiteout_below()).then_some(Role::Opaque(parent));
        }
        if self.0.split(|&byte| byte == b'/').any(|component| component.starts_with(AUFS)) {
            return Some(Role::AufsLeftover);
        }
        if parent.is_whiteout_below() {
            return None;
        }
        let Some(hidden) = name.strip_prefix(WHITEOUT) else {
            return Some(Role::Plain);
        };
        if matches!(hidden, b"" | b"." | b"..") {
            return None;
        }
        let mut path = parent;
        path.push(hidden);
        Some(Role::Whiteout(path))
    }

    fn is_whiteout_below(&self) -> bool {
        self.0.split(|&byte| byte == b'/').any(|component| component.starts_with(WHITEOUT))
    }
}

/// What an entry's name says about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Something to create.
    Plain,
    /// The path that lower layers have and this one takes away.
    Whiteout(LayerPath),
    /// The directory that hides what lower layers have in it.
    Opaque(LayerPath),
    /// aufs's own bookkeeping; no meaning here.
    AufsLeftover,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(raw: &str) -> Result<String, PathFault> {
        LayerPath::clean(raw.as_bytes()).map(|path| String::from_utf8(path.0).unwrap())
    }

    #[test]
    fn names_are_cleaned_lexically() {
        for (raw, want) in [
            ("./", ""),
            ("/", ""),
            ("", ""),
            (".", ""),
            ("a/..", ""),
            ("./a//b/", "a/b"),
            ("/a/./b", "a/b"),
            ("a/../b", "b"),
            ("a/b/../../c/d/..", "c"),
            ("...", "..."),
        ] {
            assert_eq!(clean(raw).as_deref(), Ok(want), "{raw}");
        }
    }

    #[test]
    fn a_name_that_climbs_is_refused_even_if_it_comes_back() {
        for raw in ["..", "../a", "/..", "a/../..", "a/../../a", "./../x"] {
            assert_eq!(clean(raw), Err(PathFault::Climbs), "{raw}");
        }
        assert_eq!(clean("a\0b"), Err(PathFault::Nul));
    }

    #[test]
    fn links_are_followed_inside_the_root() {
        let base = LayerPath::clean(b"a/b").unwrap();
        assert_eq!(base.follow(b"../x", b"y").bytes(), b"a/x/y");
        assert_eq!(base.follow(b"/etc", b"").bytes(), b"etc");
        assert_eq!(base.follow(b"../../../../etc", b"p").bytes(), b"etc/p");
    }

    #[test]
    fn whiteout_names_have_their_roles() {
        let role = |raw: &str| LayerPath::clean(raw.as_bytes()).unwrap().role();
        let path = |raw: &str| LayerPath::clean(raw.as_bytes()).unwrap();
        assert_eq!(role("a/.wh.b"), Some(Role::Whiteout(path("a/b"))));
        assert_eq!(role(".wh..b"), Some(Role::Whiteout(path(".b"))));
        assert_eq!(role("a/.wh..wh..opq"), Some(Role::Opaque(path("a"))));
        assert_eq!(role(".wh..wh..opq"), Some(Role::Opaque(path(""))));
        assert_eq!(role(".wh..wh.plnk/7.8"), Some(Role::AufsLeftover));
        assert_eq!(role("a/.wh..wh.aufs"), Some(Role::AufsLeftover));
        assert_eq!(role("a/x.wh.b"), Some(Role::Plain));
        for raw in [".wh.", "a/.wh..", "a/.wh...", ".wh.a/b", ".wh.a/.wh..wh..opq"] {
            assert_eq!(role(raw), None, "{raw}");
        }
    }
}
