//! Reading an inventory: what the tree should hold in the end.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::rc::Rc;

use super::VerifyError;
use crate::inventory::{VERSIONS, unescape};
use crate::sum::Sum;

/// By real path; the root is the empty one.
pub(super) type Expected = BTreeMap<Vec<u8>, Thing>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Thing {
    pub(super) kind: Kind,
    /// `None` where the layer did not say: implied directories, whiteouts.
    pub(super) attrs: Option<Rc<Attrs>>,
    pub(super) opaque: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File { size: u64, sum: Sum, pieces: Option<Rc<[(u64, u64)]>> },
    Symlink(Rc<[u8]>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    Whiteout,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Attrs {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, i64),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Longer lines are no inventory's: four escaped xattr lists of the default limit, and a path.
const LINE_MAX: u64 = 16 << 20;

pub(super) fn read(mut lines: impl BufRead, checksum: &str) -> Result<Expected, VerifyError> {
    let mut expected = Expected::from([(Vec::new(), directory(None))]);
    let mut hash = blake3::Hasher::new();
    let mut line = Vec::new();
    let (mut number, mut ended) = (0, false);
    loop {
        line.clear();
        let read = std::io::Read::take(&mut lines, LINE_MAX).read_until(b'\n', &mut line);
        if read.map_err(|source| VerifyError::Read { source })? == 0 {
            break;
        }
        hash.update(&line);
        number += 1;
        let damaged = VerifyError::Damaged { line: number };
        let Some(text) = line.strip_suffix(b"\n").filter(|_| !ended) else { return Err(damaged) };
        if number == 1 {
            if !VERSIONS.iter().any(|version| text == version.as_bytes()) {
                return Err(damaged);
            }
        } else if text.starts_with(b"end ") {
            ended = true;
        } else if apply(&mut expected, text).is_none() {
            return Err(damaged);
        }
    }
    if ended && hash.finalize().to_hex().as_str() == checksum {
        Ok(expected)
    } else {
        Err(VerifyError::Damaged { line: number })
    }
}

fn directory(attrs: Option<Rc<Attrs>>) -> Thing {
    Thing { kind: Kind::Directory, attrs, opaque: false }
}

/// Does to `expected` what the line says; `None` if it says nothing sensible.
fn apply(expected: &mut Expected, line: &[u8]) -> Option<()> {
    let mut words = line.split(|byte| *byte == b' ').collect::<Vec<_>>().into_iter();
    let kind = words.next()?;
    let path = path(words.next()?)?;
    match kind {
        b"implied" => drop(expected.insert(path, directory(None))),
        b"whiteout" => {
            let whiteout = Thing { kind: Kind::Whiteout, attrs: None, opaque: false };
            expected.insert(path, whiteout);
        }
        b"opaque" => expected.get_mut(&path)?.opaque = true,
        b"gone" => remove(expected, &path),
        b"hard" => {
            let target = self::path(words.next()?)?;
            let same = expected.get(&target)?.clone();
            expected.insert(path, same);
        }
        b"dir" => {
            let attrs = Some(attrs(&mut words, |_| Some(()))?.0);
            // A directory that comes again keeps what is in it, and its marker.
            expected.entry(path).or_insert_with(|| directory(None)).attrs = attrs;
        }
        other => {
            let (attrs, kind) = attrs(&mut words, |words| self::kind(other, words))?;
            expected.insert(path, Thing { kind, attrs: Some(attrs), opaque: false });
        }
    }
    Some(())
}

fn remove(expected: &mut Expected, path: &[u8]) {
    expected.remove(path);
    let first = [path, b"/"].concat();
    let behind = [path, b"0"].concat();
    let below: Vec<_> = expected.range(first..behind).map(|(path, _)| path.clone()).collect();
    for path in below {
        expected.remove(&path);
    }
}

type Words<'a> = std::vec::IntoIter<&'a [u8]>;

/// The attributes, and between them and the xattrs what `detail` makes of the words there.
fn attrs<'a, T>(
    words: &mut Words<'a>,
    detail: impl FnOnce(&mut Words<'a>) -> Option<T>,
) -> Option<(Rc<Attrs>, T)> {
    let mode = u32::from_str_radix(str::from_utf8(words.next()?).ok()?, 8).ok()?;
    let (uid, gid) = (number(words.next()?)?, number(words.next()?)?);
    let (sec, nsec) = str::from_utf8(words.next()?).ok()?.split_once('.')?;
    let mtime = (sec.parse().ok()?, nsec.parse().ok()?);
    let detail = detail(words)?;
    let pair = |word: &[u8]| {
        let at = word.iter().position(|byte| *byte == b'=')?;
        Some((unescape(&word[..at])?, unescape(&word[at + 1..])?))
    };
    let xattrs = words.map(pair).collect::<Option<_>>()?;
    Some((Rc::new(Attrs { mode, uid, gid, mtime, xattrs }), detail))
}

fn kind(name: &[u8], words: &mut Words<'_>) -> Option<Kind> {
    Some(match name {
        b"file" | b"sparse" => {
            let size = number(words.next()?)?;
            let sum = Sum::parse(words.next()?)?;
            let pieces = if name == b"sparse" { Some(pieces(words.next()?)?) } else { None };
            Kind::File { size, sum, pieces }
        }
        b"link" => Kind::Symlink(unescape(words.next()?)?.into()),
        b"char" | b"block" => {
            let (major, minor) = str::from_utf8(words.next()?).ok()?.split_once(':')?;
            let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
            if name == b"char" { Kind::Char(major, minor) } else { Kind::Block(major, minor) }
        }
        b"fifo" => Kind::Fifo,
        _ => return None,
    })
}

fn pieces(word: &[u8]) -> Option<Rc<[(u64, u64)]>> {
    if word == b"-" {
        return Some(Rc::new([]));
    }
    let piece = |text: &str| {
        let (offset, length) = text.split_once('+')?;
        Some((offset.parse().ok()?, length.parse().ok()?))
    };
    str::from_utf8(word).ok()?.split(',').map(piece).collect()
}

fn number<T: std::str::FromStr>(word: &[u8]) -> Option<T> {
    str::from_utf8(word).ok()?.parse().ok()
}

fn path(word: &[u8]) -> Option<Vec<u8>> {
    if word == b"." { Some(Vec::new()) } else { unescape(word) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::VERSION;

    fn parse(body: &str) -> Result<Expected, VerifyError> {
        let text = format!("{VERSION}\n{body}");
        read(text.as_bytes(), blake3::hash(text.as_bytes()).to_hex().as_str())
    }

    #[test]
    fn later_lines_replace_earlier_ones() {
        let expected = parse(
            "implied a\nfile a/f 644 0 0 1.000000000 0 \
             af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262\n\
             hard a/g a/f\nlink ab 777 1 2 -1.500000000 x%20y\ngone a\nwhiteout a\n\
             dir . 700 0 0 3.000000000 user.k=v%00\nopaque .\nend 7\n",
        )
        .unwrap();
        let paths: Vec<_> = expected.keys().map(|path| str::from_utf8(path).unwrap()).collect();
        assert_eq!(paths, ["", "a", "ab"]);
        assert_eq!(expected[&b"a"[..]].kind, Kind::Whiteout);
        assert_eq!(expected[&b"ab"[..]].kind, Kind::Symlink(b"x y"[..].into()));
        let root = &expected[&b""[..]];
        assert!(root.opaque);
        let xattrs = &root.attrs.as_ref().unwrap().xattrs;
        assert_eq!(xattrs, &[(b"user.k".to_vec(), b"v\0".to_vec())]);
    }

    #[test]
    fn a_changed_or_torn_inventory_is_damaged() {
        let text = format!("{VERSION}\nimplied a\nwhiteout b\nend 2\n");
        let checksum = blake3::hash(text.as_bytes()).to_hex();
        assert!(read(text.as_bytes(), &checksum).is_ok());
        for length in 0..text.len() {
            assert!(read(&text.as_bytes()[..length], &checksum).is_err(), "{length}");
        }
        let other = text.replace("whiteout b", "whiteout c");
        assert!(read(other.as_bytes(), &checksum).is_err());
        assert!(matches!(parse("dir a 755\nend 1\n"), Err(VerifyError::Damaged { line: 2 })));
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_the_reader_panic(line in "[a-z]{0,8}( [ -~]{0,12}){0,9}") {
            let read = apply(&mut Expected::new(), line.as_bytes());
            proptest::prop_assert!(read.is_none() || line.contains(' '));
        }
    }
}
