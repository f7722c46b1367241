//! Paths with `*`, `?` and `[a-z]`, which never match a `/`.

use std::path::{Path, PathBuf};

/// Existing paths that fit an absolute pattern, sorted. What cannot be listed has no matches.
pub(super) fn expand(pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/")];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        found = found.iter().flat_map(|dir| step(dir, part)).collect();
    }
    found.sort();
    found
}

fn step(dir: &Path, part: &str) -> Vec<PathBuf> {
    if !part.contains(['*', '?', '[']) {
        let path = dir.join(part);
        return path.symlink_metadata().is_ok().then_some(path).into_iter().collect();
    }
    let fits = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        name.to_str().is_some_and(|name| matches(part, name))
    };
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(fits).map(|entry| entry.path()).collect()
}

/// Whether one name fits one part of a pattern.
fn matches(pattern: &str, name: &str) -> bool {
    let mut rest = pattern.chars();
    let Some(first) = rest.next() else { return name.is_empty() };
    let mut letters = name.chars();
    match first {
        '*' => {
            let after = rest.as_str();
            name.char_indices()
                .map(|(at, _)| at)
                .chain([name.len()])
                .any(|at| name.get(at..).is_some_and(|tail| matches(after, tail)))
        }
        '?' => letters.next().is_some() && matches(rest.as_str(), letters.as_str()),
        '[' => match (rest.as_str().split_once(']'), letters.next()) {
            (Some((class, after)), Some(letter)) => {
                in_class(class, letter) && matches(after, letters.as_str())
            }
            (Some(_), None) | (None, _) => false,
        },
        plain => letters.next() == Some(plain) && matches(rest.as_str(), letters.as_str()),
    }
}

/// `a-z0-9_`, or with a leading `^` everything else.
fn in_class(class: &str, letter: char) -> bool {
    let (class, wanted) = match class.strip_prefix('^') {
        Some(class) => (class, false),
        None => (class, true),
    };
    let members: Vec<char> = class.chars().collect();
    let mut at = 0;
    let mut found = false;
    while let Some(&low) = members.get(at) {
        match (members.get(at + 1), members.get(at + 2)) {
            (Some('-'), Some(&high)) => {
                found |= (low..=high).contains(&letter);
                at += 3;
            }
            _ => {
                found |= low == letter;
                at += 1;
            }
        }
    }
    found == wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_marks_and_classes_match_within_a_name() {
        for (pattern, name, want) in [
            ("sd[a-z]", "sda", true),
            ("sd[a-z]", "sda1", false),
            ("sd[a-z]*", "sda1", true),
            ("*SSD*", "ata-SSD-1", true),
            ("*", "", true),
            ("n?me", "nvme", true),
            ("[^s]da", "vda", true),
            ("[^s]da", "sda", false),
            ("[xs]da", "sda", true),
            ("sd[a", "sda", false),
            ("sd[-a]", "sd-", true),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn patterns_become_the_paths_that_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for name in ["a/x1", "a/x2", "b/x3"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        let names = |pattern: &str| -> Vec<String> {
            let found = expand(&format!("{}/{pattern}", root.display()));
            let name = |path: &PathBuf| path.strip_prefix(&root).unwrap().display().to_string();
            found.iter().map(name).collect()
        };
        assert_eq!(names("*/x[12]"), ["a/x1", "a/x2"]);
        assert_eq!(names("b/x3"), ["b/x3"]);
        assert!(names("c/*").is_empty());
    }
}
