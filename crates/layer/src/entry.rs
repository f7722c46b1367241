//! One tar entry with everything its headers say about it, checked: what [`crate::apply`] acts on.

use rustix::fs::Timespec;
use tar_core::parse::ParsedEntry;
use tar_core::{EntryType, PaxExtensions, SparseEntry};

use crate::error::printable;
use crate::path::{LayerPath, PathFault};
use crate::{LimitKind, Limits, UnpackError};

pub(crate) struct Entry {
    /// As the tar has it, for messages.
    pub(crate) name: String,
    pub(crate) path: LayerPath,
    pub(crate) attrs: Attrs,
    pub(crate) kind: Kind,
}

pub(crate) struct Attrs {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Permission bits with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) mtime: Timespec,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

pub(crate) enum Kind {
    /// `data` bytes of content follow in the stream.
    File {
        data: u64,
        holes: Option<Sparse>,
    },
    Directory,
    Symlink(Vec<u8>),
    /// The target below the layer root, and as the tar has it.
    HardLink(LayerPath, String),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// Where the content of a sparse file belongs; ordered, disjoint, inside `size`.
pub(crate) struct Sparse {
    pub(crate) size: u64,
    pub(crate) pieces: Vec<SparseEntry>,
}

impl Entry {
    /// Content bytes that follow the headers in the stream.
    pub(crate) fn data(&self) -> u64 {
        match self.kind {
            Kind::File { data, .. } => data,
            Kind::Directory
            | Kind::Symlink(_)
            | Kind::HardLink(..)
            | Kind::Char(..)
            | Kind::Block(..)
            | Kind::Fifo => 0,
        }
    }

    pub(crate) fn new(
        parsed: &ParsedEntry<'_>,
        sparse: Option<Sparse>,
        limits: &Limits,
    ) -> Result<Self, UnpackError> {
        let name = printable(&parsed.path);
        let pax = Pax::read(parsed, &name)?;
        let link = parsed.link_target.as_deref().unwrap_or_default();
        for path in [&*parsed.path, link] {
            check(LimitKind::PathBytes, path.len() as u64, limits.path_bytes, &name)?;
        }
        let path = LayerPath::clean(&parsed.path).map_err(|fault| match fault {
            PathFault::Climbs => UnpackError::Climbs { name: name.clone() },
            PathFault::Nul => bad_name(&name, "name: it contains a NUL byte"),
        })?;
        let xattr_bytes = parsed.xattrs.iter().map(|(key, value)| key.len() + value.len());
        let xattr_bytes = xattr_bytes.sum::<usize>() as u64;
        check(LimitKind::XattrBytes, xattr_bytes, limits.xattr_bytes, &name)?;
        let kind = kind(parsed, sparse, &pax, &name, limits)?;
        let attrs = Attrs {
            uid: id(&name, "user id", parsed.uid)?,
            gid: id(&name, "group id", parsed.gid)?,
            mode: parsed.mode & 0o7777,
            // tar-core reads base-256 as unsigned; the low 64 bits are the signed number.
            mtime: pax.mtime.unwrap_or_else(|| whole_seconds(parsed.mtime.cast_signed())),
            xattrs: parsed.xattrs.iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect(),
        };
        Ok(Self { name, path, attrs, kind })
    }
}

fn kind(
    parsed: &ParsedEntry<'_>,
    sparse: Option<Sparse>,
    pax: &Pax,
    name: &str,
    limits: &Limits,
) -> Result<Kind, UnpackError> {
    let header = parsed.header.as_bytes();
    // Before POSIX a directory was a regular entry (type NUL) whose name ends in a slash.
    let old_directory = header[156] == 0 && parsed.path.ends_with(b"/");
    let is_file = matches!(
        parsed.entry_type,
        EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse
    );
    if sparse.is_some() && (!is_file || old_directory) {
        return Err(bad_sparse(name, "the entry is no file"));
    }
    let device = || (parsed.dev_major.unwrap_or(0), parsed.dev_minor.unwrap_or(0));
    Ok(match parsed.entry_type {
        EntryType::Regular if old_directory => Kind::Directory,
        EntryType::Regular | EntryType::Continuous => {
            let data = match &sparse {
                Some(sparse) => sparse_data(parsed, sparse, pax, name)?,
                None => parsed.size,
            };
            let size = sparse.as_ref().map_or(data, |sparse| sparse.size);
            check(LimitKind::FileBytes, size, limits.file_bytes, name)?;
            Kind::File { data, holes: sparse }
        }
        EntryType::GnuSparse => {
            let sparse = sparse.ok_or_else(|| bad_sparse(name, "it has no map"))?;
            check(LimitKind::FileBytes, sparse.size, limits.file_bytes, name)?;
            Kind::File { data: sparse_data(parsed, &sparse, pax, name)?, holes: Some(sparse) }
        }
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink(link_target(parsed, name)?),
        EntryType::Link => {
            let raw = link_target(parsed, name)?;
            let target = printable(&raw);
            match LayerPath::clean(&raw) {
                Ok(path) => Kind::HardLink(path, target),
                Err(_) => return Err(UnpackError::LinkClimbs { name: name.to_owned(), target }),
            }
        }
        EntryType::Char => Kind::Char(device().0, device().1),
        EntryType::Block => Kind::Block(device().0, device().1),
        EntryType::Fifo => Kind::Fifo,
        EntryType::GnuLongName
        | EntryType::GnuLongLink
        | EntryType::XHeader
        | EntryType::XGlobalHeader
        | EntryType::Other(_) => {
            return Err(UnpackError::UnsupportedType { name: name.to_owned(), kind: header[156] });
        }
    })
}

fn link_target(parsed: &ParsedEntry<'_>, name: &str) -> Result<Vec<u8>, UnpackError> {
    match parsed.link_target.as_deref() {
        None => Err(bad_name(name, "link target: it is empty")),
        Some(target) if target.contains(&0) => {
            Err(bad_name(name, "link target: it contains a NUL byte"))
        }
        Some(target) => Ok(target.to_vec()),
    }
}

/// Checks the map and returns how many content bytes it covers.
fn sparse_data(
    parsed: &ParsedEntry<'_>,
    sparse: &Sparse,
    pax: &Pax,
    name: &str,
) -> Result<u64, UnpackError> {
    let mut covered: u64 = 0;
    let mut end = 0;
    for piece in &sparse.pieces {
        if piece.offset < end {
            return Err(bad_sparse(name, "its pieces overlap or are out of order"));
        }
        end = match piece.offset.checked_add(piece.length) {
            Some(end) if end <= sparse.size => end,
            _ => return Err(bad_sparse(name, "a piece lies behind the end of the file")),
        };
        covered += piece.length;
    }
    // Format 1.0 puts the map before the content and counts both; tar-core takes the map off the
    // header's size, but a PAX size overrides the result with the sum again.
    let stored = match (pax.sparse_1_0, pax.size) {
        (true, Some(size)) if parsed.header.entry_size().ok() == Some(size) => covered,
        (true, Some(_)) => return Err(bad_sparse(name, "the two sizes of the entry differ")),
        (true, None) | (false, _) => parsed.size,
    };
    if covered == stored {
        Ok(covered)
    } else {
        Err(bad_sparse(name, "its pieces do not add up to the content"))
    }
}

fn id(name: &str, field: &'static str, value: u64) -> Result<u32, UnpackError> {
    match u32::try_from(value) {
        // chown takes the largest number as "leave as it is".
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(UnpackError::IdOutOfRange { name: name.to_owned(), field, value }),
    }
}

pub(crate) fn check(
    limit: LimitKind,
    value: u64,
    allowed: u64,
    name: &str,
) -> Result<(), UnpackError> {
    if value <= allowed {
        return Ok(());
    }
    // A name that is itself too long would drown the message.
    let mut entry: String = name.chars().take(NAME_IN_MESSAGE).collect();
    if entry.len() < name.len() {
        entry.push('…');
    }
    Err(UnpackError::Limit { limit, allowed, entry: (!entry.is_empty()).then_some(entry) })
}

const NAME_IN_MESSAGE: usize = 200;

fn bad_name(name: &str, what: &'static str) -> UnpackError {
    UnpackError::BadName { name: name.to_owned(), what }
}

fn bad_sparse(name: &str, reason: &'static str) -> UnpackError {
    UnpackError::Sparse { name: name.to_owned(), reason }
}

/// What tar-core does not say, or says too leniently, about an entry's PAX records. It runs with
/// PAX errors ignored, because it has no negative times; so numbers are checked here.
#[derive(Default)]
struct Pax {
    mtime: Option<Timespec>,
    size: Option<u64>,
    sparse_1_0: bool,
}

impl Pax {
    fn read(parsed: &ParsedEntry<'_>, name: &str) -> Result<Self, UnpackError> {
        let mut pax = Self::default();
        let (mut major, mut minor) = (None, None);
        for record in PaxExtensions::new(parsed.pax.unwrap_or_default()) {
            let Ok((key, value)) = record.map(|record| (record.key_bytes(), record.value_bytes()))
            else {
                break;
            };
            let number = |key| number(name, key, value);
            match key {
                b"mtime" if !value.is_empty() => {
                    let time = time(value).ok_or_else(|| bad_pax(name, "mtime", value))?;
                    pax.mtime = Some(time);
                }
                b"size" => pax.size = number("size")?,
                b"uid" => drop(number("uid")?),
                b"gid" => drop(number("gid")?),
                b"GNU.sparse.major" => major = number("GNU.sparse.major")?,
                b"GNU.sparse.minor" => minor = number("GNU.sparse.minor")?,
                b"GNU.sparse.size" => drop(number("GNU.sparse.size")?),
                b"GNU.sparse.realsize" => drop(number("GNU.sparse.realsize")?),
                b"GNU.sparse.offset" => drop(number("GNU.sparse.offset")?),
                b"GNU.sparse.numbytes" => drop(number("GNU.sparse.numbytes")?),
                _ => {}
            }
        }
        pax.sparse_1_0 = (major, minor) == (Some(1), Some(0));
        Ok(pax)
    }
}

/// An empty value takes the record back, so the header's field counts.
fn number(name: &str, key: &'static str, value: &[u8]) -> Result<Option<u64>, UnpackError> {
    if value.is_empty() {
        return Ok(None);
    }
    let parsed = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    parsed.map(Some).ok_or_else(|| bad_pax(name, key, value))
}

fn bad_pax(name: &str, key: &'static str, value: &[u8]) -> UnpackError {
    UnpackError::Pax { name: name.to_owned(), key, value: printable(value) }
}

fn whole_seconds(tv_sec: i64) -> Timespec {
    Timespec { tv_sec, tv_nsec: 0 }
}

/// Seconds with an optional sign and fraction; digits behind the ninth are cut off.
fn time(value: &[u8]) -> Option<Timespec> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let tv_sec: i64 = whole.parse().ok()?;
    let mut tv_nsec: i64 = 0;
    for place in 0..9 {
        let digit = match fraction.as_bytes().get(place) {
            None => 0,
            Some(digit @ b'0'..=b'9') => i64::from(digit - b'0'),
            Some(_) => return None,
        };
        tv_nsec = tv_nsec * 10 + digit;
    }
    if negative && tv_nsec > 0 {
        // -1.25 s is 0.75 s after -2 s.
        return Some(Timespec { tv_sec: tv_sec.checked_sub(1)?, tv_nsec: 1_000_000_000 - tv_nsec });
    }
    Some(Timespec { tv_sec, tv_nsec })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_signs_and_fractions() {
        for (text, want) in [
            ("0", Some((0, 0))),
            ("1700000000.123456789", Some((1_700_000_000, 123_456_789))),
            ("5.5", Some((5, 500_000_000))),
            ("5.1234567899", Some((5, 123_456_789))),
            ("-1", Some((-1, 0))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-0.5", Some((-1, 500_000_000))),
            ("", None),
            (".5", None),
            ("1e9", None),
            ("1.x", None),
            ("99999999999999999999", None),
        ] {
            let got = time(text.as_bytes()).map(|time| (time.tv_sec, time.tv_nsec));
            assert_eq!(got, want, "{text}");
        }
    }
}
