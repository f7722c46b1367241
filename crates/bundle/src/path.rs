//! Paths inside a container, as text.

/// `/a/b` from `a//b/`, `/a/./b`, `/a/c/../b`: absolute and clean, without looking at any file.
pub(crate) fn clean(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

/// What paths of a request have to be.
pub(crate) const ABSOLUTE: &str = "an absolute path";

/// Whether a path of a request can name a file.
pub(crate) fn is_absolute(path: &str) -> bool {
    path.starts_with('/') && !path.contains('\0')
}

/// How many names a clean path has.
pub(crate) fn depth(clean: &str) -> usize {
    clean.split('/').filter(|name| !name.is_empty()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute_and_never_leave_the_root() {
        for (path, want, names) in [
            ("/", "/", 0),
            ("", "/", 0),
            ("a//b/", "/a/b", 2),
            ("/a/./b", "/a/b", 2),
            ("/a/c/../b", "/a/b", 2),
            ("/../../etc", "/etc", 1),
        ] {
            assert_eq!(clean(path), want);
            assert_eq!(depth(want), names);
        }
    }
}
