//! Where the members of a tar file lie, for archives that are read in another order than
//! written: `docker save`, OCI layouts. Nothing is unpacked.

use std::fs::File;
use std::os::unix::fs::FileExt;

use tar_core::EntryType;
use tar_core::parse::{ParseEvent, Parser};

use crate::tar::size_fits;
use crate::{LimitKind, UnpackError};

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub name: Vec<u8>,
    pub place: Place,
}

/// Where its content is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Bytes of the tar file.
    Here { offset: u64, length: u64 },
    /// Another member, relative to this one's directory unless `hard`.
    At { target: Vec<u8>, hard: bool },
}

const READ_BYTES: usize = 64 * 1024;
const HEADER_MAX: usize = 4 << 20;
const BLOCK: u64 = 512;

/// The regular files and links of a plain tar, at most `max`. Blocks on the disk.
///
/// # Errors
/// [`UnpackError`] for what is no tar.
pub fn members(file: &File, max: u64) -> Result<Vec<Member>, UnpackError> {
    let mut members = Vec::new();
    let (mut at, mut want) = (0, READ_BYTES);
    let mut parser = Parser::new(tar_core::parse::Limits::default());
    parser.set_ignore_pax_errors(true);
    loop {
        let input = read(file, at, want)?;
        if input.is_empty() {
            return Ok(members);
        }
        let event = parser.parse(&input).map_err(|source| UnpackError::Header { at, source })?;
        match event {
            ParseEvent::NeedData { .. } if input.len() < want || want >= HEADER_MAX => {
                return Err(UnpackError::TarTruncated { at, inside: "a header".to_owned() });
            }
            ParseEvent::NeedData { min_bytes } => want = min_bytes.max(want * 2).min(HEADER_MAX),
            ParseEvent::GlobalExtensions { consumed, .. } => at += consumed as u64,
            ParseEvent::End { .. } => return Ok(members),
            ParseEvent::SparseEntry { .. } => {
                return Err(UnpackError::UnsupportedType { name: "sparse".to_owned(), kind: b'S' });
            }
            ParseEvent::Entry { consumed, entry } => {
                size_fits(entry.header.as_bytes(), at)?;
                let offset = at + consumed as u64;
                let place = place(&entry, offset);
                let length = match &place {
                    Some(Place::Here { length, .. }) => *length,
                    Some(Place::At { .. }) | None => 0,
                };
                members.extend(place.map(|place| Member { name: entry.path.to_vec(), place }));
                let name = String::from_utf8_lossy(&entry.path);
                crate::entry::check(LimitKind::Entries, members.len() as u64, max, &name)?;
                at = length
                    .checked_next_multiple_of(BLOCK)
                    .and_then(|padded| offset.checked_add(padded))
                    .ok_or_else(|| UnpackError::TarTruncated { at, inside: name.into_owned() })?;
                want = READ_BYTES;
            }
        }
    }
}

fn place(entry: &tar_core::parse::ParsedEntry<'_>, offset: u64) -> Option<Place> {
    let target = || entry.link_target.as_deref().unwrap_or_default().to_vec();
    match entry.entry_type {
        EntryType::Regular | EntryType::Continuous => {
            Some(Place::Here { offset, length: entry.size })
        }
        EntryType::Symlink => Some(Place::At { target: target(), hard: false }),
        EntryType::Link => Some(Place::At { target: target(), hard: true }),
        _ => None,
    }
}

/// At most `want` bytes from `at` on; less only at the end.
fn read(file: &File, at: u64, want: usize) -> Result<Vec<u8>, UnpackError> {
    let mut bytes = vec![0; want];
    let mut filled = 0;
    while filled < want {
        match file.read_at(&mut bytes[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(UnpackError::Read { at, source }),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn members_are_found_wherever_they_lie() {
        let mut builder = tar::Builder::new(Vec::new());
        let long = format!("{}/f", "d".repeat(150));
        for (name, content) in [("a", "1"), (long.as_str(), "22"), ("empty", "")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "l", "a").unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&builder.into_inner().unwrap()).unwrap();
        let found = members(&file, 10).unwrap();
        let names: Vec<_> = found.iter().map(|m| String::from_utf8_lossy(&m.name)).collect();
        assert_eq!(names, ["a", &long, "empty", "l"]);
        let content = |member: &Member| match &member.place {
            Place::Here { offset, length } => {
                let mut bytes = vec![0; usize::try_from(*length).unwrap()];
                file.read_exact_at(&mut bytes, *offset).unwrap();
                bytes
            }
            Place::At { target, .. } => target.clone(),
        };
        let contents: Vec<_> = found.iter().map(content).collect();
        assert_eq!(contents, [&b"1"[..], b"22", b"", b"a"]);
        assert!(members(&file, 2).is_err());
    }

    #[test]
    fn what_is_no_tar_is_refused() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 2000]).unwrap();
        assert!(members(&file, 10).is_err());
        assert_eq!(members(&tempfile::tempfile().unwrap(), 10).unwrap(), []);
    }
}
